"""Which processes a session covers, kept in the kernel's `scope` map and watched from here. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

from otel_usdt.errors import KernelRefused, TargetNotFound
from otel_usdt.plan import Plan, Site, Target
from otel_usdt.probes import attach, rows, syscalls
from otel_usdt.probes.image import Loaded
from otel_usdt.probes.tracepoints import process_tracepoints
from otel_usdt.targets.select import descendants


def rows_of(plan: Plan) -> list[tuple[Site, int]]:
    """A row each: the site and the process that it is attached for. Those that one link can hold are together.

    Returns come first: a call that is entered meanwhile is then an orphan at most, and leaves no open frame.
    """
    found = [
        (site, pid)
        for site in plan.sites
        for target in [plan.targets[plan.spans[site.span].target]]
        for pid in (target.pids if target.scope == "pid" else (attach.EVERY_PROCESS,))
    ]
    return sorted(found, key=lambda one: (one[0].role != "return", one[0].uretprobe, one[0].binary, one[1]))


def follow(plan: Plan, loaded: Loaded, links: list[int]) -> None:
    """Settings, then the tracepoints of process life, then the processes that live already, so that none is missed between."""
    trees = [target for target in plan.targets if target.scope == "tree"]
    paired = any(site.role == "enter" for site in plan.sites)
    points = process_tracepoints() if trees or paired else {}
    offsets = [points[name].offset if points else 0 for name in ("sched_process_fork", "sched_process_free", "sched_process_exec")]
    settings = rows.SETTINGS.pack(*offsets, plan.limits.records_per_second)
    syscalls.update(loaded.maps["settings"], bytes(4), settings)
    wanted = {"on_exit": "sched_process_exit", "on_exec": "sched_process_exec"} if paired else {}
    if trees:
        wanted |= {"on_fork": "sched_process_fork", "on_free": "sched_process_free"}
    for program, point in wanted.items():
        links.append(attach.attach_tracepoint(loaded.program(program), points[point]))
    _add_living(plan, loaded)


def _add_living(plan: Plan, loaded: Loaded) -> None:
    covered: dict[int, int] = {}
    while True:  # until a look finds none that is new: a child forked before its parent was entered is found by the next look
        found: dict[int, int] = {}
        for i, target in enumerate(plan.targets):
            if target.scope == "tree":
                for pid in target.pids:
                    for one in descendants(pid):
                        found[one] = found.get(one, 0) | 1 << i
        new = {pid: bits for pid, bits in found.items() if covered.get(pid) != bits}
        if not new:
            return
        for pid, bits in new.items():
            try:
                syscalls.update(loaded.maps["scope"], pid.to_bytes(4, "little"), bits.to_bytes(8, "little"))
            except OSError as error:
                raise KernelRefused(f"the scope map is full: {len(found)} processes", hint="narrow the target's select") from error
        covered |= new


class Watch:
    """Tells when a scope has come to its end, and who is in it."""

    def __init__(self, plan: Plan, loaded: Loaded) -> None:
        self._plan, self._scope_map = plan, loaded.maps["scope"]
        self._open: dict[int, tuple[int, Target]] = {}
        self._roots_gone: set[str] = set()
        for target in plan.targets:
            if target.scope == "binary":
                continue
            for pid in target.pids:
                try:
                    self._open[os.pidfd_open(pid)] = pid, target
                except ProcessLookupError as error:
                    raise TargetNotFound(f"process {pid} is gone") from error

    def descriptors(self) -> list[int]:
        """To select on: readable when a process has ended."""
        return list(self._open)

    def gone(self, ready: list[int]) -> str:
        """Why nothing is left to watch, or "". A tree ends with its last process, a binary never."""
        for descriptor in [one for one in ready if one in self._open]:
            os.close(descriptor)
            del self._open[descriptor]
        if self._open or any(target.scope == "binary" for target in self._plan.targets):
            return ""
        if any(target.scope == "tree" for target in self._plan.targets) and syscalls.keys(self._scope_map, 4):
            return ""
        return "every target process has ended"

    def covers(self, pid: int) -> bool:
        """Is this process in the session's scope?"""
        if any(target.scope == "binary" or pid in target.pids for target in self._plan.targets):
            return True
        try:
            return syscalls.lookup(self._scope_map, pid.to_bytes(4, "little"), 8) is not None
        except OSError:
            return False

    def service_of(self, pid: int) -> str | None:
        """The service name that a process without one of its own gets: its tree's, while it runs the same program."""
        for target in self._plan.targets:
            for root in target.pids:
                if target.scope == "tree" and _same_program(pid, root):
                    return str(target.resource.get("service.name", "")) or None
        return None


def _same_program(one: int, other: int) -> bool:
    try:
        return Path(f"/proc/{one}/exe").readlink() == Path(f"/proc/{other}/exe").readlink()
    except OSError:
        return False
