"""What cannot be done is told before anything is attached: what is wrong with the value seen, what to do about it, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import pytest

from otel_usdt.elf.binary import open_binary
from otel_usdt.errors import BuildIdMismatch, TargetNotFound
from otel_usdt.plan import Binary
from otel_usdt.session import open_pinned
from tests.kernel.commands import Commands
from tests.kernel.errors import ROWS, Row
from tests.kernel.ledger import nonzero
from tests.kernel.processes import Process, family
from tests.kernel.program import Workload, running
from tests.kernel.session import Told, wait_until

pytestmark = pytest.mark.kernel

BCC = "/usr/lib/python3/dist-packages/bcc"


@pytest.fixture(scope="module")
def things(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the rows speak of: two running workloads, one of them stripped, a thread, and files that are no programs."""
    folder = tmp_path_factory.mktemp("things")
    (folder / "text").write_text("hello\n")
    (folder / "cut").write_bytes(program.read_bytes()[:100])
    (folder / "link.jsonl").symlink_to(folder / "elsewhere.jsonl")
    subprocess.run(["strip", "-o", str(folder / "stripped"), str(program)], check=True)
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    with ExitStack() as stack:
        target, stripped = stack.enter_context(running(program)), stack.enter_context(running(folder / "stripped"))
        thread.start()
        stack.callback(thread.join)
        stack.callback(done.set)
        pids = {"pid": target.pid, "stripped": stripped.pid, "thread": thread.native_id, "pytest": os.getpid()}
        yield {"workload": target, "folder": folder, **pids}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_error_is_told_and_nothing_attached(row: Row, things: dict[str, Any], otel_usdt: Commands) -> None:
    """Exit code, message and remedy are the row's; nothing is on standard output, no traceback anywhere, and no probe was on."""

    def filled(words: str) -> str:
        return Template(words).substitute(things)

    if row.config:
        (things["folder"] / "config.yaml").write_text(filled(row.config))
    session = otel_usdt.start(*filled(row.command).split(), through=row.through, environment=dict(row.environment))
    check(session.wait(), row.exit_code, [*map(filled, row.message)], [*map(filled, row.remedy)])
    assert session.out == []
    assert row.through or "without root" not in "".join(session.err)
    assert things["workload"].breakpoints("leaf") == 0
    assert not (things["folder"] / "elsewhere.jsonl").exists()


def check(told: Told, exit_code: int, message: list[str], remedy: list[str]) -> None:
    """It ended with this code, said all these words, and was never attached."""
    found, _, mends = told.stderr.partition("\n  remedy: ")
    assert told.exit_code == exit_code, told.stderr
    assert [words for words in message if words not in found] == [], told.stderr
    assert [words for words in remedy if words not in mends] == [], told.stderr
    assert "Traceback" not in told.stderr
    assert "attached" not in told.stderr.splitlines()


def test_pid_of_a_container_is_recognised(program: Path, otel_usdt: Commands) -> None:
    """A pid that means a process in another pid namespace only: the message has its number out here."""
    inside = 3999991
    script = f"echo {inside - 1} > /proc/sys/kernel/ns_last_pid; {program}; :"  # `:`, or the shell would become the program
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == f'{{"ready": {inside}}}\n'
        outside = next(pid for pid in map(int, _pids()) if _inner_pid(pid) == inside)
        told = otel_usdt.start("trace", "--json", "-p", inside, "func:leaf").wait()
        container.communicate()
    check(told, 4, [f"no process {inside} here; inside another pid namespace it is {outside} (workload)"], [f"-p {outside}"])


