"""Latency histograms: ranges, counts, bars and percentiles. Standard library only, rich when drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otel_usdt.cli.views.text import duration, number, plural, printable, table

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 96  # columns of a terminal from which on the figures leave room beside them
_ROWS = 20  # of one histogram; finer buckets are put together until they fit
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SPARKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Bar:
    """A range of latencies, its lower bound exclusive. `lower_ns` -1: nothing is known below; `upper_ns` None: no end."""

    lower_ns: int
    upper_ns: int | None
    count: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of figures; percentiles are upper bounds, the end of the bucket in which they fall or the maximum, whichever is less."""

    probe: str
    count: int
    mean_ns: float
    min_ns: int
    max_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int


def summary(hist: dict[str, Any]) -> Summary:
    """The figures of a hist object of docs/json.md."""
    count = int(hist["count"])
    return Summary(
        probe=printable(hist["probe"]),
        count=count,
        mean_ns=hist["sum_ns"] / count if count else 0.0,
        min_ns=int(hist["min_ns"] or 0),
        max_ns=int(hist["max_ns"] or 0),
        p50_ns=percentile(hist, 50),
        p90_ns=percentile(hist, 90),
        p99_ns=percentile(hist, 99),
    )


def percentile(hist: dict[str, Any], percent: int) -> int:
    """The smallest bound in nanoseconds that `percent` of the calls surely stayed within; 0 for no calls."""
    total = sum(bucket["count"] for bucket in hist["buckets"])
    wanted = -(-total * percent // 100)
    seen = 0
    for bucket in hist["buckets"]:
        seen += bucket["count"]
        if seen >= wanted and total:
            longest = int(hist["max_ns"])
            return longest if bucket["le_ns"] is None else min(int(bucket["le_ns"]), longest)
    return 0


def bars(hist: dict[str, Any], rows: int = _ROWS) -> list[Bar]:
    """The buckets as ranges without gaps, in at most about `rows` of them: quarter octaves, else half ones, octaves, or several octaves."""
    buckets = [(b["le_ns"], int(b["count"])) for b in hist["buckets"]]
    for parts in (4, 2, 1):
        if len({_group(le, parts) for le, _ in buckets}) <= rows:
            return _merge(buckets, lambda le, parts=parts: _group(le, parts))  # type: ignore[misc]
    octaves = 2
    while len({_group(le, 1) // octaves for le, _ in buckets}) > rows:
        octaves += 1
    return _merge(buckets, lambda le: _group(le, 1) // octaves)


def _group(le_ns: int | None, parts: int) -> int:
    """A number shared by the buckets that end in the same 1/parts of an octave (2^k, 2^(k+1)]."""
    if le_ns is None:
        return 1 << 20
    last = max(le_ns - 1, 0)
    octave = last.bit_length()
    within = ((last << 2) >> (octave - 1)) & 3 if octave else 0  # which quarter of its octave
    return octave * parts + within * parts // 4


def _merge(buckets: list[tuple[int | None, int]], group: Callable[[int | None], int]) -> list[Bar]:
    told: list[Bar] = []
    groups: list[int] = []
    for le, count in buckets:
        mine = group(le)
        if groups and groups[-1] == mine:
            told[-1] = Bar(told[-1].lower_ns, le, told[-1].count + count)
        else:
            lower = told[-1].upper_ns if told else None
            told.append(Bar(-1 if lower is None else lower, le, count))
            groups.append(mine)
    return told


def spark(hist: dict[str, Any], octaves: range) -> str:
    """A histogram in one line: one column an octave of `octaves` (the ones of `octave_range`), as high as its share of the busiest."""
    counts = dict.fromkeys(octaves, 0)
    for bucket in hist["buckets"]:
        at = min(_group(bucket["le_ns"], 1), octaves[-1])
        counts[at] = counts.get(at, 0) + bucket["count"]
    most = max(counts.values(), default=0)
    return "".join(_SPARKS[-(-8 * counts[at] // most) if most else 0] for at in octaves)


def octave_range(hists: Iterable[dict[str, Any]]) -> range:
    """The octaves in which any of `hists` has a call: the common axis of their sparks."""
    used = [_group(b["le_ns"], 1) for h in hists for b in h["buckets"] if b["count"] and b["le_ns"] is not None]
    return range(min(used), max(used) + 1) if used else range(0, 1)


def _span(bar: Bar, ascii_only: bool) -> tuple[str, str]:
    lower = "" if bar.lower_ns < 0 else duration(bar.lower_ns, ascii_only=ascii_only)
    return lower, "longer" if bar.upper_ns is None else duration(bar.upper_ns, ascii_only=ascii_only)


def _used(hists: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The histograms with calls, and a line on the others, "" for none."""
    hists = list(hists)
    silent = [printable(h["probe"]) for h in hists if not h["count"]]
    return [h for h in hists if h["count"]], f"no calls: {', '.join(silent)}" if silent else ""


_HEADER = ("probe", "calls", "mean", "min", "p50 <=", "p90 <=", "p99 <=", "max")


def _figures(s: Summary, ascii_only: bool) -> tuple[str, ...]:
    times = (s.mean_ns, s.min_ns, s.p50_ns, s.p90_ns, s.p99_ns, s.max_ns)
    return (s.probe, number(s.count), *(duration(t, ascii_only=ascii_only) for t in times))


def plain(write: Callable[[str], None], hists: Iterable[dict[str, Any]]) -> None:
    """A table of figures, then each histogram that has calls, with bars of '#'."""
    used, silent = _used(hists)
    if used:
        for line in table([_HEADER, *(_figures(summary(h), True) for h in used)], "<>>>>>>>"):
            write(line)
    if silent:
        write(silent)
    for hist in used:
        write("")
        write(f"{printable(hist['probe'])}: {plural(int(hist['count']), 'call')}")
        drawn = bars(hist)
        most = max(bar.count for bar in drawn)
        rows = [(*_span(bar, True), number(bar.count), "#" * -(-40 * bar.count // most)) for bar in drawn]
        for line in table([("over", "up to", "calls", ""), *rows], ">>><"):
            write("  " + line)


def render(console: Console, hists: Iterable[dict[str, Any]], *, detail: int = 8) -> None:
    """A table of figures with one-line histograms on a common axis, then the `detail` busiest (by time spent) in full."""
    from rich.text import Text

    used, silent = _used(hists)
    if used:
        console.print(figures(used, console))
    if silent:
        console.print(Text(silent, style="dim"))
    shown = sorted(used, key=lambda h: int(h["sum_ns"]), reverse=True)[:detail]
    for hist in shown:
        console.print()
        _draw(console, hist)
    left = len(used) - len(shown)
    if left:
        console.print(Text(f"{plural(left, 'more probe')} with less time in all: figures in the table above", style="dim"))


def figures(hists: list[dict[str, Any]], console: Console) -> Any:
    """The table of figures, for rich; where there is room each line ends with its histogram on the axis that all share."""
    from rich.table import Table
    from rich.text import Text

    ascii_only = console.options.ascii_only
    axis = octave_range(hists)
    wide = console.width >= _WIDE
    drawn = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2 if wide else 1, 0, 0))
    for at, head in enumerate(_HEADER):
        head = head if ascii_only else head.replace("<=", "≤")
        drawn.add_column(head, justify="right" if at else "left", no_wrap=True, overflow="ellipsis")
    if wide and not ascii_only:
        drawn.add_column(f"{duration(1 << max(axis[0] - 1, 0))} … {duration(1 << axis[-1])}", no_wrap=True)
    for hist in hists:
        cells = _figures(summary(hist), ascii_only)
        last = () if ascii_only or not wide else (Text(spark(hist, axis), style="cyan"),)
        drawn.add_row(Text(cells[0], style="bold"), *cells[1:], *last)
    return drawn


def _draw(console: Console, hist: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    ascii_only = console.options.ascii_only
    drawn, s = bars(hist), summary(hist)
    most = max(bar.count for bar in drawn)
    width = max(10, min(60, console.width - 48))
    told = f"  {plural(s.count, 'call')}, {duration(hist['sum_ns'])} in all"
    console.print(Text(s.probe, style="bold").append(told, style="not bold dim"))
    grid = Table.grid(padding=(0, 1))
    for justify in ("right", "center", "right", "right", "left", "left"):
        grid.add_column(justify=justify, no_wrap=True)
    seen = 0
    for bar in drawn:
        seen += bar.count
        lower, upper = _span(bar, ascii_only)
        marks = [f"p{p}" for p, ns in ((50, s.p50_ns), (90, s.p90_ns), (99, s.p99_ns)) if bar.lower_ns < ns and ns <= (bar.upper_ns or ns)]
        grid.add_row(
            lower,
            "-",
            upper,
            Text(number(bar.count), style="bold" if bar.count else "dim"),
            Text(_bar(bar.count, most, width, ascii_only), style="cyan"),
            Text(" ".join([f"{100 * seen / s.count:.1f}%", *marks]) if bar.count else "", style="dim"),
        )
    console.print(grid)


def _bar(count: int, most: int, width: int, ascii_only: bool) -> str:
    """A bar whose length is the share of the fullest bucket; never empty for a count that is not 0."""
    if ascii_only:
        return "#" * -(-width * count // most)
    eighths = -(-8 * width * count // most)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
