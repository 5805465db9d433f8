"""What /proc says of a process: which files it maps, from where they open, and whether the pid is what the user takes it for.

Standard library only. Source: proc_pid_maps(5), proc_pid_stat(5), pid_namespaces(7).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from otel_usdt.errors import NotPermitted, TargetNotFound

_PROC = Path("/proc")
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) +(/.*)")
_OCTAL = re.compile(r"\\(\d{3})")
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Mapping:
    """An executable mapping of a file: addresses in the process, `offset` into the file. `path` as the process sees it."""

    path: str
    device: int
    inode: int
    start: int
    end: int
    offset: int
    executable: bool
    deleted: bool


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file whose code a process maps. `name` is its path as the process sees it, `open_path` opens that very file from here."""

    name: str
    open_path: str
    device: int
    inode: int
    deleted: bool


def mappings(pid: int) -> list[Mapping]:
    """The executable mappings of files, the first of each file, by address. TargetNotFound, NotPermitted."""
    found: dict[tuple[int, int], Mapping] = {}
    for line in _read(pid, "maps").splitlines():
        match = _LINE.fullmatch(line)
        if not match or match[3][2] != "x" or match[7] == "0":
            continue
        path = _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), match[8])  # the kernel writes newlines as \012
        deleted = path.endswith(_DELETED)
        device, inode = os.makedev(int(match[5], 16), int(match[6], 16)), int(match[7])
        start, end, offset = int(match[1], 16), int(match[2], 16), int(match[4], 16)
        one = Mapping(path.removesuffix(_DELETED) if deleted else path, device, inode, start, end, offset, True, deleted)
        found.setdefault((device, inode), one)
    return list(found.values())


def binaries_of(pid: int) -> list[MappedFile]:
    """The process's program, then the libraries it maps, in the order of their addresses. TargetNotFound, NotPermitted."""
    mapped = mappings(pid)
    exe = _PROC / str(pid) / "exe"
    try:
        name, status = str(exe.readlink()), exe.stat()
    except PermissionError as error:
        raise NotPermitted(f"no right to look into process {pid}") from error
    except OSError as error:
        raise TargetNotFound(f"process {pid} runs no program: it has ended, or it is a thread of the kernel") from error
    gone = name.endswith(_DELETED)
    program = MappedFile(name.removesuffix(_DELETED) if gone else name, str(exe), status.st_dev, status.st_ino, gone)
    # By path and inode as well: on btrfs and overlayfs the map's device is not the one that stat gives.
    same = {(program.device, program.inode), (program.name, program.inode)}
    others = [one for one in mapped if not same & {(one.device, one.inode), (one.path, one.inode)}]
    return [program, *(MappedFile(one.path, _open_path(pid, one), one.device, one.inode, one.deleted) for one in others)]


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot (field 22 of stat): a pid with another start is another process."""
    return int(_read(pid, "stat").rpartition(")")[2].split()[19])


def namespace_pids(pid: int) -> tuple[int, ...]:
    """The process's pids, in our pid namespace first, in its innermost one last."""
    return tuple(map(int, _status(pid).get("NSpid", str(pid)).split()))


def resolve_pid(pid: int) -> int:
    """`pid` if it is a process; TargetNotFound when it is gone, a thread, or a pid of a container only, and the message helps on."""
    if pid <= 0:
        raise TargetNotFound(f"{pid} is no pid", hint="pids are numbers from 1 on")
    try:
        status = _status(pid)
    except TargetNotFound:
        outer = [one for one in _pids() if _inner(one) == pid]
        if not outer:
            raise
        known = ", ".join(f"{one} ({_name(one)})" for one in outer)
        raise TargetNotFound(
            f"no process {pid} here; inside another pid namespace it is {known}", hint=f"give the host's pid, for instance -p {outer[0]}"
        ) from None
    process = int(status.get("Tgid", pid))
    if process != pid:
        raise TargetNotFound(f"{pid} is a thread of process {process} ({_name(process)})", hint=f"give the process: -p {process}")
    return pid


def _open_path(pid: int, mapping: Mapping) -> str:
    through_root = f"/proc/{pid}/root{mapping.path}"
    try:
        status = Path(through_root).stat()
        if (status.st_dev, status.st_ino) == (mapping.device, mapping.inode):
            return through_root
    except (OSError, ValueError):
        pass
    return f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"


def _read(pid: int, entry: str) -> str:
    try:
        return (_PROC / str(pid) / entry).read_text(encoding="utf-8", errors="surrogateescape")
    except PermissionError as error:
        raise NotPermitted(f"no right to look into process {pid} (/proc/{pid}/{entry})") from error
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TargetNotFound(f"no process {pid}: it has ended, or never was", hint="ps -e shows the processes of this host") from error


def _status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in _read(pid, "status").splitlines() if ":\t" in line)


def _pids() -> list[int]:
    return sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _inner(pid: int) -> int:
    """The pid in the innermost namespace, 0 when that is ours or the process has ended."""
    try:
        pids = namespace_pids(pid)
    except (TargetNotFound, NotPermitted):
        return 0
    return pids[-1] if len(pids) > 1 else 0


def _name(pid: int) -> str:
    try:
        return _read(pid, "comm").strip()
    except (TargetNotFound, NotPermitted):
        return "ended"