def _pids() -> list[str]:
    return [folder.name for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _inner_pid(pid: int) -> int:
    try:
        line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:"))
    except (OSError, StopIteration):
        return 0
    return int(line.split()[-1])


def test_no_bcc_and_no_cached_image(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """Where the image must be made and no Python has the distribution's bcc, the package to install is named."""
    (tmp_path / "empty").mkdir()
    hidden = ("unshare", "-m", "sh", "-c", f'mount --bind {tmp_path}/empty {BCC} && exec "$@"', "sh")
    cache = {"OTEL_USDT_CACHE": str(tmp_path / "cache")}
    assert Path(BCC, "__init__.py").is_file()
    told = otel_usdt.start("trace", "--json", "-p", workload.pid, "func:leaf", through=hidden, environment=cache).wait()
    check(told, 5, ["no kernel image fits this version and machine", "no Python here has"], ["apt-get install python3-bpfcc", "never pip"])
    assert workload.breakpoints("leaf") == 0
    assert Path(BCC, "__init__.py").is_file()


def test_image_is_made_anew_when_the_cached_one_is_torn(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """A cache file that a full disk cut short is replaced, not believed."""
    command, cache = ("count", "--json", "-p", workload.pid, "func:leaf"), {"OTEL_USDT_CACHE": str(tmp_path)}
    otel_usdt.attached(*command, environment=cache).stop()
    (image,) = tmp_path.glob("*.json")
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    session = otel_usdt.attached(*command, environment=cache)
    workload.run("leaf 7")
    assert session.stop().counts["leaf"]["calls"] == 7
    assert image.read_bytes() == whole


def test_binary_that_was_replaced_since_it_was_planned_for(program: Path, tmp_path: Path) -> None:
    """Another inode, or the same with another build id, is not attached to; neither is a file that is gone."""
    copy = tmp_path / "copy"
    copy.write_bytes(program.read_bytes())
    told, status = open_binary(str(program), "program"), program.stat()
    planned = Binary(str(program), "program", told.build_id, status.st_dev, status.st_ino, told.machine)
    for other in (replace(planned, path=str(copy)), replace(planned, build_id="00" * 20)):
        with pytest.raises(BuildIdMismatch, match="program was replaced while it was planned for") as caught:
            open_pinned(other)
        assert caught.value.exit_code == 4
    with pytest.raises(TargetNotFound, match="program is gone since it was planned for"):
        open_pinned(replace(planned, path=str(tmp_path / "gone")))


def test_certificate_that_the_pipeline_may_not_read(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """The planner may read it, the pipeline as nobody may not: it ends with the reason, and the session with it."""
    certificate = tmp_path / "ca.pem"  # in a folder of root's alone
    certificate.write_bytes(Path("/etc/ssl/certs/ca-certificates.crt").read_bytes())
    session = otel_usdt.spans(
        workload.pid, {"function": "leaf"}, export={"otlp": {"endpoint": "https://localhost:4317", "certificate": str(certificate)}}
    )
    told = session.wait()
    assert told.exit_code == 2
    assert f"{certificate}: [Errno 13] Permission denied" in told.stderr
    assert "certificates that the pipeline's user can read" in told.stderr
    assert "Traceback" not in told.stderr
    assert workload.breakpoints("leaf") == 0


def command_of(process: Process) -> str:
    """Its command line, "" when it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " ")
    return ""


@pytest.mark.parametrize("cached", [True, False])
def test_interrupt_while_it_starts(workload: Workload, otel_usdt: Commands, tmp_path: Path, cached: bool) -> None:
    """A terminal's ^C reaches every process of the command, the planner and the compiler too: it ends in good order all the same."""
    cache = {} if cached else {"OTEL_USDT_CACHE": str(tmp_path)}
    command = ("trace", "--json", "-p", workload.pid, "func:leaf")
    session = otel_usdt.start(*command, through=("setsid",), environment=cache)
    child = "otel_usdt.planner" if cached else "compiler.py"
    wait_until(lambda: any(child in command_of(one) for one in family(session)), f"the start of {child}")
    os.killpg(session.pid, signal.SIGINT)
    told = session.wait()
    assert told.exit_code == 0, told.stderr
    assert "Traceback" not in told.stderr
    assert "detached: SIGINT" in told.stderr
    assert nonzero(told.ledger["leaf"]) == {}


def test_target_that_exits_says_so(workload: Workload, otel_usdt: Commands) -> None:
    """The end of the last process in scope ends the session in good order, with all its spans."""
    session = otel_usdt.trace(workload.pid, "func:outer")
    workload.run("outer 13")
    workload.send("vanish")
    told = session.wait()
    assert told.exit_code == 0
    assert "detached: every target process has ended" in told.stderr
    assert len(told.named("outer")) == told.ledger["outer"]["exported"] == 14


def test_output_goes_into_a_file_for_as_long_as_was_asked(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """`--for 1s -o FILE`: trace, count and hist end by themselves, say why, and have written their lines there."""
    workload.send("sleeper 1000000 200")  # it calls all the time, for who knows when each is attached, and ends with the test
    commands = ("trace", "count", "hist")
    sessions = [
        otel_usdt.start(command, "-p", workload.pid, "func:sleeper", "--for", "1s", "-o", tmp_path / command) for command in commands
    ]
    for session in sessions:
        told = session.wait()
        assert (told.exit_code, told.lines) == (0, [])
        assert "detached: lease of 1 s ended" in told.stderr
    trace, count, hist = ([json.loads(line) for line in (tmp_path / command).read_text().splitlines()] for command in commands)
    assert len(trace) - 1 == trace[-1]["ledger"]["sleeper"]["calls"] > 0
    assert count[-1]["calls"] > 0
    assert hist[-1]["count"] > 0
    wait_until(lambda: workload.breakpoints("sleeper") == 0, "the end of the probe")
