"""Every way out of the pipeline, as the plan names them: OTLP, a file of OTLP/JSON lines, JSON lines on standard output.

The ledger follows one of them, the first that there is of OTLP, file and console: what that one has taken is `exported`. The others'
losses are said when they happen.
"""

from __future__ import annotations

import json
import os
import select
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from otel_usdt import __version__
from otel_usdt.carried import Carried
from otel_usdt.metrics.ledger import Delivered
from otel_usdt.metrics.own import export_points, spool_points
from otel_usdt.metrics.points import Point
from otel_usdt.otlp.client import Exporter
from otel_usdt.otlp.encode import encode_spans
from otel_usdt.otlp.jsonlines import LinesFile, to_json_line
from otel_usdt.otlp.measured import Measured
from otel_usdt.otlp.outcome import Signal
from otel_usdt.otlp.queue import Delivery
from otel_usdt.otlp.spool import Spool
from otel_usdt.plan import Plan
from otel_usdt.spans.model import SpanBatch, unix_times
from otel_usdt.spans.view import span_lines

STDOUT = 1
FLUSH_GRACE_S, LAST_WORD_S = 8.0, 2.0  # for an absent or slow collector at the end of a session; the supervisor waits 15 s


class Outlets:
    """Takes batches and metrics; never waits for the network."""

    def __init__(self, plan: Plan, file_fd: int | None, say: Callable[[str], None], carried: Carried, spool_fd: int | None = None) -> None:
        self._plan, self._say, self._carried = plan, say, carried
        self._file = LinesFile(file_fd) if file_fd is not None else None
        otlp = plan.export.otlp
        self._sender = Measured(Exporter(otlp)) if otlp else None
        names = [span.name for span in plan.spans]
        kept = plan.export.spool
        spool = Spool(spool_fd, kept.max_bytes, kept.max_age_s, carried.settled, carried.settle) if kept and spool_fd is not None else None
        spooled = Counter[int]()
        if spool:
            spool.first = carried.spool_first(spool.next_number())
            spooled.update({names.index(name): count for name, count in spool.spans().items()})
        if lost := carried.write_off(spooled):
            say(f"{lost} spans were in the memory of the pipeline that ended, and are dropped")
        self._delivery: Delivery | None = None
        if otlp and self._sender:
            queue, at_once = otlp.queue_bytes, otlp.concurrency
            self._delivery = Delivery(self._sender, queue, names, say, spool=spool, concurrency=at_once, tallies=carried.tallies)
        self._console = plan.export.console
        self._file_fault = ""  # as said last
        self._not_in_file = 0  # spans

    def spans(self, batch: SpanBatch, resources: Mapping[int, Mapping[str, str | int]]) -> None:
        """Send a batch every way there is."""
        if self._delivery or self._file:
            oldest = int(unix_times(batch)[1].min()) if len(batch.calls) else 0
            for encoded in encode_spans(batch, self._plan.spans, resources, __version__):
                if self._file:
                    self._count(self._to_file(encoded.body, "traces", sum(encoded.counts.values())), encoded.counts, self._delivery is None)
                if self._delivery and self._sender:
                    self._sender.expect(encoded.body, oldest)
                    self._delivery.put("traces", encoded.body, encoded.counts)
        if self._console and self._console.view in ("spans", "all"):
            probes, at = batch.calls["probe"].tolist(), 0
            for data, count in _pieces(span_lines(batch, self._plan.spans)):
                self._count(self._to_console(data), Counter(probes[at : at + count]), self._delivery is None and self._file is None)
                at += count
        elif not (self._delivery or self._file):
            self._carried.tallies.exported.update(Counter(batch.calls["probe"].tolist()))

    def metrics(self, body: bytes) -> None:
        """Send a metrics request; an empty one is none."""
        if body and self._file:
            self._to_file(body, "metrics", 0)
        if body and self._delivery:
            self._delivery.put("metrics", body, {})

    def metrics_waiting(self) -> bool:
        """Has the last metrics request not been settled yet?"""
        return self._delivery is not None and self._delivery.metrics_waiting()

    def lines(self, objects: Iterable[Mapping[str, Any]]) -> bool:
        """JSON objects on standard output, a line each. False when nobody reads it any more."""
        return all(self._to_console(data) for data, _ in _pieces(objects))

    def delivered(self, received: Mapping[int, int], waiting: Mapping[int, int]) -> Delivered:
        """The ledger's last terms; `waiting` has not been given here yet."""
        if self._delivery is None:
            tallies = self._carried.tallies
            return Delivered(received, dict(tallies.exported.items()), dict(tallies.dropped.items()), waiting)
        totals = self._delivery.totals()
        return Delivered(received, totals.exported, totals.dropped, dict(Counter(waiting) + Counter(totals.queued)), totals.spooled)

    def points(self) -> list[Point]:
        """How the way to the collector fares; nothing without one."""
        if not (self._delivery and self._sender and self._plan.export.otlp):
            return []
        points = export_points(self._delivery.queued_bytes(), self._plan.export.otlp.queue_bytes, *self._sender.read())
        status, kept = self._delivery.spooled(), self._plan.export.spool
        return points + spool_points(status, kept.max_bytes, time.time()) if status and kept else points

    def settle(self) -> None:
        """Wait for the collector to take what is queued, as long as the grace allows: the last metrics can then say what became of it."""
        until = time.monotonic() + FLUSH_GRACE_S
        while self._delivery and self._delivery.totals().queued and time.monotonic() < until:
            time.sleep(0.01)

    def close(self) -> None:
        """Send the last metrics; what still cannot go is dropped, and counted."""
        if self._not_in_file:
            self._say(f"{self._plan.export.file}: {self._not_in_file} spans are not in it")
        if self._delivery:
            self._delivery.close(LAST_WORD_S)

    def _to_file(self, body: bytes, signal: Signal, spans: int) -> bool:
        assert self._file is not None
        fault = self._file.write(to_json_line(body, signal))
        why = os.strerror(fault.errno or 0) if fault else ""
        if why != self._file_fault:  # not at every batch: how many spans it costs is said at the end
            self._say(f"{self._plan.export.file}: {why or 'it is written again'}")
        self._file_fault = why
        self._not_in_file += spans if fault else 0
        return fault is None

    def _count(self, written: bool, counts: Mapping[int, int], leads: bool) -> None:
        if leads:
            (self._carried.tallies.exported if written else self._carried.tallies.dropped).update(counts)

    def _to_console(self, data: bytes) -> bool:
        """Whole lines. A kill tears none on its way into a pipe, unless it is longer than what a pipe takes at once."""
        torn = self._carried.mid_line
        left = memoryview(b"\n" + data if torn else data)
        whole = len(left)
        try:
            if whole > select.PIPE_BUF or not stat.S_ISFIFO(os.fstat(STDOUT).st_mode):
                self._carried.mid_line = True
            while left:
                left = left[os.write(STDOUT, left) :]
        except OSError:
            self._carried.mid_line = torn or len(left) < whole
            return False
        self._carried.mid_line = False
        return True


def _pieces(objects: Iterable[Mapping[str, Any]]) -> Iterator[tuple[bytes, int]]:
    """JSON lines, as many at a time as a pipe takes at once, or one that is longer; and how many they are."""
    piece, count = b"", 0
    for one in objects:
        line = json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"
        if piece and len(piece) + len(line) > select.PIPE_BUF:
            yield piece, count
            piece, count = b"", 0
        piece, count = piece + line, count + 1
    if piece:
        yield piece, count
