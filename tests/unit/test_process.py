"""What /proc says of processes: real children of the test, and a /proc of the test's own where real ones would need rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_usdt.errors import NotPermitted, TargetNotFound
from otel_usdt.targets import process
from otel_usdt.targets.process import binaries_of, mappings, namespace_pids, resolve_pid, start_time


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A copy of /bin/sleep, running."""
    copy = tmp_path / "my sleep\n(deleted)"  # a name that /proc/PID/maps must escape, and that a careless reader takes for deleted
    shutil.copy("/bin/sleep", copy)
    with subprocess.Popen([copy, "60"]) as child:
        # Until exec is through the child is still a copy of the test, and until the loader is, libc is not mapped.
        deadline = time.monotonic() + 60
        while "libc" not in Path(f"/proc/{child.pid}/maps").read_text() or Path(f"/proc/{child.pid}/exe").readlink() != copy:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        yield child.pid, copy
        child.kill()


def test_the_program_comes_first_and_its_libraries_after(sleeper: tuple[int, Path]) -> None:
    """Every executable file is listed once, opens, and is the mapped one."""
    pid, copy = sleeper
    program, *libraries = binaries_of(pid)
    assert (program.name, program.open_path, program.deleted) == (str(copy), f"/proc/{pid}/exe", False)
    assert any("/libc" in one.name for one in libraries)
    assert len({(one.device, one.inode) for one in (program, *libraries)}) == 1 + len(libraries)
    for one in (program, *libraries):
        status = Path(one.open_path).stat()
        assert status.st_ino == one.inode
        assert status.st_ino == Path(one.name).stat().st_ino
        assert Path(one.open_path).read_bytes()[:4] == b"\x7fELF"


def test_a_deleted_program_still_opens(sleeper: tuple[int, Path]) -> None:
    """A program that was replaced or removed while it runs is read through /proc/PID/exe."""
    pid, copy = sleeper
    content = copy.read_bytes()
    copy.unlink()
    program = binaries_of(pid)[0]
    assert (program.name, program.deleted) == (str(copy), True)
    assert Path(program.open_path).read_bytes() == content


def test_a_replaced_library_is_opened_as_it_was_mapped(tmp_path: Path) -> None:
    """When another file has taken the mapped one's path, the mapped one is opened, not the newcomer."""
    library = tmp_path / "lib.so"
    shutil.copy("/bin/sleep", library)
    original = library.stat().st_ino
    text = (
        f"import mmap,sys; f = open({str(library)!r}, 'rb'); m = mmap.mmap(f.fileno(), 4096, prot=5); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        before = next(one for one in binaries_of(child.pid) if one.name == str(library))
        (tmp_path / "new").write_bytes(b"newcomer")
        (tmp_path / "new").rename(library)
        (after,) = (one for one in binaries_of(child.pid) if one.inode == original)
        child.kill()
    assert before.open_path == f"/proc/{child.pid}/root{library}"
    assert after.open_path.startswith(f"/proc/{child.pid}/map_files/")
    assert after.deleted


def test_mappings_are_executable_and_of_files() -> None:
    """Only code counts: each has an address range, an offset and the file's own inode."""
    found = mappings(os.getpid())
    assert found
    for one in found:
        assert one.executable
        assert one.start < one.end
        assert one.inode == Path(one.path).stat().st_ino
    assert str(Path("/proc/self/exe").resolve()) in {one.path for one in found}


def test_start_time_tells_processes_of_one_pid_apart(sleeper: tuple[int, Path]) -> None:
    """The start is that of stat's field 22, whatever the process is called, and does not change."""
    pid, _ = sleeper
    hertz = os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - start_time(pid) / hertz
    assert 0 <= age < 90
    assert start_time(pid) == start_time(pid) >= start_time(os.getpid())


def test_pids_that_are_gone_or_none_are_not_found() -> None:
    """A pid that ended, and a number that is no pid."""
    with subprocess.Popen(["/bin/true"]) as child:
        pid = child.pid
    for ask in (resolve_pid, mappings, start_time, binaries_of):
        with pytest.raises(TargetNotFound, match=f"no process {pid}"):
            ask(pid)
    for none in (0, -1):
        with pytest.raises(TargetNotFound, match="no pid"):
            resolve_pid(none)


def test_a_thread_leads_to_its_process() -> None:
    """A thread's id names no process; the message names the one it belongs to."""
    told = threading.Event()
    thread = threading.Thread(target=told.wait)
    thread.start()
    try:
        with pytest.raises(TargetNotFound, match=f"{thread.native_id} is a thread of process {os.getpid()}") as caught:
            resolve_pid(thread.native_id or 0)
        assert caught.value.hint == f"give the process: -p {os.getpid()}"
    finally:
        told.set()
        thread.join()
    assert resolve_pid(os.getpid()) == os.getpid()
    assert namespace_pids(os.getpid())[0] == os.getpid()


def test_a_containers_own_pid_leads_to_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid that exists only inside another pid namespace is answered with the host's pids for it."""
    for pid, inner in ((500, "500\t7"), (501, "501\t7"), (502, "502\t8"), (7000, "7000")):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "status").write_text(f"Name:\tx\nTgid:\t{pid}\nNSpid:\t{inner}\n")
        (folder / "comm").write_text("orders\n")
    monkeypatch.setattr(process, "_PROC", tmp_path)
    with pytest.raises(TargetNotFound, match=r"no process 7 here; .* it is 500 \(orders\), 501 \(orders\)") as caught:
        resolve_pid(7)
    assert "-p 500" in caught.value.hint
    assert namespace_pids(500) == (500, 7)
    assert resolve_pid(7000) == 7000


def test_processes_of_others_are_not_permitted() -> None:
    """Without rights the error says so, and not that there is no such process."""
    rights = os.geteuid()
    if rights == 0:
        os.seteuid(65534)
    try:
        for ask in (mappings, binaries_of):
            with pytest.raises(NotPermitted, match="no right to look into process 1"):
                ask(1)
    finally:
        os.seteuid(rights)


def test_a_process_without_a_program_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of the kernel, or a zombie, maps nothing and has no program."""
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "maps").touch()
    monkeypatch.setattr(process, "_PROC", tmp_path)
    with pytest.raises(TargetNotFound, match="process 2 runs no program"):
        binaries_of(2)
