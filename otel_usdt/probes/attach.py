"""Attach the loaded program to probe sites and tracepoints, each with its cookie: by uprobe_multi, else by perf_event_open(2).

Every link is a descriptor; closing it detaches, so the death of the process that holds them detaches everything.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from otel_usdt.errors import KernelRefused, NotPermitted, OtelUsdtError, TargetNotFound
from otel_usdt.probes import syscalls
from otel_usdt.probes.image import ON_SITE_MULTI, Loaded
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
class Place:
    """One uprobe or uretprobe at a file offset of the file that `path` opens.

    `semaphore` is the file offset of the USDT semaphore, which the kernel then raises and lowers itself (ref_ctr_offset). `pid` is one
    process (all its threads), or EVERY_PROCESS that maps the file. `what` names the probe in errors.
    """

    path: str
    offset: int
    uretprobe: bool
    semaphore: int
    cookie: int
    pid: int
    what: str


def attach_uprobes(loaded: Loaded, places: Iterable[Place]) -> Iterator[int]:
    """Attach in the order given; yields the links: one for many places where the kernel has uprobe_multi, else one each.

    It matters most at the end: closing a link waits out a kernel grace period under a global lock, 0.1 s each.
    """
    multi = loaded.programs.get(ON_SITE_MULTI)
    if multi is None:
        pmu = uprobe_pmu()
        for place in places:
            yield _attach_one(loaded.programs["on_site"], pmu, place)
        return
    for _, group in groupby(places, lambda place: (place.path, place.pid, place.uretprobe)):
        yield from _attach_many(multi, list(group))


def _attach_many(program: int, places: list[Place]) -> Iterator[int]:
    first = places[0]
    try:
        yield syscalls.link_uprobes(
            program,
            first.path,
            [place.offset for place in places],
            [place.semaphore for place in places],
            [place.cookie for place in places],
            uretprobe=first.uretprobe,
            pid=0 if first.pid == EVERY_PROCESS else first.pid,
        )
    except OSError as error:
        if len(places) == 1:
            raise _explain(error, first.what, first.pid) from error
        for place in places:  # all or none: only by trying each is it known which one the kernel refuses
            yield from _attach_many(program, [place])


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
