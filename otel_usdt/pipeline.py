"""The pipeline: no rights, no way to any. It maps the ring and the counters that it was handed, and sends what they say.

Read from the bottom. It ends when the supervisor says that all is detached, or is gone: then it drains, flushes and exits.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.ma  # np.unique imports it where it is first used, which is when our own code may not be readable any more

from otel_usdt import __version__, rights
from otel_usdt.carried import Carried, Taken
from otel_usdt.channel import Channel
from otel_usdt.children import say
from otel_usdt.errors import OtelUsdtError
from otel_usdt.layout import layout_of
from otel_usdt.metrics.exemplars import Exemplars
from otel_usdt.metrics.histograms import HistogramSnapshot, hist_lines
from otel_usdt.metrics.kernel import histograms_of
from otel_usdt.metrics.ledger import LOSSES, Ledger, check, ledgers, losses, with_paired
from otel_usdt.metrics.own import process_points, restart_points, ring_points
from otel_usdt.metrics.points import Point, ledger_points
from otel_usdt.metrics.prometheus import exposition
from otel_usdt.metrics.temporality import Intervals
from otel_usdt.otlp.encode_histograms import encode_histograms
from otel_usdt.otlp.encode_metrics import encode_points
from otel_usdt.otlp.endpoint import with_own
from otel_usdt.outlets import Outlets
from otel_usdt.plan import Plan
from otel_usdt.processes import Processes
from otel_usdt.spans.model import SpanBatch
from otel_usdt.spans.pairing import GRACE_NS, Pairing
from otel_usdt.stream.clock import Clock
from otel_usdt.stream.counters import KernelCounters
from otel_usdt.stream.records import CALL, CALL_TEXT, ENTER, RETURN
from otel_usdt.stream.ring import Ring

if TYPE_CHECKING:
    from otel_usdt.telemetry import Page

REST_S = 0.4  # between looks at the rings while little comes; a burst that begins then wakes us (bpf/otel_usdt.bpf.c)
MOST_S, LEAST_S = 0.04, 0.01  # the same under load, when nothing wakes us: there is room for what may come, and enough to send together
FILL = 0.1  # how full the fullest ring is to be when we look
LOSS_LOG_S = 1.0
EXPIRE_S = 0.5  # between looks at what waits for its other end
SHOW_S = 1.0  # how old a page of metrics may be
AT_ONCE = 8192  # spans encoded together: what bounds the memory of a burst; more would not be faster
SETTLE_TRIES = 20  # a snapshot taken while a probe runs may catch an event half counted


def own_resource() -> dict[str, str | int]:
    """Who sends the metrics that are about ourselves: the session, by its supervisor, for a pipeline may be another's successor."""
    host = socket.gethostname()
    instance = {"service.instance.id": f"{host}:{os.getppid()}", "host.name": host, "telemetry.distro.name": "otel-usdt"}
    return {"service.name": "otel-usdt", "service.version": __version__, **instance}


