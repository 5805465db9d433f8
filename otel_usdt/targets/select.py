"""Which processes a configuration means, out of /proc. Standard library only.

All pids are of the pid namespace that /proc shows: on a host, or in a container that shares the host's, the host's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from otel_usdt.errors import TargetNotFound
from otel_usdt.near import nearest

_OWN_NAME = "otel-usdt"
_CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h


class Selector(Protocol):
    """What `select` asks of a process; None asks nothing. A configuration's `select` section is one."""

    @property
    def pid(self) -> int | None: ...
    @property
    def exe_path(self) -> str | None: ...


def select(wanted: Selector, proc: str = "/proc") -> list[int]:
    """Pids, ascending, of the processes for which all of `wanted` holds; this tool's own are never among them.

    With neither pid nor exe_path (a binary alone) that is none. Raises TargetNotFound, with near misses, when nobody answers.
    """
    if wanted.pid is not None:
        return [_one(wanted.pid, wanted.exe_path, proc)]
    if wanted.exe_path is None:
        return []
    paths = {pid: path for pid in pids(proc) if (path := executable(pid, proc)) and not _is_own(pid, proc)}
    found = [pid for pid, path in paths.items() if fnmatchcase(path, wanted.exe_path)]
    if not found:
        raise _nobody(wanted.exe_path, paths, proc)
    return found


def roots(selected: Collection[int], proc: str = "/proc") -> list[int]:
    """Those of `selected`, ascending, whose parent is not among them: of a postmaster and its backends, the postmaster."""
    chosen = set(selected)
    return sorted(pid for pid in chosen if parent(pid, proc) not in chosen)


def descendants(pid: int, proc: str = "/proc") -> list[int]:
    """`pid` and all its children and theirs, ascending, as of now; empty when it is gone."""
    children: dict[int, list[int]] = {}
    alive = False
    for other in pids(proc):
        alive = alive or other == pid
        above = parent(other, proc)
        if above is not None:
            children.setdefault(above, []).append(other)
    found = {pid} if alive else set()
    waiting = list(found)
    while waiting:
        # Not twice: /proc is no snapshot, and a reused pid may close a ring.
        below = [child for child in children.get(waiting.pop(), ()) if child not in found]
        found.update(below)
        waiting += below
    return sorted(found)


def pids(proc: str = "/proc") -> Iterator[int]:
    """Every process that /proc lists, ascending."""
    with os.scandir(proc) as entries:
        yield from sorted(int(entry.name) for entry in entries if entry.name.isascii() and entry.name.isdigit())


def executable(pid: int, proc: str = "/proc") -> str:
    """The executable's path as the process itself sees it; "" for a kernel thread, one that is gone, or one that we may not look at."""
    try:
        return str(Path(f"{proc}/{pid}/exe").readlink()).removesuffix(" (deleted)")
    except OSError:
        return ""


def parent(pid: int, proc: str = "/proc") -> int | None:
    """The parent's pid; None when the process is gone."""
    try:
        stat = Path(f"{proc}/{pid}/stat").read_bytes()
        return int(stat[stat.rindex(b")") + 2 :].split()[1])  # a process may put anything, ")" too, into its name
    except (OSError, ValueError, IndexError):
        return None


def _one(pid: int, exe_path: str | None, proc: str) -> int:
    leader = _thread_group(pid, proc)
    if leader is None:
        raise _no_such_pid(pid, proc)
    if leader != pid:
        raise TargetNotFound(f"{pid} is a thread of process {leader}", hint=f"use pid {leader}: probes are for whole processes")
    if _is_own(pid, proc):
        raise TargetNotFound(f"process {pid} is {_OWN_NAME} itself", hint="choose another process: a tracer that traces itself never ends")
    if exe_path is not None and not fnmatchcase(path := executable(pid, proc), exe_path):
        what = path or "nothing that we may look at"
        raise TargetNotFound(f"process {pid} runs {what}, not {exe_path}", hint="mend pid or exe_path, or leave one out")
    return pid


def _no_such_pid(pid: int, proc: str) -> TargetNotFound:
    """A pid that `ps` shows inside a container is often the one that was meant: then the message has its number out here."""
    inside = [other for other in pids(proc) if _numbers(other, proc)[1:][-1:] == [pid]]
    if inside:
        hint = "in a container a process has a number of its own; use the one that ps shows on the host"
        outside = ", ".join(f"{other} ({executable(other, proc) or 'unknown'})" for other in inside[:5])
        return TargetNotFound(f"there is no process {pid} here; inside its container that is the number of {outside}", hint=hint)
    return TargetNotFound(f"there is no process {pid}", hint="check the pid (ps -e): it may have ended")


def _numbers(pid: int, proc: str) -> list[int]:
    """The process's pid in each pid namespace that it is in, from this one inwards."""
    return [int(word) for word in _status(pid, "NSpid", proc)]


def _thread_group(pid: int, proc: str) -> int | None:
    return next((int(word) for word in _status(pid, "Tgid", proc)), None)


def _status(pid: int, name: str, proc: str) -> list[bytes]:
    """The words of one line of /proc/PID/status; none when the process is gone."""
    try:
        status = Path(f"{proc}/{pid}/status").read_bytes()
    except OSError:
        return []
    prefix = f"{name}:".encode()
    return next((line.split()[1:] for line in status.splitlines() if line.startswith(prefix)), [])


def _is_own(pid: int, proc: str) -> bool:
    """Whether it is one of this tool's processes, of any session: by its command line, for they have no executable of their own."""
    if pid == os.getpid():
        return True
    try:
        with Path(f"{proc}/{pid}/cmdline").open("rb") as file:
            words = [word.decode(errors="replace") for word in file.read(4096).split(b"\0")[:8]]
    except OSError:
        return False
    name = words[0].rpartition("/")[2]
    if name == _OWN_NAME:
        return True
    return name.startswith("python") and any(
        word.rpartition("/")[2] == _OWN_NAME or (option == "-m" and word.partition(".")[0] == "otel_usdt")
        for option, word in pairwise(words)
    )


def _sees_all() -> bool:
    """May we look at other users' processes? As the planner we are not root, but have the capability for it."""
    told = _status(os.getpid(), "CapEff", "/proc")
    return bool(told) and int(told[0], 16) >> _CAP_SYS_PTRACE & 1 == 1


def _nobody(exe_path: str, paths: dict[int, str], proc: str) -> TargetNotFound:
    by_name = {path.rpartition("/")[2]: (pid, path) for pid, path in sorted(paths.items(), reverse=True)}  # of each name the lowest pid
    wanted = exe_path.rpartition("/")[2].replace("*", "")
    near = [by_name[name] for name in nearest(wanted, by_name, cutoff=0.6)]
    told = f"; near: {', '.join(f'{path} (pid {pid})' for pid, path in near)}" if near else ""
    hint = "check exe_path against ls -l /proc/PID/exe; * matches / as well"
    if not _sees_all():
        hint = f"without root only your own processes can be told by their executable; {hint}"
    return TargetNotFound(f"no process runs {exe_path}{told}", hint=hint)
