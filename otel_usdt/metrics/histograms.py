"""The kernel's latency histogram, read: 256 counts, four buckets an octave. Pure; the numbering is bpf/otel_usdt.bpf.c's `bucket`.

A duration of d nanoseconds has v = d - 1 (0 for 0). Bucket v holds v < 4; above, k = floor(log2 v) and bucket 4k + m, m being
the two bits after v's leading one. So a bucket is (lower, upper] in d, as OTLP's are, and every power of two is a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_usdt.plan import Span
from otel_usdt.stream.records import BUCKETS

UNUSED = slice(4, 8)  # k is at least 2 from v = 4 on, so buckets 4 to 7 never count anything
_FIRST_OCTAVE, _LAST_OCTAVE = 10, 34  # bounds from 2^10 ns (1.024 us, about what a probe costs) to 2^34 ns (17.2 s)


@dataclass(frozen=True, slots=True, eq=False)
class HistogramSnapshot:
    """One span probe's histogram, summed over CPUs. `counts` has 256 buckets; `min_ns` and `max_ns` mean nothing when `count` is 0."""

    counts: npt.NDArray[np.uint64]
    count: int
    sum_ns: int
    min_ns: int
    max_ns: int


def upper_bounds_ns() -> npt.NDArray[np.uint64]:
    """Upper bound, inclusive, of each of the 256 buckets. The last is 2^64 - 1: there is nothing above it. The unused ones repeat 4."""
    octave, quarter = np.divmod(np.arange(BUCKETS, dtype=np.uint64), np.uint64(4))
    bounds = (quarter + np.uint64(5)) << (np.maximum(octave, np.uint64(2)) - np.uint64(2))
    bounds[:4] = np.arange(1, 5)
    bounds[UNUSED] = 4
    bounds[-1] = np.iinfo(np.uint64).max
    return bounds


def bucket_of(durations_ns: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The bucket of each duration: what the kernel does for the calls that it pairs."""
    return np.searchsorted(upper_bounds_ns(), durations_ns, side="left")


def octaves(counts: npt.NDArray[np.uint64]) -> tuple[list[float], list[int]]:
    """OTLP's explicit bounds in seconds, and one more count than bounds: powers of two from 2^10 to 2^34 ns. No count is split."""
    per_octave = counts.reshape(-1, 4).sum(axis=1)  # row k is (2^k, 2^(k+1)]; row 0 is everything up to 4 ns
    inner = per_octave[_FIRST_OCTAVE:_LAST_OCTAVE].tolist()
    below, above = int(per_octave[:_FIRST_OCTAVE].sum()), int(per_octave[_LAST_OCTAVE:].sum())
    return [(1 << n) / 1e9 for n in range(_FIRST_OCTAVE, _LAST_OCTAVE + 1)], [below, *inner, above]


def hist_lines(snapshots: Sequence[HistogramSnapshot | None], spans: Sequence[Span]) -> Iterator[dict[str, Any]]:
    """`hist_line` of every span probe that has a histogram; `snapshots` is parallel to `spans`, None for one without."""
    for snapshot, span in zip(snapshots, spans, strict=True):
        if snapshot is not None:
            yield hist_line(span.name, snapshot)


def hist_line(probe: str, snapshot: HistogramSnapshot) -> dict[str, Any]:
    """The object of `otel-usdt hist --json` (docs/json.md): counts not cumulative, from the first bucket in use to the last.

    `le_ns` is null for the bucket without an upper bound; `min_ns` and `max_ns` are null when nothing was counted.
    """
    counts = snapshot.counts.copy()
    counts[3] += counts[UNUSED].sum()  # nothing is there; if it ever were, it would not be dropped
    counts[UNUSED] = 0
    used = np.flatnonzero(counts)
    bounds = upper_bounds_ns()
    buckets = [
        {"le_ns": None if at == BUCKETS - 1 else int(bounds[at]), "count": int(counts[at])}
        for at in (range(used[0], used[-1] + 1) if len(used) else ())
        if not UNUSED.start <= at < UNUSED.stop
    ]
    least, most = (snapshot.min_ns, snapshot.max_ns) if snapshot.count else (None, None)
    return {"probe": probe, "count": snapshot.count, "sum_ns": snapshot.sum_ns, "min_ns": least, "max_ns": most, "buckets": buckets}
