"""Attach the loaded programs to probe sites and tracepoints, each with its cookie: by uprobe_multi, else by perf_event_open(2).

Every link is a descriptor; closing it detaches, so the death of the process that holds them detaches everything.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path

from otel_usdt.errors import KernelRefused, NotPermitted, OtelUsdtError, TargetNotFound
from otel_usdt.probes import syscalls
from otel_usdt.probes.image import Loaded
from otel_usdt.probes.tracepoints import Tracepoint

UPROBE_PMU = Path("/sys/bus/event_source/devices/uprobe/type")
EVERY_PROCESS = -1
ENOTSUPP = 524  # the kernel's own, from uprobe_init_insn: an instruction that cannot be probed


def uprobe_pmu() -> int:
    """The perf event type of uprobes on this kernel."""
    try:
        return int(UPROBE_PMU.read_text())
    except OSError as error:
        raise KernelRefused(
            f"no uprobe PMU: {UPROBE_PMU} cannot be read ({error.strerror})",
            hint="a kernel with CONFIG_UPROBE_EVENTS and a mounted /sys is needed; otel-usdt doctor tells",
        ) from error


@dataclass(frozen=True, slots=True)
class Way:
    """Which links of many uprobes this kernel has: `multi` of entries or of returns, `session` of functions with both."""

    multi: bool
    session: bool


def way() -> Way:
    """Found by trying, not by version."""
    return Way(syscalls.takes_uprobe_links(syscalls.BPF_TRACE_UPROBE_MULTI), syscalls.takes_uprobe_links(syscalls.BPF_TRACE_UPROBE_SESSION))


@dataclass(frozen=True, slots=True)
class Place:
    """One uprobe or uretprobe, at a file offset of the file that `path` opens.

    `semaphore` is the file offset of the USDT semaphore, which the kernel then raises and lowers itself (ref_ctr_offset). `cookie` is the
    number of its row. `pid` is one process (all its threads), or EVERY_PROCESS that maps the file. A function's entry and return are of one
    `span` and at one offset. `wanted` is what the program there must be able to do; `what` names the probe in errors.
    """

    path: str
    offset: int
    uretprobe: bool
    semaphore: int
    cookie: int
    pid: int
    span: int
    wanted: int
    what: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """What one link can hold."""

    program: str
    attach_type: int
    wanted: int
    path: str
    pid: int
    uretprobe: bool


def attach_uprobes(loaded: Loaded, by: Way, places: Sequence[Place]) -> Iterator[int]:
    """Yields the links: one for many places where the kernel has uprobe_multi, else one each.

    It matters most at the end: closing a link waits out a kernel grace period under a global lock, 0.1 s each. A session link is for
    functions alone: its return probe overwrites what is on top of the stack, which is the return address at a function's entry only, and
    the kernel sets it up as well where it does not ask the program (a child of vfork).
    """
    if not by.multi:
        pmu, wanted = uprobe_pmu(), _all_wanted(places)
        for place in places:
            yield _attach_one(loaded.program("on_site", 0, wanted), pmu, place)
        return
    functions, others = _functions(places) if by.session else ([], list(places))
    forms = (("on_site", syscalls.BPF_TRACE_UPROBE_MULTI, others), ("on_session", syscalls.BPF_TRACE_UPROBE_SESSION, functions))
    groups: dict[_Kind, list[Place]] = {}
    for program, attach_type, held in forms:
        wanted = _all_wanted(held)
        for place in held:
            groups.setdefault(_Kind(program, attach_type, wanted, place.path, place.pid, place.uretprobe), []).append(place)
    for kind, group in groups.items():
        yield from _attach_many(loaded, kind, group)


def _all_wanted(places: Sequence[Place]) -> int:
    return reduce(or_, (place.wanted for place in places), 0)


def _functions(places: Sequence[Place]) -> tuple[list[Place], list[Place]]:
    """Entries that have a return probe, each with both rows in its cookie (entry | return << 32); and all other places."""
    returns: dict[tuple[int, str, int, int], list[Place]] = {}
    for place in places:
        if place.uretprobe:
            returns.setdefault((place.span, place.path, place.offset, place.pid), []).append(place)
    functions, others = [], []
    for place in places:
        if place.uretprobe:
            continue
        if own := returns.get((place.span, place.path, place.offset, place.pid)):
            functions.append(replace(place, cookie=place.cookie | own.pop().cookie << 32))
        else:
            others.append(place)
    return functions, [*(place for left in returns.values() for place in left), *others]


def _attach_many(loaded: Loaded, kind: _Kind, places: list[Place]) -> Iterator[int]:
    try:
        yield syscalls.link_uprobes(
            loaded.program(kind.program, kind.attach_type, kind.wanted),
            kind.attach_type,
            kind.path,
            [place.offset for place in places],
            [place.semaphore for place in places],
            [place.cookie for place in places],
            uretprobe=kind.uretprobe,
            pid=0 if kind.pid == EVERY_PROCESS else kind.pid,
        )
    except OSError as error:
        if len(places) == 1:
            raise _explain(error, places[0].what, kind.pid) from error
        for place in places:  # all or none: only by trying each is it known which one the kernel refuses
            yield from _attach_many(loaded, kind, [place])


def _attach_one(program: int, pmu: int, place: Place) -> int:
    name = ctypes.create_string_buffer(place.path.encode())
    try:
        config = int(place.uretprobe) | place.semaphore << 32
        event = syscalls.perf_event_open(pmu, config, ctypes.addressof(name), place.offset, place.pid)
        try:
            return syscalls.link(program, event, place.cookie)
        finally:
            os.close(event)
    except OSError as error:
        raise _explain(error, place.what, place.pid) from error


def attach_tracepoint(program: int, tracepoint: Tracepoint) -> int:
    """A program on a tracepoint, for all processes; the link."""
    try:
        event = syscalls.perf_event_open(syscalls.PERF_TYPE_TRACEPOINT, tracepoint.id)
        try:
            return syscalls.link(program, event, 0)
        finally:
            os.close(event)
    except OSError as error:
        raise _explain(error, f"tracepoint {tracepoint.name}", -1) from error


def close_links(links: list[int]) -> None:
    """Detach, what was attached last first: entries before returns, so that calls in flight still find their end.

    Returns when the kernel has finished with all of them.
    """
    while links:
        os.close(links.pop())


def _explain(error: OSError, what: str, pid: int) -> OtelUsdtError:
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return NotPermitted(f"{what}: the kernel does not let us attach ({error.strerror})")
        case errno.ESRCH:
            return TargetNotFound(f"{what}: process {pid} is gone")
        case code if code in (errno.EOPNOTSUPP, ENOTSUPP):
            return KernelRefused(
                f"{what}: the kernel cannot probe this instruction", hint="probe another function, or a USDT probe near it"
            )
        case errno.EINVAL:
            return KernelRefused(
                f"{what}: the kernel refuses this place (EINVAL)",
                hint="another tracer may hold this address with another semaphore offset; otel-usdt doctor says what this kernel offers",
            )
        case _:
            return KernelRefused(f"{what}: {error.strerror}")
