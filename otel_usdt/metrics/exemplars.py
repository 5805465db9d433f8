"""Examples of what a histogram counted: of each span probe, the slowest recorded call of an interval, and the latest.

An exemplar leads from a figure to a trace (OpenTelemetry metrics data model, "Exemplars"). No clock: time arrives in the records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otel_usdt.layout import is_apart
from otel_usdt.metrics.series import Key, keys_of
from otel_usdt.plan import Span
from otel_usdt.spans.model import SpanBatch, span_ids, trace_ids, unix_times


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One call: its duration, when it ended (unix), and its span."""

    duration_ns: int
    end_unix_ns: int
    trace_id: bytes
    span_id: bytes
    tid: int


Place = tuple[int, Key]  # a span probe's place in the plan, and the series of its calls: its key, or None for all of them


class Exemplars:
    """Those of the interval that is under way, by span probe, and by series where its calls are counted apart."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._slowest: dict[Place, Exemplar] = {}
        self._latest: dict[Place, Exemplar] = {}

    def see(self, batch: SpanBatch) -> None:
        """Calls that are spans."""
        calls, ends = batch.calls, unix_times(batch)[1]
        for probe in np.flatnonzero(np.bincount(calls["probe"])).tolist():
            mine = np.flatnonzero(calls["probe"] == probe)
            for key, rows in self._apart(probe, calls["arg"][mine]):
                self._see((probe, key), calls, ends, mine if rows is None else mine[rows])

    def _apart(self, probe: int, arguments: npt.NDArray[np.int64]) -> Iterator[tuple[Key, npt.NDArray[np.int64] | None]]:
        span = self._spans[probe]
        if not is_apart(span):
            yield None, None
            return
        keys, which = np.unique(keys_of(span, arguments), axis=0, return_inverse=True)
        known = sum(one == probe for one, _ in self._latest)
        for at, key in enumerate(map(tuple, keys.tolist())):
            if (probe, key) not in self._latest:
                if known >= span.max_series:
                    continue  # it may be one of any number, and most of these have no series
                known += 1
            yield key, np.flatnonzero(which.reshape(-1) == at)

    def _see(self, place: Place, calls: npt.NDArray[np.void], ends: npt.NDArray[np.uint64], mine: npt.NDArray[np.int64]) -> None:
        slow, last = int(mine[calls["duration_ns"][mine].argmax()]), int(mine[ends[mine].argmax()])
        if place not in self._slowest or calls["duration_ns"][slow] > self._slowest[place].duration_ns:
            self._slowest[place] = _exemplar(calls[slow], int(ends[slow]))
        if place not in self._latest or ends[last] > self._latest[place].end_unix_ns:
            self._latest[place] = _exemplar(calls[last], int(ends[last]))

    def take(self) -> dict[Place, tuple[Exemplar, ...]]:
        """The interval's, one or two of each place that had any; the next interval begins."""
        found = {
            place: tuple({one.span_id: one for one in (slowest, self._latest[place])}.values()) for place, slowest in self._slowest.items()
        }
        self._slowest, self._latest = {}, {}
        return found


def _exemplar(call: np.void, end_unix_ns: int) -> Exemplar:
    (trace_id,), (span_id,) = trace_ids(call["trace"][None]), span_ids(call["span"][None])
    return Exemplar(int(call["duration_ns"]), end_unix_ns, trace_id, span_id, int(call["thread"]) & 0xFFFFFFFF)
