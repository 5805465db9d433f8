"""A session: from the plan to the detach. Loads, attaches, and holds every descriptor, so that its end, however it comes, detaches all.

Standard library only, root. Read from the bottom: `run_session` is the life of one session.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otel_usdt import channel, outputs
from otel_usdt.children import UNPRIVILEGED, Planner, say
from otel_usdt.elf.build_id import build_id
from otel_usdt.errors import BuildIdMismatch, NotPermitted, OtelUsdtError, TargetNotFound
from otel_usdt.ladder import BOUNDS_NS
from otel_usdt.layout import Layout, layout_of
from otel_usdt.plan import TEXT_SLOTS, Binary, Limits, Plan, Role
from otel_usdt.probes import attach, image, obi, rows, scope, syscalls
from otel_usdt.probes.tracepoints import process_tracepoints
from otel_usdt.succession import Pipeline
from otel_usdt.targets.identity import resource_of

ANSWER_BYTES = channel.MAX_MESSAGE // 2  # of resources in one message
ANSWER_PATIENCE_S = 0.1  # the pipeline reads between two looks at the ring
MOST_ASKED = 256  # processes in one question
PID_LIMIT = 1 << 22  # include/linux/threads.h, PID_MAX_LIMIT
USUAL_SITES = 128  # what there is room for before the plan is known
USUAL = Layout(spans=32, rows=32, ladders=(BOUNDS_NS, None), cells=288)
USUAL_SERIES = replace(USUAL, rows=32 + 128)  # where calls are counted apart
RINGS = ("records", "text_records")  # read at the very size that the plan says
PIPELINE_ENDED = "the pipeline ended"
TICK_S = 0.5  # how often leases and trees of processes are looked at


def open_pinned(binary: Binary) -> int:
    """The very file that was planned for, held open: what is attached cannot be swapped for another meanwhile."""
    try:
        descriptor = os.open(binary.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise TargetNotFound(f"{binary.name} is gone since it was planned for") from error
    except PermissionError as error:
        raise NotPermitted(f"{binary.name}: {error.strerror}") from error
    told = os.fstat(descriptor)
    if (told.st_dev, told.st_ino) != (binary.device, binary.inode) or build_id(descriptor) != binary.build_id:
        os.close(descriptor)
        raise BuildIdMismatch(f"{binary.name} was replaced while it was planned for")
    return descriptor


def map_sizes(layout: Layout, limits: Limits, cpus: int, sites: int) -> dict[str, int]:
    """max_entries of the maps."""
    return {
        "sites": sites,
        "counters": layout.spans * cpus,
        "histogram": layout.rows * layout.cells * cpus,
        "ladders": max(1, len(layout.ladders)),
        "dimensions": layout.spans,
        "series_rows": 2 * (layout.rows - layout.spans + 1),  # the series, and the claims of their rows
        "series": layout.rows - layout.spans + 1,
        "extents": layout.rows * cpus,
        "words": 1 + TEXT_SLOTS * (layout.rows - layout.spans),
        "records": limits.ring_bytes,
        "text_records": limits.text_ring_bytes,
    }


def possible_cpus() -> int:
    """One more than the highest CPU number this kernel may ever use: what bpf_get_smp_processor_id can return."""
    return int(Path("/sys/devices/system/cpu/possible").read_text().strip().replace(",", "-").split("-")[-1]) + 1


def likely_sizes(config: str, cpus: int) -> dict[str, int]:
    """max_entries of maps that a plan for a configuration of these words most likely finds room in: programs are verified with them."""
    apart = any(word in config for word in ("dimensions", "error"))
    return map_sizes(USUAL_SERIES if apart else USUAL, Limits(), cpus, USUAL_SITES)


def verify_likely(config: str, loaded: image.Loaded, by: attach.Way) -> None:
    """Load what a plan for a configuration of these words wants most likely, while the planner works. A wrong guess costs time alone."""
    words = {"text": "string", "traceparent": "traceparent", "keys": "key", "series": "dimensions"}
    wanted = rows.WANTS["calls"] + sum(rows.WANTS[name] for name, word in words.items() if word in config)
    if "function" in config and by.session:
        loaded.program("on_session", syscalls.BPF_TRACE_UPROBE_SESSION, rows.WANTS["calls"])
    if "enter" in config or ("function" in config and not by.session):
        loaded.program("on_site", syscalls.BPF_TRACE_UPROBE_MULTI if by.multi else 0, wanted)
    loaded.program("on_exit")
    loaded.program("on_exec")


def attach_all(plan: Plan, loaded: image.Loaded, by: attach.Way, layout: Layout, cleanup: ExitStack) -> int:
    """Rows, scope, tracepoints, then every site; then all is switched on at once. Returns how many sites; `cleanup` detaches them.

    Attaching and detaching take their time, in which an entry without its return would be heard, or a return without its entry. So
    rows are switched on when all are attached, returns first; and before the first is detached, entries are switched off, and returns
    only end what is open.
    """
    links: list[int] = []
    cleanup.callback(attach.close_links, links)
    files = []
    for binary in plan.binaries:
        files.append(open_pinned(binary))
        cleanup.callback(os.close, files[-1])
    scope.follow(plan, loaded, links)
    for at, bounds in enumerate(layout.ladders):
        syscalls.update(loaded.maps["ladders"], at.to_bytes(4, "little"), rows.ladder_row(bounds))
    for at, (span, series) in enumerate(zip(plan.spans, layout.series, strict=True)):
        if series:
            syscalls.update(loaded.maps["dimensions"], at.to_bytes(4, "little"), rows.dimensions_row(span, series))
    planned = scope.rows_of(plan)

    def switch(role: rows.KernelRole | None, *sites: Role) -> None:
        for cookie, (site, pid) in enumerate(planned):
            if site.role in sites:
                row = rows.site_row(plan, site, layout, max(pid, 0), role=role)
                syscalls.update(loaded.maps["sites"], cookie.to_bytes(4, "little"), row)

    switch("off", "return", "enter", "point")
    places = []
    for cookie, (site, pid) in enumerate(planned):
        path = f"/proc/self/fd/{files[site.binary]}"
        # Into the page cache first: where it must read the page itself, 6.18 warns on ext4, and a host may panic on a warning.
        os.pread(files[site.binary], 16, site.file_offset)
        where = path, site.file_offset, site.uretprobe, site.semaphore_offset
        places.append(attach.Place(*where, cookie, pid, site.span, rows.wanted(plan, site), site.probe))
    for link in attach.attach_uprobes(loaded, by, places):  # one by one: what is on when the next one fails is detached too
        links.append(link)
    cleanup.callback(switch, "last", "return")
    cleanup.callback(switch, "off", "enter", "point")
    switch(None, "return")
    switch(None, "enter", "point")
    return len(places)


def what_to_hand(plan: Plan, loaded: image.Loaded, cpus: int, cleanup: ExitStack) -> Callable[[channel.Channel], None]:
    """Opens what the pipeline may use, which can attach or detach nothing; the result hands it over, to one pipeline after another."""
    names = ["records", "text_records", "counters", "histogram", "extents", "series", "losses"]
    own = [outputs.open_carried(layout_of(plan.spans))]
    cleanup.callback(os.close, own[0])
    if plan.export.file:
        own.append(outputs.open_output(plan.export.file))
        cleanup.callback(os.close, own[-1])
    if plan.export.spool:
        own.append(outputs.open_spool(plan.export.spool.path, plan.pipeline_user))
        cleanup.callback(os.close, own[-1])
    # The time is before any probe is on: what metrics count begins then, however late a pipeline is ready.
    message: dict[str, Any] = {"unix_ns": time.time_ns(), "maps": names, "cpus": cpus}
    message |= {"file": bool(plan.export.file), "spool": bool(plan.export.spool)}

    def hand_over(pipe: channel.Channel) -> None:
        described = channel.as_file(json.dumps(plan.to_dict()).encode())
        pipe.send(message, [described, *own, *(loaded.maps[name] for name in names)])
        os.close(described)

    return hand_over


def hold(plan: Plan, loaded: image.Loaded, pipeline: Pipeline, signals: socket.socket) -> str:
    """Keep the session until something ends it; returns what did."""
    ends_at = time.monotonic() + plan.lease.ttl_s if plan.lease.ttl_s else float("inf")
    watch, look = scope.Watch(plan, loaded), obi_follower(plan, loaded)
    while True:
        look()
        if not pipeline.start_when_due():
            return PIPELINE_ENDED
        poll = select.poll()  # not select(2): a host of many targets has more descriptors than that takes
        awaited = [pipeline.pipe.fileno()] if pipeline.starts_at is None else []
        for descriptor in (*awaited, signals.fileno(), *watch.descriptors()):
            poll.register(descriptor, select.POLLIN)
        until = min(ends_at, pipeline.starts_at or ends_at)
        ready = [descriptor for descriptor, _ in poll.poll(1000 * min(TICK_S, max(0.0, until - time.monotonic())))]
        if signals.fileno() in ready:
            return signal.Signals(signals.recv(1)[0]).name
        if awaited and awaited[0] in ready:
            message = pipeline.pipe.receive()
            if message is not None:
                for descriptor in message[1]:  # we want none, and must not collect them
                    os.close(descriptor)
                answer(message[0], watch, pipeline.pipe)
            elif not pipeline.ended():
                return PIPELINE_ENDED
        if time.monotonic() >= ends_at:
            return f"lease of {plan.lease.ttl_s:g} s ended"
        if gone := watch.gone(ready):
            return gone


def obi_follower(plan: Plan, loaded: image.Loaded) -> Callable[[], None]:
    """What to call now and then so that calls join OBI's requests, where the plan wants that."""
    if not any(span.mode == "spans" and "obi" in plan.targets[span.target].join for span in plan.spans):
        return lambda: None
    return obi.Follower(plan.bpf_fs, loaded.maps["contexts"], say).look


