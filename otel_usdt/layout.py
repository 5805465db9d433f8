"""Where a plan's numbers lie in the kernel's arrays: what the supervisor sizes and the pipeline reads. Pure; standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from otel_usdt.ladder import uppers
from otel_usdt.plan import Span

Bounds = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """`counters` is [cpu][span], `histogram` [cpu][row][cell], `extents` [cpu][row], `series` [row - spans].

    A span probe's row has its own number; behind them are the rows of its series, where it has some.
    """

    spans: int
    rows: int
    ladders: tuple[Bounds, ...]  # each once, in the order of `ladders`
    cells: int  # of the longest
    series: tuple[range, ...] = ()  # of each span probe

    def ladder(self, span: Span) -> int:
        """Which of the ladders it is counted by; 0 where it has no histogram."""
        return self.ladders.index(span.bounds_ns) if has_histogram(span) else 0


def has_histogram(span: Span) -> bool:
    """Are its durations counted?"""
    return span.mode != "count" and span.kind != "point"


def is_apart(span: Span) -> bool:
    """Are its calls counted apart, by dimensions or by failure?"""
    return has_histogram(span) and bool(span.dimensions or span.error)


def room_of(span: Span) -> int:
    """How many series it may have."""
    if not is_apart(span):
        return 0
    by_failure_alone = not span.dimensions and span.error is not None and span.error.type
    return min(2, span.max_series) if by_failure_alone else span.max_series


def layout_of(spans: Sequence[Span]) -> Layout:
    """Of the plan that has these span probes."""
    ladders = tuple(dict.fromkeys(span.bounds_ns for span in spans if has_histogram(span)))
    cells = max((len(uppers(bounds)) for bounds in ladders), default=1)
    ends = list(accumulate((room_of(span) for span in spans), initial=len(spans)))
    return Layout(len(spans), ends[-1], ladders, cells, tuple(range(*pair) for pair in pairwise(ends)))
