"""Whatever happens to us, the program is left as it was; and of our processes each can do no more than it must."""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.kernel.commands import Commands
from tests.kernel.leaks import BPF_LINK_GET_NEXT_ID, bpf_ids
from tests.kernel.ledger import check_closed, nonzero
from tests.kernel.processes import family, pipeline, resident_together, supervisor
from tests.kernel.program import Workload
from tests.kernel.session import wait_until

pytestmark = pytest.mark.kernel

GUARDED = "usdt:workload:guarded__start ~~ usdt:workload:guarded__done"


def test_probes_are_gone_after_a_clean_stop(workload: Workload, otel_usdt: Commands) -> None:
    """The code in the target's memory is byte for byte the file's again."""
    session = otel_usdt.trace(workload.pid, "func:leaf", "func:outer", GUARDED)
    assert [workload.breakpoints(name) for name in ("leaf", "outer", "guarded", "middle")] == [1, 1, 2, 0]
    session.stop()
    assert [workload.breakpoints(name) for name in ("leaf", "outer", "guarded", "middle")] == [0, 0, 0, 0]


def test_sigkill_of_the_supervisor_detaches(workload: Workload, otel_usdt: Commands) -> None:
    """No probe, no raised semaphore, no link is left, and the pipeline ends by itself."""
    before = set(bpf_ids(BPF_LINK_GET_NEXT_ID))
    session = otel_usdt.trace(workload.pid, "func:leaf", GUARDED)
    workload.run("guarded 7")
    assert workload.run("semaphores") == {"command": "semaphores", "start": 1, "done": 1}
    killed, left = supervisor(session), pipeline(session)
    links = set(bpf_ids(BPF_LINK_GET_NEXT_ID)) - before
    assert links
    os.kill(killed.pid, signal.SIGKILL)
    wait_until(lambda: workload.breakpoints("leaf") + workload.breakpoints("guarded") == 0, "the end of the probes")
    wait_until(lambda: workload.run("semaphores") == {"command": "semaphores", "start": 0, "done": 0}, "the end of the semaphores")
    wait_until(lambda: not links & set(bpf_ids(BPF_LINK_GET_NEXT_ID)), "the end of the links")
    wait_until(lambda: not left.alive(), "the end of the pipeline")
    told = session.wait()
    assert told.exit_code != 0
    assert len(told.named("leaf")) == 7  # the pipeline has flushed what was in the ring
    workload.run("leaf 3")


@pytest.mark.parametrize("shown", [["--json"], []], ids=["json", "text"])
def test_sigkill_of_the_command_detaches(workload: Workload, otel_usdt: Commands, shown: list[str]) -> None:
    """The command that an operator started is gone, by whatever hand: so are its probes and processes, also where another draws."""
    session = otel_usdt.attached("trace", "-p", workload.pid, *shown, "func:leaf", GUARDED)
    ours = family(session)
    assert len(ours) == (2 if shown else 3)
    session.process.kill()
    wait_until(lambda: not any(one.alive() for one in ours), "the end of all processes")
    wait_until(lambda: workload.breakpoints("leaf") == 0, "the end of the probe")
    wait_until(lambda: workload.run("semaphores") == {"command": "semaphores", "start": 0, "done": 0}, "the end of the semaphores")


