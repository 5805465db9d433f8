"""Our own metrics, before any format: otlp/encode_metrics.py and metrics/prometheus.py write them. docs/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """A name and what is said of it. `total` only grows; `level` goes up and down and may be summed; `histogram` has Distributions."""

    name: str
    unit: str  # UCUM
    kind: Literal["total", "level", "histogram"]
    description: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """Counts between `bounds`, (lower, upper], one more than there are bounds; `sum` of all that was counted."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric."""

    metric: Metric
    value: int | float | Distribution
    attributes: Mapping[str, str] = field(default_factory=dict)


# A ledger entry's metric, and its attribute there. Within one metric the attribute's values are disjoint, so that their sum means
# something: outcomes + waiting = entries + orphaned, and that is every call of which either end was seen.
_HITS = Metric(
    "otel_usdt.hits", "{hit}", "total",
    "Hits of the span probe's two ends; filtered ones were outside the scope and are in no other count",
)  # fmt: skip
_CALLS = Metric("otel_usdt.calls", "{call}", "total", "Calls by where they ended: exported, or lost or left out for the reason named")
_WAITING = Metric(
    "otel_usdt.calls.waiting", "{call}", "level", "Calls that have not ended yet, or whose spans are still to be exported"
)  # fmt: skip
_PAIRED = Metric("otel_usdt.calls.paired", "{call}", "total", "Calls whose entry and return were both seen")
_RECORDED = Metric("otel_usdt.calls.recorded", "{call}", "total", "Calls that became a span")
_TEXTS = Metric("otel_usdt.texts.lost", "{text}", "total", "Texts that could not be captured; their spans go out without them")
_JOINED = Metric("otel_usdt.calls.joined", "{call}", "total", "Calls whose parent came from outside, by where it was found")
_MALFORMED = Metric("otel_usdt.traceparents.malformed", "{text}", "total", "Traceparents that were not valid; their calls went on without")
_PLACES: dict[str, tuple[Metric, dict[str, str]]] = {
    "entries": (_HITS, {"otel_usdt.hit": "entry"}),
    "returns": (_HITS, {"otel_usdt.hit": "return"}),
    "filtered": (_HITS, {"otel_usdt.hit": "filtered"}),
    "calls": (_PAIRED, {}),
    "recorded": (_RECORDED, {}),
    "in_flight": (_WAITING, {"otel_usdt.where": "in_flight"}),
    "queued": (_WAITING, {"otel_usdt.where": "queued"}),
    "spooled": (_WAITING, {"otel_usdt.where": "spooled"}),
    "text_lost": (_TEXTS, {}),
    "joined_argument": (_JOINED, {"otel_usdt.join": "argument"}),
    "joined_obi": (_JOINED, {"otel_usdt.join": "obi"}),
    "bad_traceparent": (_MALFORMED, {}),
}


def ledger_points(ledger: Mapping[str, Mapping[str, int]]) -> list[Point]:
    """The ledger, {span probe's name: {entry: count}}.

    `otel_usdt.calls` has an `otel_usdt.outcome` for every way in which a call can end; an entry that this function does not
    know becomes an outcome too, so that none is lost.
    """
    points = []
    for name, entries in ledger.items():
        for entry, count in entries.items():
            metric, attributes = _PLACES.get(entry, (_CALLS, {"otel_usdt.outcome": entry}))
            points.append(Point(metric, int(count), {"otel_usdt.span.name": name, **attributes}))
    return points
