"""The blast radius: who maps a file executable."""

from __future__ import annotations

import mmap
import os
import subprocess
import time
from pathlib import Path

from otel_usdt.targets.mapped import who_maps


def of(path: str | Path, proc: str = "/proc") -> set[int]:
    at = Path(path).stat()
    return who_maps(at.st_dev, at.st_ino, proc)


def test_all_processes_that_run_a_file_are_found(tmp_path: Path) -> None:
    """Two processes of one copied program, and nobody else."""
    program = tmp_path / "sleeper"
    program.write_bytes(Path("/usr/bin/sleep").read_bytes())
    program.chmod(0o755)
    assert of(program) == set()
    with subprocess.Popen([program, "60"]) as one, subprocess.Popen([program, "60"]) as two:
        try:
            while not all(Path(f"/proc/{process.pid}/cmdline").read_bytes() for process in (one, two)):  # in the middle of their exec
                time.sleep(0.001)
            assert of(program) == {one.pid, two.pid}
        finally:
            one.kill()
            two.kill()
    assert of(program) == set()


def test_a_library_is_found_in_this_process() -> None:
    """libc, or whatever this Python has mapped to execute."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    library = next(line.split()[-1] for line in maps if " r-xp " in line and line.split()[-1].startswith("/"))
    assert os.getpid() in of(library)


def test_a_file_mapped_only_to_read_is_not_counted(tmp_path: Path) -> None:
    """A process that reads a file through a mapping never executes a probe in it."""
    file = tmp_path / "file"
    file.write_bytes(bytes(8192))
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ):
        assert str(file) in Path("/proc/self/maps").read_text()
        assert of(file) == set()
        with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC):
            assert of(file) == {os.getpid()}


def test_where_maps_has_another_device_the_mapping_itself_is_asked(tmp_path: Path) -> None:
    """On btrfs and overlayfs the inode agrees and the device does not; another file of the same inode number is told apart."""
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("a")
    other.write_text("b")
    inode = file.stat().st_ino
    for pid, mapped in [(10, file), (11, other), (12, None)]:
        (tmp_path / f"proc/{pid}/map_files").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/maps").write_text(f"00001000-00002000 r-xp 00000000 ff:ff {inode}                  /x\n")
        if mapped:
            (tmp_path / f"proc/{pid}/map_files/1000-2000").symlink_to(mapped)
    (tmp_path / "proc/13").mkdir()  # gone before its maps were read
    assert of(file, str(tmp_path / "proc")) == {10}


def test_an_inode_number_is_matched_whole(tmp_path: Path) -> None:
    """12 is not 123, nor part of an offset."""
    file = tmp_path / "file"
    file.write_text("a")
    at = file.stat()
    (tmp_path / "proc/10").mkdir(parents=True)
    device = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}"
    (tmp_path / "proc/10/maps").write_text(f"1000-2000 r-xp 0 {device} {at.st_ino}7 /x\n3000-4000 r-xp 0 {device} 5 / {at.st_ino} x\n")
    assert of(file, str(tmp_path / "proc")) == set()
