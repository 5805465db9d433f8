"""The tracepoints of a process's life: their ids and where their fields lie, which differ between kernels (6.18 moved comm out of line)."""

from __future__ import annotations

import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from otel_usdt.errors import KernelRefused
from otel_usdt.probes import syscalls

TRACEFS = Path("/sys/kernel/tracing")
WANTED = {"sched_process_fork": "child_pid", "sched_process_free": "pid", "sched_process_exec": "old_pid", "sched_process_exit": "pid"}


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """`offset` is the byte offset of the field that we want in the record."""

    name: str
    id: int
    offset: int


def _read(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for name, field in WANTED.items():
        event = folder / "events" / "sched" / name
        layout = re.search(rf"field:pid_t {field};\s*offset:(\d+);", (event / "format").read_text())
        if layout is None:
            raise KernelRefused(f"tracepoint {name} has no field {field} on this kernel")
        found[name] = int((event / "id").read_text()), int(layout[1])
    return found


@functools.cache
def process_tracepoints() -> dict[str, Tracepoint]:
    """The tracepoints by name. Where no tracefs is mounted a short-lived child mounts one in a mount namespace of its own.

    Both take some milliseconds; a kernel's tracepoints stay as they are.
    """
    for folder in (TRACEFS, Path("/sys/kernel/debug/tracing")):
        if (folder / "events" / "sched").is_dir():
            break
    else:
        return _decode(_from_child())
    return _decode(_read(folder))


def _decode(found: dict[str, tuple[int, int]]) -> dict[str, Tracepoint]:
    return {name: Tracepoint(name, number, offset) for name, (number, offset) in found.items()}


def _from_child() -> dict[str, tuple[int, int]]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        status = 1
        try:
            syscalls.private_mounts()
            syscalls.mount("tracefs", str(TRACEFS))
            os.write(writer, json.dumps(_read(TRACEFS)).encode())
            status = 0
        except (OSError, KernelRefused) as error:
            os.write(writer, json.dumps({"error": str(error)}).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = json.load(pipe)
    os.waitpid(child, 0)
    if "error" in told:
        raise KernelRefused(
            f"no tracefs: it is not mounted, and mounting a private one failed ({told['error']})",
            hint=f"mount -t tracefs tracefs {TRACEFS}, or grant CAP_SYS_ADMIN",
        )
    return {name: (number, offset) for name, (number, offset) in told.items()}
