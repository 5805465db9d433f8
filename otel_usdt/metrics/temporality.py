"""Metrics as differences: what has happened since the last interval, for receivers that want delta temporality.

OpenTelemetry metrics data model, "Temporality"; the preferences are those of OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE. No clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from otel_usdt.metrics.histograms import HistogramSnapshot
from otel_usdt.metrics.points import Distribution, Metric, Point
from otel_usdt.plan import Temporality

# Which kinds of metric are told as differences. What goes up and down never is; our sums are read, not counted up by us (asynchronous).
DELTAS: Mapping[Temporality, frozenset[str]] = {
    "cumulative": frozenset(),
    "delta": frozenset({"total", "histogram"}),
    "lowmemory": frozenset({"histogram"}),
}


class Intervals:
    """The last values that were told, and when; the first interval begins at `start_unix_ns`."""

    def __init__(self, preference: Temporality, start_unix_ns: int) -> None:
        self.kinds = DELTAS[preference]
        self.since_unix_ns = start_unix_ns
        self._histograms: dict[int, HistogramSnapshot] = {}
        self._points: dict[tuple[Metric, tuple[tuple[str, str], ...]], int | float | Distribution] = {}

    def resume(self, since_unix_ns: int, histograms: Sequence[HistogramSnapshot | None], points: Sequence[Point]) -> None:
        """These have been told, by a pipeline that has ended since."""
        self.since_unix_ns = since_unix_ns
        self.histograms(histograms)
        self.points(points)

    def histograms(self, now: Sequence[HistogramSnapshot | None]) -> list[HistogramSnapshot | None]:
        """What came since the last time. Least and most of an interval are not known: they stay those of the whole."""
        told = [one and _less(one, self._histograms.get(at)) for at, one in enumerate(now)]
        self._histograms = {at: one for at, one in enumerate(now) if one is not None}
        return told

    def points(self, now: Sequence[Point]) -> list[Point]:
        """The same for our own metrics of the kinds that are told so; the others as they are."""
        told = []
        for point in now:
            if point.metric.kind in self.kinds:
                place = point.metric, tuple(sorted(point.attributes.items()))
                before = self._points.get(place)
                self._points[place] = point.value
                point = replace(point, value=_since(point.value, before))
            told.append(point)
        return told


def _less(now: HistogramSnapshot, before: HistogramSnapshot | None) -> HistogramSnapshot:
    if before is None:
        return now
    counts = np.asarray(now.counts - before.counts, np.uint64)
    known = {one.key: one.calls for one in before.series}
    series = tuple(replace(one, calls=_less(one.calls, known.get(one.key))) for one in now.series)
    return replace(now, counts=counts, count=now.count - before.count, sum_ns=now.sum_ns - before.sum_ns, series=series)


def _since(now: int | float | Distribution, before: int | float | Distribution | None) -> int | float | Distribution:
    if isinstance(now, Distribution):
        if not isinstance(before, Distribution):
            return now
        counts = tuple(new - old for new, old in zip(now.counts, before.counts, strict=True))
        return Distribution(now.bounds, counts, now.sum - before.sum)
    return now if before is None or isinstance(before, Distribution) else now - before
