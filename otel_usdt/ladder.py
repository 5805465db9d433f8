"""The ladder of bounds by which durations are counted, in the kernel and here. Pure; standard library only, for the supervisor uses it.

A histogram's counts are in cells: cell i has what is in (uppers[i - 1], uppers[i]] nanoseconds. The ladder has the bounds that a span
probe's histogram is told by, and beside them four an octave (QUARTERS), which `otel-usdt hist` shows: so what is told by either is a sum
of whole cells, exact, and no count is ever split.

The kernel finds a cell in two steps: eight buckets an octave by the leading bits of the duration, then one comparison, for a step of that
width may have one bound within it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import isqrt

STEPS = 512  # eight an octave over all of u64; bpf/record.h STEPS
LONGEST_NS = (1 << 64) - 1
MAX_BOUNDS = 200  # of an explicit histogram
MAX_CELLS = 512  # no ladder has more: 252 quarters, and at most 256 bounds between them
SCALE = 2  # of exponential histograms: buckets of 2^(1/4). SDKs come to it as well, with 160 buckets for what lies between 1 us and 10 s

# OpenTelemetry's advice for durations (semantic conventions, http.server.request.duration) begins at 5 ms. A program's own steps take
# microseconds: so it goes on downwards in the same rhythm, to about what a probe costs itself.
BOUNDS_NS = (
    *(digits * 10**power // 10 for power in (3, 4, 5) for digits in (10, 25, 50, 75)),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 75_000_000, 100_000_000, 250_000_000, 500_000_000, 750_000_000),
    *(1_000_000_000, 2_500_000_000, 5_000_000_000, 7_500_000_000, 10_000_000_000),
)  # fmt: skip
QUARTERS = (1, 2, 3, 4, *(min((5 + quarter) << octave, LONGEST_NS) for octave in range(62) for quarter in range(4)))


def exponential_ns(index: int) -> int:
    """The longest whole duration within 2^(index / 4) seconds: the upper bound, inclusive, of bucket index - 1 at scale 2."""
    shifted = 10**36 << index if index >= 0 else 10**36 >> -index
    return isqrt(isqrt(shifted))


EXPONENTS = range(-120, 137)  # from less than 1 ns to the last whose bound fits into 64 bits
EXPONENTIAL_NS = (0, *sorted({exponential_ns(index) for index in EXPONENTS} - {0}))


@lru_cache
def uppers(bounds_ns: tuple[int, ...] | None) -> tuple[int, ...]:
    """The upper bound, inclusive, of each cell, for explicit bounds, or (None) for an exponential histogram."""
    return tuple(sorted({*QUARTERS, *(EXPONENTIAL_NS if bounds_ns is None else bounds_ns)}))


def step_of(duration_ns: int) -> int:
    """The arithmetic of bpf/histogram.bpf.h: which of the eight steps of its octave a duration is in, (lower, upper]."""
    v = max(duration_ns - 1, 0)
    if v < 8:
        return v
    octave = v.bit_length() - 1
    return octave << 3 | (v >> (octave - 3) & 7)


def steps(cells: Sequence[int]) -> list[tuple[int, int]]:
    """For each of the kernel's steps the bound within it, if there is one, and the cell of what is not longer than that; what is, is in
    the next. `cells` are `uppers`, of which no two lie within one step (see `crowded`)."""
    found = []
    for step in range(STEPS):
        octave, eighth = step >> 3, step & 7
        if octave in (1, 2):
            found.append((LONGEST_NS, 0))  # durations of less than 9 ns have a step each: nothing is ever counted here
            continue
        lower, upper = (step if step else -1, step + 1) if not octave else ((8 + eighth) << (octave - 3), (9 + eighth) << (octave - 3))
        cell = bisect_left(cells, lower + 1)
        found.append((cells[cell] if cells[cell] < min(upper, LONGEST_NS) else LONGEST_NS, cell))
    return found


def crowded(bounds_ns: Sequence[int]) -> tuple[int, int] | None:
    """Two bounds, of ones that rise, which the kernel could not tell apart; None when all is well. A ratio of 9/8 is always enough."""
    quarters = set(QUARTERS)
    within = [bound for bound in bounds_ns if bound not in quarters]
    return next(((low, high) for low, high in pairwise(within) if step_of(low) == step_of(high) and not _at_end(high)), None)


def _at_end(bound: int) -> bool:
    """Is it the upper bound of its step, which needs no comparison?"""
    return step_of(bound) != step_of(bound + 1)
