"""The blast radius: which processes have a file mapped executable, and so would trap on a probe in it. Standard library only."""

from __future__ import annotations

import os
import re
from pathlib import Path

from otel_usdt.targets.select import pids


def who_maps(device: int, inode: int, proc: str = "/proc") -> set[int]:
    """Pids that map the file `st_dev`, `st_ino` with the right to execute it. Processes that vanish or may not be read are passed over.

    On btrfs and overlayfs /proc/PID/maps has another device than stat gives; there the mapping itself is asked which file it is.
    """
    wanted = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ..x. [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) %d\s" % inode)
    needle = b" %d" % inode  # nearly no line has the file: a search for bytes is the quickest way to know
    found: set[int] = set()
    for pid in pids(proc):
        try:
            with Path(f"{proc}/{pid}/maps").open("rb") as maps:  # line by line: a process may have gigabytes of them
                lines = (wanted.match(line) for line in maps if needle in line)
                if any(line and _is_file(line, device, inode, f"{proc}/{pid}/map_files") for line in lines):
                    found.add(pid)
        except OSError:
            continue  # also ESRCH: it ended while we read
    return found


def _is_file(line: re.Match[bytes], device: int, inode: int, map_files: str) -> bool:
    low, high, major, minor = (int(number, 16) for number in line.groups())
    if os.makedev(major, minor) == device:
        return True
    try:
        mapped = Path(f"{map_files}/{low:x}-{high:x}").stat()
    except OSError:
        return False
    return (mapped.st_dev, mapped.st_ino) == (device, inode)