def answer(message: dict[str, Any], watch: scope.Watch, pipe: channel.Channel) -> None:
    """Tell the pipeline, which cannot look, who the processes in its records are; only ones in scope.

    It may be hostile, and so may a target's resource: no question raises, and answers that are not read hold us up but a moment.
    """
    asked = message.get("who")
    told: dict[int, dict[str, str | int] | None] = {}
    size = 0
    for pid in [pid for pid in asked if type(pid) is int][:MOST_ASKED] if isinstance(asked, list) else ():
        resource = resource_of(pid, watch.service_of(pid)) if 0 < pid < PID_LIMIT and watch.covers(pid) else None
        length = len(json.dumps(resource))
        if length > ANSWER_BYTES:
            resource, length = None, 0
        if size + length > ANSWER_BYTES:
            if not pipe.send({"resources": told}, patience_s=ANSWER_PATIENCE_S):
                return
            told, size = {}, 0
        told[pid] = resource
        size += length
    if told:
        pipe.send({"resources": told}, patience_s=ANSWER_PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What there can be before a plan is known: maps of the usual size, and programs that most plans want, verified with them."""

    made: image.Image
    cpus: int
    sizes: dict[str, int]
    by: attach.Way
    loaded: image.Loaded


@contextmanager
def prepared(*likely: str) -> Iterator[Prepared]:
    """For a configuration of words like these."""
    made, _ = image.find_image(say)
    cpus, by = possible_cpus(), attach.way()
    sizes = likely_sizes(" ".join(likely), cpus)
    loaded = image.load(made, sizes)
    try:
        for words in likely:
            verify_likely(words, loaded, by)
        with suppress(OtelUsdtError):  # who needs them meets the error again
            process_tracepoints()
        yield Prepared(made, cpus, sizes, by, loaded)
    finally:
        loaded.close()


def run_session(
    ready: Prepared,
    planner: Planner,
    pipeline: Pipeline,
    signals: socket.socket,
    attached: Callable[[Plan, int], None] = lambda plan, sites: None,
) -> int:
    """One session, from the planner's answer to the last exported span. Returns the exit code.

    `attached` is called with the plan and the number of its sites when all are on.
    """
    with ExitStack() as stack:
        stack.callback(lambda: pipeline.finish())
        plan = planner.plan()
        if plan.pipeline_user != UNPRIVILEGED:
            pipeline.finish()
            pipeline = Pipeline(plan.pipeline_user)
        for refusal in plan.refused:
            say(f"refused: {refusal.probe}: {refusal.reason}; {refusal.remedy}")
        for note in plan.notes:
            say(f"note: {note}")
        layout = layout_of(plan.spans)
        sizes, loaded = map_sizes(layout, plan.limits, ready.cpus, len(scope.rows_of(plan))), ready.loaded
        if any(size > ready.sizes[name] for name, size in sizes.items()) or any(sizes[ring] != ready.sizes[ring] for ring in RINGS):
            loaded = image.load(ready.made, sizes)
            stack.callback(loaded.close)
            ready.loaded.close()
        pipeline.hand(what_to_hand(plan, loaded, ready.cpus, stack))
        with ExitStack() as links:
            sites = attach_all(plan, loaded, ready.by, layout, links)
            pipeline.attached(sites)
            print("attached", file=sys.stderr, flush=True)
            attached(plan, sites)
            planner.dismiss()
            reason = hold(plan, loaded, pipeline, signals)
        say(f"detached: {reason}")
        pipeline.finish(reason)
    return pipeline.exit_code
