"""What a suite of the benchmark says: rows, some with a floor, and curves for the pictures. Pure data; JSON and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

WIDE = 3.0  # of a quick run's floors: on a busy machine a short run's ratio is good to a factor of two


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure, round for round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the most."""
        return min(self.values), max(self.values)


@dataclass(frozen=True, slots=True)
class Floor:
    """What a row must reach: its ratio where it has a peer, else its own figure. `margin` None: a quick run does not judge it."""

    limit: float
    at_least: bool
    margin: float | None

    def reached(self, figure: float, quick: bool) -> bool | None:
        """None: not judged."""
        if quick and self.margin is None:
            return None
        slack = (self.margin or 1.0) if quick else 1.0
        return figure >= self.limit / slack if self.at_least else figure <= self.limit * slack

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {told(self.limit)}"


def at_least(limit: float, margin: float | None = WIDE) -> Floor:
    """More is better. No margin for what is so many a second: it is this machine's, today, and no quick run's business."""
    return Floor(limit, True, margin)


def at_most(limit: float, margin: float | None = WIDE) -> Floor:
    """Less is better."""
    return Floor(limit, False, margin)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `ours` and `peer` measured in turn, in one run. `bare` is the program without any tracer."""

    figure: str
    unit: str
    ours: Spread
    peer: Spread | None = None
    against: str = ""  # who the peer is
    bare: Spread | None = None
    floor: Floor | None = None

    @property
    def ratio(self) -> float | None:
        """Of the medians."""
        if self.peer is None:
            return None
        return self.ours.median / self.peer.median if self.peer.median else float("inf")

    @property
    def ratios(self) -> tuple[float, float] | None:
        """The least and the most of one round: both measured one right after the other."""
        if self.peer is None or len(self.ours.values) != len(self.peer.values):
            return None
        each = [mine / theirs if theirs else float("inf") for mine, theirs in zip(self.ours.values, self.peer.values, strict=True)]
        return min(each), max(each)

    def verdict(self, quick: bool) -> bool | None:
        """Is the floor reached? None: there is none, or a quick run does not judge it."""
        ratio = self.ratio
        return self.floor.reached(self.ours.median if ratio is None else ratio, quick) if self.floor else None


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one line of a picture."""

    picture: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


Result = Row | Curve


def told(value: float) -> str:
    """A number for people: three digits, or all of a whole number."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"


def spread(one: Spread | None) -> str:
    """A figure with the least and the most of its rounds."""
    if one is None:
        return ""
    return told(one.median) + (f" [{told(one.ends[0])} .. {told(one.ends[1])}]" if len(one.values) > 1 else "")


def ratio(row: Row) -> str:
    """A ratio with the least and the most of single rounds."""
    if row.ratio is None:
        return ""
    return f"{row.ratio:.2f}" + (f" [{row.ratios[0]:.2f} .. {row.ratios[1]:.2f}]" if row.ratios and row.ours.values[1:] else "")


def to_json(results: Iterable[Result]) -> list[dict[str, Any]]:
    """As they are kept for the pictures."""
    return [_row(one) if isinstance(one, Row) else {"curve": one.picture, "label": one.label, "x": one.x, "y": one.y} for one in results]


def from_json(kept: Iterable[Mapping[str, Any]]) -> list[Result]:
    """The same again."""
    return [_of(one) for one in kept]


def _row(row: Row) -> dict[str, Any]:
    spreads = {name: list(one.values) for name in ("ours", "peer", "bare") if (one := getattr(row, name)) is not None}
    floor = {"floor": {"limit": row.floor.limit, "at_least": row.floor.at_least, "margin": row.floor.margin}} if row.floor else {}
    return {"figure": row.figure, "unit": row.unit, "against": row.against, **spreads, **floor}


def _of(kept: Mapping[str, Any]) -> Result:
    if "curve" in kept:
        return Curve(kept["curve"], kept["label"], tuple(kept["x"]), tuple(kept["y"]))
    spreads = {name: Spread(tuple(kept[name])) for name in ("ours", "peer", "bare") if name in kept}
    floor = Floor(**kept["floor"]) if "floor" in kept else None
    return Row(kept["figure"], kept["unit"], against=kept["against"], floor=floor, **spreads)
