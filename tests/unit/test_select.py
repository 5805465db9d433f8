"""Which processes: real ones, and a made-up /proc for what is hard to bring about."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from otel_usdt.errors import TargetNotFound
from otel_usdt.targets.select import descendants, parent, roots, select

SLEEP = Path("/usr/bin/sleep")


@dataclass(frozen=True)
class Wanted:
    pid: int | None = None
    exe_path: str | None = None


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block. When Popen returns, its executable is the command's already."""
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process whose executable nobody else runs."""
    program = tmp_path / "unusual-sleeper"
    program.write_bytes(SLEEP.read_bytes())
    program.chmod(0o755)
    with running(program, "60") as process:
        yield process.pid, program


def fake(proc: Path, pid: int, above: int, *, exe: str = "/bin/x", status: str | None = None, cmdline: bytes = b"x\0") -> None:
    """A process in a made-up /proc, with a name that tries to look like the end of its name."""
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "stat").write_text(f"{pid} (a) R 999 (b) S {above} 1 1")
    (proc / str(pid) / "status").write_text(f"Name:\tx\nTgid:\t{pid}\n{status or ''}")
    (proc / str(pid) / "cmdline").write_bytes(cmdline)
    (proc / str(pid) / "exe").symlink_to(exe)


def test_processes_are_found_by_the_path_of_their_executable(sleeper: tuple[int, Path]) -> None:
    """The glob is on the whole path, and * crosses slashes."""
    pid, program = sleeper
    assert select(Wanted(exe_path=str(program))) == [pid]
    assert select(Wanted(exe_path=f"*/{program.name[:9]}*")) == [pid]


def test_a_deleted_executable_is_still_found(sleeper: tuple[int, Path]) -> None:
    """A program replaced by its package's update runs on under its old path."""
    pid, program = sleeper
    program.unlink()
    assert select(Wanted(exe_path=str(program))) == [pid]


def test_all_criteria_must_hold(sleeper: tuple[int, Path]) -> None:
    """A pid that runs another program than asked for is refused, and the message says which it runs."""
    pid, program = sleeper
    assert select(Wanted(pid=pid, exe_path=str(program))) == [pid]
    with pytest.raises(TargetNotFound, match=f"process {pid} runs {program}, not /bin/other"):
        select(Wanted(pid=pid, exe_path="/bin/other"))


def test_a_near_miss_is_named(sleeper: tuple[int, Path]) -> None:
    """When nobody runs it, processes of a like name are told."""
    pid, program = sleeper
    with pytest.raises(TargetNotFound, match=rf"no process runs /opt/unusual-sleepr; near: {program} \(pid {pid}\)"):
        select(Wanted(exe_path="/opt/unusual-sleepr"))


def test_a_binary_alone_selects_no_process() -> None:
    """Scope binary needs none."""
    assert select(Wanted()) == []


def test_a_pid_that_is_gone_is_not_found() -> None:
    """The process may have ended."""
    with subprocess.Popen([SLEEP, "0"]) as process:
        process.wait()
    with pytest.raises(TargetNotFound, match=f"there is no process {process.pid}"):
        select(Wanted(pid=process.pid))


def test_a_thread_is_no_process() -> None:
    """/proc has a folder for a thread's id too; the message has the process's."""
    program = "import threading, time; t = threading.Thread(target=time.sleep, args=(60,)); t.start(); print(t.native_id, flush=True)"
    with running(sys.executable, "-c", program) as process:
        assert process.stdout is not None
        thread = int(process.stdout.readline())
        with pytest.raises(TargetNotFound, match=f"{thread} is a thread of process {process.pid}"):
            select(Wanted(pid=thread))


def test_the_tools_own_processes_are_never_selected(tmp_path: Path) -> None:
    """Neither this process nor one that runs otel-usdt, by whatever interpreter."""
    with pytest.raises(TargetNotFound, match="otel-usdt itself"):
        select(Wanted(pid=os.getpid()))
    python = "/usr/bin/python3"
    for pid, cmdline in enumerate(
        [b"python3\0-m\0otel_usdt.planner\0", b"/v/bin/python3\0-I\0/v/bin/otel-usdt\0run\0", b"otel-usdt\0", b"python3\0app.py\0otel\0"],
        10,
    ):
        fake(tmp_path, pid, 1, exe=python, cmdline=cmdline)
    assert select(Wanted(exe_path=python), proc=str(tmp_path)) == [13]


def test_a_pid_of_a_container_is_told_by_its_number_outside(tmp_path: Path) -> None:
    """Who took the pid from inside the container gets the host's."""
    fake(tmp_path, 4123, 1, exe="/bin/app", status="NSpid:\t4123\t7\n")
    with pytest.raises(TargetNotFound, match=r"no process 7 here; inside its container that is the number of 4123 \(/bin/app\)"):
        select(Wanted(pid=7), proc=str(tmp_path))


def test_roots_are_those_whose_parent_is_not_selected(tmp_path: Path) -> None:
    """Of a postmaster and its backends, the postmaster."""
    for pid, above in [(1, 0), (10, 1), (11, 10), (12, 10), (13, 11), (20, 1)]:
        fake(tmp_path, pid, above)
    assert roots([10, 11, 12, 20], proc=str(tmp_path)) == [10, 20]
    assert roots([11, 12], proc=str(tmp_path)) == [11, 12]
    assert descendants(10, proc=str(tmp_path)) == [10, 11, 12, 13]
    assert descendants(99, proc=str(tmp_path)) == []


def test_descendants_are_found_among_real_processes() -> None:
    """A shell's children and theirs, and the shell itself."""
    with running("/bin/sh", "-c", "/bin/sh -c 'sleep 60 & echo; wait' & wait") as process:
        assert process.stdout is not None
        process.stdout.readline()
        family = descendants(process.pid)
        try:
            assert len(family) == 3
            assert roots(family) == [process.pid]
            assert parent(process.pid) == os.getpid()
        finally:
            for pid in family[1:]:
                os.kill(pid, 9)