@pytest.fixture
def silent_collector() -> Iterator[int]:
    """A port where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_detaches_first_and_flushes_then(workload: Workload, otel_usdt: Commands, silent_collector: int, number: int) -> None:
    """While the pipeline still tries to deliver to a collector that does not answer, the probes are off already."""
    export = {
        "otlp": {"endpoint": f"http://127.0.0.1:{silent_collector}", "protocol": "http/protobuf", "timeout": "3s"},
        "console": {"view": "all"},
    }
    session = otel_usdt.spans(workload.pid, {"name": "leaf", "function": "leaf"}, export=export)
    workload.run("leaf 13")
    flushing = pipeline(session)
    session.process.send_signal(number)
    wait_until(lambda: workload.breakpoints("leaf") == 0, "the end of the probe")
    assert flushing.alive()
    told = session.wait()
    check_closed(told.ledger)
    c = nonzero(told.ledger["leaf"])
    assert (c["calls"], c["recorded"], c.get("queued", 0)) == (13, 13, 0)


def test_lease_ends_the_session(workload: Workload, otel_usdt: Commands) -> None:
    """With `ttl: 1s` the session ends by itself, in good order."""
    workload.send("sleeper 1000000 200")  # it calls all the time, from before the attach, and ends with the test
    lease = {"ttl": "1s", "owner": "tests", "reason": "a test"}
    told = otel_usdt.spans(workload.pid, {"name": "sleeper", "function": "sleeper"}, lease=lease).wait()
    assert told.exit_code == 0
    assert "detached: lease of 1 s ended" in told.stderr
    check_closed(told.ledger)
    assert told.ledger["sleeper"]["exported"] == told.ledger["sleeper"]["calls"] == len(told.spans) > 0
    assert workload.breakpoints("sleeper") == 0


def test_pipeline_has_no_rights(workload: Workload, otel_usdt: Commands) -> None:
    """It runs as nobody, has no capability in any set that counts, and no way to gain one."""
    session = otel_usdt.trace(workload.pid, "func:leaf")
    workload.run("leaf 3")
    wait_until(lambda: bool(session.out), "a span: the last right goes before anything is read")
    one, nobody = pipeline(session), pwd.getpwnam("nobody")
    assert one.status("Uid").split() == [str(nobody.pw_uid)] * 4
    assert one.status("Gid").split() == [str(nobody.pw_gid)] * 4
    assert one.status("Groups") == ""
    assert {name: int(one.status(name), 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {
        "CapInh": 0,
        "CapPrm": 0,
        "CapEff": 0,
        "CapAmb": 0,
    }
    assert one.status("NoNewPrivs") == "1"


def test_pipeline_holds_no_probe(workload: Workload, otel_usdt: Commands) -> None:
    """Neither links, perf events nor programs are among its descriptors: it can attach and detach nothing."""
    session = otel_usdt.trace(workload.pid, "func:leaf")
    assert not [d for d in pipeline(session).descriptors() if re.search("link|perf|bpf-prog", d)]


def test_supervisor_holds_the_standard_library_alone(workload: Workload, otel_usdt: Commands) -> None:
    """None of the heavy or hostile-input libraries is in its memory, and it has no socket to a network."""
    session = otel_usdt.trace(workload.pid, "func:leaf")
    one = supervisor(session)
    heavy = re.compile(r"numpy|grpc|libbcc|LLVM|yaml|pydantic|capstone|protobuf|upb")
    assert not [name for name in one.files() if heavy.search(name)]
    assert not [name for name in one.files() if "site-packages" in name or "dist-packages" in name]


def test_both_processes_stay_under_80_megabytes(workload: Workload, otel_usdt: Commands) -> None:
    """Supervisor and pipeline together, attached and after some spans, with gRPC in use."""
    session = otel_usdt.run(
        {
            "targets": [
                {"select": {"pid": workload.pid}, "spans": [{"name": name, "function": name} for name in ("outer", "middle", "leaf")]}
            ],
            "export": {"console": {"view": "all"}, "otlp": {"endpoint": "http://127.0.0.1:9", "protocol": "grpc"}},
        }
    )
    both = supervisor(session), pipeline(session)
    assert resident_together(*both) < 80e6
    workload.run("outer 1009")
    wait_until(lambda: len(session.lines()) == 6 * 1009, "the spans")
    assert resident_together(*both) < 80e6


def test_setjmp_is_counted_but_its_return_left_alone(workload: Workload, otel_usdt: Commands) -> None:
    """With a return probe on setjmp the first longjmp would end the program (tried: SIGILL). Asked for all of it, the rest is probed."""
    probes = (
        {"function": "libc.so.6:func:*setjmp*", "mode": "histogram"},
        {"name": "counted", "function": "libc.so.6:func:_setjmp", "mode": "count"},
    )
    session = otel_usdt.spans(workload.pid, *probes)
    workload.run("thrower 13")
    told = session.stop()
    check_closed(told.ledger)
    assert "_setjmp returns twice" in told.stderr
    assert told.ledger["counted"]["entries"] == 13
    workload.run("leaf 1")  # it lives