@dataclass(slots=True)
class Session:
    """One plan's way from the rings to the outlets."""

    plan: Plan
    rings: list[Ring]
    counters: KernelCounters
    processes: Processes
    outlets: Outlets
    started_unix_ns: int  # no later than the first call that the counters hold
    wakers: list[int]  # ring descriptors, on which the kernel wakes us in a burst
    carried: Carried
    taken: Taken  # what was read, and so far of keyed calls paired
    clock: Clock = field(default_factory=Clock)
    started_s: float = field(default_factory=time.monotonic)
    began_unix_ns: int = field(default_factory=time.time_ns)  # this pipeline: no later than what it counts of itself
    supervisor: dict[str, int] = field(default_factory=lambda: {"supervisor": os.getppid()})
    resource: dict[str, str | int] = field(default_factory=own_resource)
    page: Page | None = None  # for those who ask over HTTP
    exemplars: Exemplars = field(init=False)
    pairing: Pairing = field(init=False)
    intervals: Intervals = field(init=False)

    def __post_init__(self) -> None:
        self.pairing, self.exemplars = Pairing(self.plan.spans, self.taken.accounts), Exemplars(self.plan.spans)
        self.intervals = Intervals(self.plan.export.temporality, self.started_unix_ns)
        if told := self.carried.told():
            since, ledgers, histograms = told
            named = dict(zip((span.name for span in self.plan.spans), ledgers, strict=True))
            last = ledger_points(named) + process_points(self.supervisor) + restart_points(self.carried.restarts - 1)
            self.intervals.resume(since, histograms, last)

    def drain(self) -> int:
        """Move all that the rings hold towards the outlets; returns how many records there were."""
        # Texts first: what ended within one of these calls is then among the calls that follow, and links are known in time.
        batches = [self._read(at) for at in reversed(range(len(self.rings)))]
        for calls, texts, _ in reversed(batches):
            for start in range(0, len(calls), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                links = self.pairing.links(calls[part])
                batch = SpanBatch(calls[part], None if texts is None else texts[part], self.clock.offset_ns(), links)
                self.exemplars.see(batch)
                self.processes.hold(batch)
        for batch, resources in self.processes.ready():
            self.outlets.spans(batch, resources)
        return sum(read for _, _, read in batches)

    def fill(self) -> float:
        """How full the fullest ring is: 0 to 1."""
        return max(ring.pending_bytes() / ring.size for ring in self.rings)

    def _read(self, at: int) -> tuple[np.ndarray, np.ndarray | None, int]:
        """The calls in a ring that are to be spans, their texts, and how many records those were. All are counted before they leave it."""
        records, position = self.rings[at].peek()
        calls, texts = (records, None) if records.dtype == CALL else (records["call"], records["text"])
        known = calls["probe"] < len(self.plan.spans)
        if not known.all():  # never written by our program: do not trust it with an index
            self.taken.malformed += int((~known).sum())
            calls, texts = calls[known], None if texts is None else texts[known]
        if self.pairing and texts is None and len(calls):
            calls = self._pair(calls)
        counts = np.bincount(calls["probe"])
        self.taken.received.update({probe: int(counts[probe]) for probe in np.flatnonzero(counts).tolist()})
        if position != self.rings[at].position:
            self.note({at: position})
            self.rings[at].release(position)
        return calls, texts, len(records)

    def note(self, moved: Mapping[int, int] = MappingProxyType({})) -> None:
        """For a pipeline that may follow: what has been read, once the rings in `moved` stand where it says."""
        self.carried.note([moved.get(at, ring.position) for at, ring in enumerate(self.rings)], self.taken)

    def expire(self, now_ns: int) -> None:
        """Let go of keyed calls' ends that have waited for too long."""
        self.pairing.expire(now_ns)
        self.note()

    def _pair(self, calls: np.ndarray) -> np.ndarray:
        """With what is complete of the keyed calls in place of their ends; an end that is none is malformed."""
        ends, keyed = calls["flags"] & (ENTER | RETURN) > 0, np.isin(calls["probe"], list(self.pairing.accounts()))
        self.taken.malformed += int((ends != keyed).sum())
        return np.concatenate((calls[~ends & ~keyed], self.pairing.feed(calls[ends & keyed])))

    def ledgers(self) -> dict[str, Ledger]:
        """Every span probe's ledger at one instant: read again while an event is caught half counted."""
        for _ in range(SETTLE_TRIES):
            now = self.snapshot()
            if not any(check(ledger) for ledger in now.values()):
                break
            time.sleep(0.001)
        return now

    def snapshot(self) -> dict[str, Ledger]:
        """Every span probe's ledger as one reading finds it."""
        delivered = self.outlets.delivered(self.taken.received, self.processes.waiting())
        return ledgers(self.plan.spans, self.kernel(), delivered)

    def kernel(self) -> dict[str, np.ndarray]:
        """What the kernel has counted, and for keyed calls, which it does not pair, what the pairing has."""
        return with_paired(self.counters.read(), self.pairing)

    def histograms(self) -> list[HistogramSnapshot | None]:
        """Parallel to the plan's spans; None for those that only count."""
        paired = {i: account.snapshot(self.plan.spans[i]) for i, account in self.pairing.accounts().items()}
        now = self.counters
        kernel = histograms_of(self.plan.spans, now.layout, now.cells(), now.read(), now.extents(), now.series())
        return [paired.get(i, one) for i, one in enumerate(kernel)]

    def send_metrics(self) -> None:
        """Histograms under the targets' resources, the ledger and our own telemetry under our own."""
        if self.plan.export.otlp is None and not self.plan.export.file:
            return
        kinds = self.intervals.kinds
        if kinds and self.outlets.metrics_waiting():
            return  # the newest would take its place, and a difference that is not told is lost: the next interval is longer
        now, since, examples = time.time_ns(), self.intervals.since_unix_ns, self.exemplars.take()
        histograms, ledgers, delta = self.histograms(), self.ledgers(), "histogram" in kinds
        began = since if delta else self.started_unix_ns
        told = self.intervals.histograms(histograms) if delta else histograms
        of_session, own = (self.intervals.points(points) for points in self.points(ledgers))
        if kinds:
            self.carried.tell(now, list(ledgers.values()), histograms)
        self.outlets.metrics(
            encode_histograms(
                told, self.plan.spans, self.plan.targets, began, now, __version__, examples, delta=delta, max_buckets=self.plan.max_buckets
            )
            + encode_points(of_session, self.resource, self.started_unix_ns, now, __version__, kinds, since)
            + encode_points(own, self.resource, self.began_unix_ns, now, __version__, kinds, max(since, self.began_unix_ns))
        )
        self.intervals.since_unix_ns = now

    def points(self, ledgers: Mapping[str, Ledger]) -> tuple[list[Point], list[Point]]:
        """The ledger and what else began with the session; what there is to say of this pipeline."""
        rings = {name: (ring.pending_bytes(), ring.size) for name, ring in zip(("calls", "texts"), self.rings, strict=False)}
        own = ring_points(rings) + self.outlets.points() + process_points({"pipeline": os.getpid()})
        return ledger_points(ledgers) + process_points(self.supervisor) + restart_points(self.carried.restarts), own

    def show(self, page: Page) -> None:
        """Now, to those who ask /metrics."""
        of_session, own = self.points(self.ledgers())
        page.metrics = exposition(of_session + own)

    def log_losses(self) -> None:
        """A line when any loss counter has moved."""
        of_spans = losses(len(self.plan.spans), self.kernel(), self.outlets.delivered({}, {}).dropped)
        malformed = self.taken.malformed + sum(ring.malformed for ring in self.rings)
        now = np.append(of_spans, np.array((self.counters.scope_full(), malformed), np.uint64))
        for at in np.flatnonzero(now != self.carried.said).tolist():
            span, loss = divmod(at, len(LOSSES))
            beside = ("processes that found no place in the scope map", "malformed records")
            what = f"{self.plan.spans[span].name}: {LOSSES[loss]}" if at < of_spans.size else beside[at - of_spans.size]
            say(f"lost: {what} {now[at]} (+{int(now[at]) - int(self.carried.said[at])})")
        self.carried.said[:] = now

    def print_lines(self, last: bool) -> None:
        """What the console's view shows, now or at the end."""
        console = self.plan.export.console
        if console is None:
            return
        if console.view == "counts":
            elapsed = round(time.monotonic() - self.started_s, 3)
            told = self.ledgers()
            self.outlets.lines(
                {"probe": name, "entries": ledger["entries"], "calls": ledger["calls"], "elapsed_s": elapsed}
                for name, ledger in told.items()
            )
        if console.view == "histograms" or (console.view == "all" and last):
            self.outlets.lines(hist_lines(self.histograms(), self.plan.spans))
        if console.view in ("spans", "all"):
            self.outlets.lines([{"ledger": self.ledgers()}])


def open_session(message: dict[str, Any], descriptors: list[int], pipe: Channel) -> Session:
    """From the supervisor's descriptors; the last right goes before anything of the target's is read or any thread is started."""
    with os.fdopen(descriptors.pop(0)) as file:
        plan = Plan.from_dict(json.load(file))
    if plan.export.otlp:  # now: once the rights are gone, our own code may not be readable any more
        importlib.import_module("encodings.idna")
        for own in (plan.export.otlp.traces, plan.export.otlp.metrics):
            importlib.import_module(f"otel_usdt.otlp.{'grpc' if with_own(plan.export.otlp, own).protocol == 'grpc' else 'http'}_transport")
    if plan.telemetry.listen:
        importlib.import_module("otel_usdt.telemetry")
    rights.drop_all()
    carried_fd = descriptors.pop(0)
    file_fd = descriptors.pop(0) if message["file"] else None
    spool_fd = descriptors.pop(0) if message["spool"] else None
    maps = dict(zip(message["maps"], descriptors, strict=True))
    has_text = any(attribute.string for span in plan.spans for attribute in span.attributes)
    rings = [Ring(maps["records"], plan.limits.ring_bytes, CALL)]
    if has_text:
        rings.append(Ring(maps["text_records"], plan.limits.text_ring_bytes, CALL_TEXT))
    counters = KernelCounters.open(maps, message["cpus"], layout_of(plan.spans))
    wakers = [maps["records"], maps["text_records"]] if has_text else [maps["records"]]
    carried = Carried.open(carried_fd, plan.spans)
    taken = carried.take_over([ring.position for ring in rings])
    outlets = Outlets(plan, file_fd, say, carried, spool_fd)
    session = Session(plan, rings, counters, Processes(plan, pipe), outlets, message["unix_ns"], wakers, carried, taken)
    if plan.telemetry.listen:
        from otel_usdt.telemetry import Page, serve  # brings an HTTP server, which few sessions need

        session.page = Page()
        session.show(session.page)
        url, _ = serve(plan.telemetry.listen, session.page)
        say(f"telemetry: {url}/metrics and {url}/healthz")
    return session


def next_look_s(fill: float, waited_s: float) -> float:
    """How long until the fullest ring, of which `fill` was filled in `waited_s`, is FILL full.

    So spans that come slowly are sent together, and a ring has room for ten times what it gets. REST_S means rest, less means load.
    """
    wanted_s = waited_s * FILL / fill if fill else REST_S
    return REST_S if wanted_s >= REST_S else max(LEAST_S, min(MOST_S, wanted_s))


def follow(session: Session, pipe: Channel) -> None:
    """Drain until the supervisor has detached, or is gone."""
    at_rest, under_load = select.epoll(), select.epoll()
    for poll in (at_rest, under_load):
        poll.register(pipe.fileno(), select.EPOLLIN)
    for ring in session.wakers:
        at_rest.register(ring, select.EPOLLIN | select.EPOLLET)  # edges: the kernel's wakeups, not "there is data", which a timer is for
    interval, looked = REST_S, time.monotonic()
    console = session.plan.export.console
    every = {session.log_losses: LOSS_LOG_S, session.send_metrics: session.plan.export.interval_s}
    if session.pairing:
        every[lambda: session.expire(time.monotonic_ns())] = EXPIRE_S
    if console and console.interval_s:
        every[lambda: session.print_lines(last=False)] = console.interval_s
    if page := session.page:
        every[lambda: session.show(page)] = SHOW_S
    due = {action: time.monotonic() + seconds for action, seconds in every.items()}
    while True:
        for descriptor, _ in (at_rest if interval == REST_S else under_load).poll(interval):
            if descriptor == pipe.fileno():
                told = pipe.receive()
                if told is None or "detached" in told[0]:
                    return
                if "attached" in told[0]:
                    session.started_s = told[0]["at_s"]
                session.processes.learn(told[0].get("resources", {}))
        fill, now = session.fill(), time.monotonic()
        interval, looked = next_look_s(fill, now - looked), now
        session.drain()
        if session.fill() > FILL:  # there was more than is read at a time
            interval = 0.0
        if page:
            page.seen_s = now
        for action, at in due.items():
            if now >= at:
                action()
                due[action] = now + every[action]


def main(arguments: list[str]) -> int:
    """Life of the pipeline; its argument is the descriptor of its end of the channel."""
    pipe = Channel(socket.socket(fileno=int(arguments[0])))
    told = pipe.receive()
    if told is None:
        return 0
    try:
        session = open_session(*told, pipe)
    except OtelUsdtError as error:
        say(error.told())
        return error.exit_code
    follow(session, pipe)
    while session.drain():
        pass
    session.expire(time.monotonic_ns() + GRACE_NS)  # no beginning will come for the ends that wait
    session.processes.stop_waiting()
    session.drain()
    session.outlets.settle()
    session.send_metrics()
    session.outlets.close()
    session.log_losses()
    session.print_lines(last=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
