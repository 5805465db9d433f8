"""Examples of what a histogram counted: of each span probe, the slowest recorded call of an interval, and the latest.

An exemplar leads from a figure to a trace (OpenTelemetry metrics data model, "Exemplars"). No clock: time arrives in the records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otel_usdt.spans.model import SpanBatch, span_ids, trace_ids, unix_times


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One call: its duration, when it ended (unix), and its span."""

    duration_ns: int
    end_unix_ns: int
    trace_id: bytes
    span_id: bytes
    tid: int


class Exemplars:
    """Those of the interval that is under way, by span probe."""

    def __init__(self) -> None:
        self._slowest: dict[int, Exemplar] = {}
        self._latest: dict[int, Exemplar] = {}

    def see(self, batch: SpanBatch) -> None:
        """Calls that are spans."""
        calls, ends = batch.calls, unix_times(batch)[1]
        for probe in np.flatnonzero(np.bincount(calls["probe"])).tolist():
            mine = np.flatnonzero(calls["probe"] == probe)
            slow, last = int(mine[calls["duration_ns"][mine].argmax()]), int(mine[ends[mine].argmax()])
            if probe not in self._slowest or calls["duration_ns"][slow] > self._slowest[probe].duration_ns:
                self._slowest[probe] = _exemplar(calls[slow], int(ends[slow]))
            if probe not in self._latest or ends[last] > self._latest[probe].end_unix_ns:
                self._latest[probe] = _exemplar(calls[last], int(ends[last]))

    def take(self) -> dict[int, tuple[Exemplar, ...]]:
        """The interval's, one or two of each span probe that had any; the next interval begins."""
        found = {
            probe: tuple({one.span_id: one for one in (slowest, self._latest[probe])}.values()) for probe, slowest in self._slowest.items()
        }
        self._slowest, self._latest = {}, {}
        return found


def _exemplar(call: np.void, end_unix_ns: int) -> Exemplar:
    (trace_id,), (span_id,) = trace_ids(call["trace"][None]), span_ids(call["span"][None])
    return Exemplar(int(call["duration_ns"]), end_unix_ns, trace_id, span_id, int(call["thread"]) & 0xFFFFFFFF)
