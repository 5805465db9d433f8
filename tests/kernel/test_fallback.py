"""Kernels before 6.13 have no uprobe sessions, and before 6.6 no uprobe_multi: there entry and return are links of their own, and
there each probe is a perf event. The same sessions by those ways, forced on this kernel."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.processes import supervisor
from tests.kernel.program import Workload
from tests.kernel.session import Session

pytestmark = pytest.mark.kernel

# The supervisor on a kernel that loads programs of the attach types for uprobe_multi, and does not link them all: 6.1 links none. The
# command that the tests' Session appends is `python -m otel_usdt.cli.entry run CONFIG`; its last word is what matters here.
AN_OLDER_KERNEL = """
import errno, os, sys
from otel_usdt import supervisor
from otel_usdt.probes import syscalls

link_uprobes = syscalls.link_uprobes

def link_uprobes_as_it_was(program, attach_type, *arguments, **named):
    if str(attach_type) in sys.argv[1].split(","):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return link_uprobes(program, attach_type, *arguments, **named)

syscalls.link_uprobes = link_uprobes_as_it_was
sys.exit(supervisor.main([sys.argv[-1]]))
"""
REFUSED = {"6.1": "48,57", "6.6": "57"}  # attach types: BPF_TRACE_UPROBE_MULTI, BPF_TRACE_UPROBE_SESSION
FUNCTIONS = ("outer", "middle", "leaf", "descend", "thrower", "tail_outer", "tail_middle", "tail_leaf")


def on_kernel(version: str) -> tuple[str, ...]:
    """What to start a command through, so that it finds what that kernel has."""
    return (sys.executable, "-P", "-c", AN_OLDER_KERNEL, REFUSED[version])


def links(session: Session) -> int:
    """How many the supervisor holds."""
    return sum("bpf_link" in one or "bpf-link" in one for one in supervisor(session).descriptors())


def spans(otel_usdt: Commands, pid: int, *probes: dict[str, str], scope: str = "pid", version: str = "6.1") -> Session:
    """A session as on that kernel: before 6.6 it holds a link for each end of each probe."""
    session = otel_usdt.run({"targets": [{"select": {"pid": pid}, "scope": scope, "spans": list(probes)}]}, through=on_kernel(version))
    if version == "6.1":
        assert links(session) >= 2 * len(probes)
    else:
        assert links(session) == 4  # entries, returns, and the tracepoints of a thread's and a program's end
    return session


@pytest.mark.parametrize("version", REFUSED)
def test_pairing_is_exact_on_older_kernels_too(workload: Workload, otel_usdt: Commands, version: str) -> None:
    """Nested, recursive, unwound and tail calls: the counts and depths that the program makes."""
    session = spans(otel_usdt, workload.pid, *({"function": name} for name in FUNCTIONS), version=version)
    workload.run("outer 101")
    workload.run("descend 7 60")
    workload.run("thrower 11 5")  # and a leaf
    workload.run("tail 53")
    told = session.stop()
    check_closed(told.ledger)
    unwound = {"entries": 55, "unwound": 55}
    assert {name: nonzero(c) for name, c in told.ledger.items()} == {
        "outer": all_exported(101),
        "middle": all_exported(101),
        "leaf": all_exported(4 * 101 + 1),
        "descend": all_exported(7 * 60),
        "thrower": unwound,
        **{name: all_exported(53) for name in FUNCTIONS if name.startswith("tail_")},
    }
    by_id = {span["span_id"]: span for span in told.spans}
    parents = Counter((span["name"], by_id.get(span["parent_span_id"], {"name": ""})["name"]) for span in told.spans)
    assert parents == {
        ("outer", ""): 101,
        ("middle", "outer"): 101,
        ("leaf", "middle"): 303,
        ("leaf", "outer"): 101,
        ("leaf", ""): 1,
        ("descend", ""): 7,
        ("descend", "descend"): 7 * 59,
        ("tail_outer", ""): 53,
        ("tail_middle", "tail_outer"): 53,
        ("tail_leaf", "tail_middle"): 53,
    }


def test_semaphores_and_children_by_perf_events_too(workload: Workload, otel_usdt: Commands) -> None:
    """A USDT pair behind semaphores is heard, in children as well that fork after the attach; then all is as it was."""
    session = spans(
        otel_usdt,
        workload.pid,
        {"name": "guarded", "enter": "usdt:workload:guarded__start", "return": "usdt:workload:guarded__done"},
        {"name": "leaf", "function": "leaf"},
        scope="tree",
    )
    assert workload.run("guarded 43")["heard"] == 43
    assert workload.run("forks 5 7")["well"]
    told = session.stop()
    check_closed(told.ledger)
    assert {name: nonzero(c) for name, c in told.ledger.items()} == {"guarded": all_exported(43), "leaf": all_exported(43 + 35)}
    assert workload.run("semaphores") == {"command": "semaphores", "start": 0, "done": 0}
    assert (workload.breakpoints("leaf"), workload.breakpoints("guarded")) == (0, 0)


def test_kernel_without_uprobe_events(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """Where there is no PMU for uprobes either, that is said, with what such a kernel lacks."""
    empty = tmp_path / "empty"
    empty.mkdir()
    hidden = ("unshare", "-m", "sh", "-c", f'mount --bind {empty} /sys/bus/event_source/devices && exec "$@"', "sh")
    config = otel_usdt.write({"targets": [{"select": {"pid": workload.pid}, "spans": [{"function": "leaf"}]}]})
    told = otel_usdt.start("run", config, through=(*hidden, *on_kernel("6.1"))).wait()
    message, _, remedy = told.stderr.partition("\n  remedy: ")
    assert told.exit_code == 5
    assert "no uprobe PMU: /sys/bus/event_source/devices/uprobe/type cannot be read" in message
    assert "CONFIG_UPROBE_EVENTS" in remedy
    assert "attached" not in told.stderr.splitlines()
    assert "Traceback" not in told.stderr
    assert workload.breakpoints("leaf") == 0
