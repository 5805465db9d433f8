"""Where a plan's numbers lie in the kernel's arrays: what the supervisor sizes and the pipeline reads. Pure; standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from otel_usdt.ladder import uppers
from otel_usdt.plan import Span

Bounds = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """`counters` is [cpu][span], `histogram` [cpu][row][cell]; a span probe's row has its own number."""

    spans: int
    rows: int
    ladders: tuple[Bounds, ...]  # each once, in the order of `ladders`
    cells: int  # of the longest

    def ladder(self, span: Span) -> int:
        """Which of the ladders it is counted by; 0 where it has no histogram."""
        return self.ladders.index(span.bounds_ns) if has_histogram(span) else 0


def has_histogram(span: Span) -> bool:
    """Are its durations counted?"""
    return span.mode != "count" and span.kind != "point"


def layout_of(spans: Sequence[Span]) -> Layout:
    """Of the plan that has these span probes."""
    ladders = tuple(dict.fromkeys(span.bounds_ns for span in spans if has_histogram(span)))
    return Layout(len(spans), len(spans), ladders, max((len(uppers(bounds)) for bounds in ladders), default=1))
