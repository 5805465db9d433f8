"""What the kernel's histograms say, out of the counts in their cells (otel_usdt/ladder.py): every bucket is a sum of whole cells. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_usdt.ladder import EXPONENTS, QUARTERS, SCALE, exponential_ns, uppers
from otel_usdt.layout import Bounds
from otel_usdt.metrics.series import Attributes, Key
from otel_usdt.plan import Span

Counts = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class HistogramSnapshot:
    """A histogram at one instant, summed over CPUs. `counts` are of the cells of `bounds_ns`, the span probe's; `min_ns` and `max_ns` mean
    nothing when `count` is 0."""

    counts: Counts
    bounds_ns: Bounds
    count: int
    sum_ns: int
    min_ns: int
    max_ns: int
    series: tuple[Series, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Calls of a span probe that are counted apart (metrics/series.py)."""

    key: Key
    attributes: Attributes
    calls: HistogramSnapshot


@dataclass(frozen=True, slots=True)
class Exponential:
    """Bucket i of `counts` is (base^(offset + i), base^(offset + i + 1)] seconds, base being 2^(2^-scale)."""

    scale: int
    offset: int
    counts: list[int]
    zero_count: int


def cells_of(durations_ns: Counts, bounds_ns: Bounds) -> npt.NDArray[np.int64]:
    """The cell of each duration: what the kernel does for the calls that it pairs."""
    return np.searchsorted(np.array(uppers(bounds_ns), np.uint64), durations_ns, side="left")


def between(histogram: HistogramSnapshot, bounds_ns: Sequence[int]) -> list[int]:
    """Counts of durations up to the first bound, from each to the next, (lower, upper], and of what is longer. The ladder has them."""
    cells = np.searchsorted(np.array(uppers(histogram.bounds_ns), np.uint64), np.array(bounds_ns, np.uint64))
    below = np.concatenate(([0], np.cumsum(histogram.counts)[cells], [histogram.counts.sum()])).astype(np.int64)
    return np.diff(below).tolist()  # type: ignore[no-any-return]


def explicit(histogram: HistogramSnapshot) -> tuple[list[float], list[int]]:
    """OTLP's explicit bounds in seconds, and one more count than bounds."""
    bounds = histogram.bounds_ns or ()
    return [bound / 1e9 for bound in bounds], between(histogram, bounds)


def exponential(histogram: HistogramSnapshot, max_size: int) -> Exponential:
    """OTLP's exponential buckets, at most `max_size` of them: where there are more, neighbours are put together, which is exact too."""
    zero, *counts = between(histogram, (0, *map(exponential_ns, EXPONENTS)))
    used = [i for i, count in enumerate(counts) if count]
    if not used:
        return Exponential(SCALE, 0, [], zero)
    first = EXPONENTS.start - 1
    low, high, scale = first + used[0], first + used[-1], SCALE
    while high - low >= max_size:
        low, high, scale = low >> 1, high >> 1, scale - 1
    merged = [0] * (high - low + 1)
    for i in used:
        merged[(first + i >> SCALE - scale) - low] += counts[i]
    return Exponential(scale, low, merged, zero)


def hist_lines(snapshots: Sequence[HistogramSnapshot | None], spans: Sequence[Span]) -> Iterator[dict[str, Any]]:
    """`hist_line` of every span probe that has a histogram; `snapshots` is parallel to `spans`, None for one without."""
    for snapshot, span in zip(snapshots, spans, strict=True):
        if snapshot is not None:
            yield hist_line(span.name, snapshot)


def hist_line(probe: str, snapshot: HistogramSnapshot) -> dict[str, Any]:
    """The object of `otel-usdt hist --json` (docs/json.md): counts not cumulative, from the first bucket in use to the last.

    `le_ns` is null for the bucket without an upper bound; `min_ns` and `max_ns` are null when nothing was counted. `series` is there when
    calls are counted apart.
    """
    apart = [{"attributes": dict(one.attributes), **_line(one.calls)} for one in snapshot.series]
    return {"probe": probe, **_line(snapshot), **({"series": apart} if apart else {})}


def _line(snapshot: HistogramSnapshot) -> dict[str, Any]:
    counts = between(snapshot, QUARTERS[:-1])
    used = [at for at, count in enumerate(counts) if count]
    buckets = [
        {"le_ns": None if at == len(QUARTERS) - 1 else QUARTERS[at], "count": counts[at]}
        for at in (range(used[0], used[-1] + 1) if used else ())
    ]
    least, most = (snapshot.min_ns, snapshot.max_ns) if snapshot.count else (None, None)
    return {"count": snapshot.count, "sum_ns": snapshot.sum_ns, "min_ns": least, "max_ns": most, "buckets": buckets}
