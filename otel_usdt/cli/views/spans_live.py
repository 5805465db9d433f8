"""Traces as trees on a terminal: how long each span took, and where in its trace's time it lies."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from otel_usdt.cli.views.spans import Row, SpanTree, Trace, clock, news
from otel_usdt.cli.views.text import cells, duration, plural, shorten

_TRACE_ROWS = 16  # of one tree in the live view; longer ones are folded to their longest spans
_LEAST_ROWS = 5  # a tree folded to less tells nothing


def render(console: Console, traces: Iterable[Trace], *, rows: int = 1000) -> None:
    """Draws whole trees, `rows` spans of each at most."""
    console.print(Trees(list(traces), rows))


class LiveSpans:
    """What a live display shows: totals, the slowest trace so far, and the newest ones as far as the window is high."""

    def __init__(self, tree: SpanTree) -> None:
        self.tree = tree
        self._traces = 0
        self._in_parts = 0  # spans of trees whose root did not come: too little to draw among whole ones, but said
        self._newest: deque[Trace] = deque(maxlen=40)
        self._slowest: Trace | None = None

    def take(self, traces: Iterable[Trace]) -> None:
        """More traces, oldest first."""
        for trace in traces:
            self._traces += not trace.partial
            self._in_parts += len(trace.rows) if trace.partial else 0
            if trace.rows and not trace.partial:
                self._newest.append(trace)
                if self._slowest is None or trace.duration_ns > self._slowest.duration_ns:
                    self._slowest = trace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._totals()
        if self._slowest is None:
            return
        room = max(8, (options.height or console.height) - 4)
        slow_rows = min(_TRACE_ROWS, max(4, room // 3))
        yield Text("slowest so far", style="dim")
        slowest = Trees([self._slowest], slow_rows)
        yield slowest
        room -= slowest.height + 2
        shown: list[Trees] = []
        for trace in reversed(self._newest):
            if room < _LEAST_ROWS and shown:
                break
            tree = Trees([trace], min(_TRACE_ROWS, max(room, _LEAST_ROWS)))
            shown.append(tree)
            room -= tree.height + 1
        yield Text("newest", style="dim")
        yield Trees.joined(shown)

    def _totals(self) -> Text:
        text = Text(f"{plural(self.tree.spans, 'span')} in {plural(self._traces, 'trace')}", style="bold")
        if self.tree.errors:
            text.append(f" · {plural(self.tree.errors, 'error')}", style="red")
        if self.tree.waiting:
            text.append(f" · {self.tree.waiting:,} in calls that have not returned yet", style="dim")
        if self._in_parts:
            text.append(f" · {self._in_parts:,} of traces whose root was not seen to return", style="yellow")
        return text


class Trees:
    """Some traces in one table, so that their columns line up."""

    def __init__(self, traces: Sequence[Trace], rows: int) -> None:
        self._folded = [(trace, *fold(trace.rows, rows)) for trace in traces]

    @classmethod
    def joined(cls, trees: Sequence[Trees]) -> Trees:
        """All of them in one table."""
        made = cls([], 0)
        made._folded = [one for tree in trees for one in tree._folded]
        return made

    @property
    def height(self) -> int:
        """Lines that it takes."""
        lines = sum(len(rows) + (left + trace.cut > 0) + bool(trace.partial) for trace, rows, left in self._folded)
        return lines + max(0, len(self._folded) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, ascii_only = options.max_width, options.ascii_only
        names = [cells(row.span.name) + 3 * row.depth for _, rows, _ in self._folded for row in rows]
        name_width = min(max(names, default=10), max(16, width * 2 // 5))
        bar_width = 30 if width >= 110 else 20 if width >= 80 else 10
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=name_width, no_wrap=True, overflow="ellipsis")
        grid.add_column(width=10, justify="right", no_wrap=True)
        grid.add_column(width=bar_width, no_wrap=True)
        grid.add_column(width=max(8, width - name_width - bar_width - 13), no_wrap=True, overflow="ellipsis")
        for at, (trace, rows, left) in enumerate(self._folded):
            if at:
                grid.add_row()
            if trace.partial:
                grid.add_row("", "", "", Text(trace.partial, style="yellow"))
            top = rows[0].span if rows else None
            for row, guide in zip(rows, guides([row.depth for row in rows], ascii_only), strict=True):
                details = Text()
                if row.span is top:
                    details.append(f"{clock(row.span.start_ns)[:-4]}  pid {row.span.pid}  ", style="dim")
                elif top and row.span.tid != top.tid:
                    details.append(f"tid {row.span.tid}  ", style="dim")
                style = "bold red" if row.span.error else "bold" if row.depth == 0 else "none"
                grid.add_row(
                    Text.assemble((guide, "dim"), (row.span.name, style)),
                    Text(duration(row.span.duration_ns, ascii_only=ascii_only), style=_heat(row, trace)),
                    Text(gantt(row, trace, bar_width, ascii_only), style="red" if row.span.error else "cyan"),
                    _details(details, row),
                )
            if left or trace.cut:
                more = [f"{left:,} shorter"] if left else []
                more += [f"{trace.cut:,} not kept"] if trace.cut else []
                grid.add_row(Text("..." if ascii_only else "…", style="dim"), "", "", Text(", ".join(more), style="dim italic"))
        yield Group(grid)


def fold(rows: Sequence[Row], limit: int) -> tuple[list[Row], int]:
    """At most about `limit` rows: the longest spans with all their ancestors, in the order they had; and how many were left out."""
    if len(rows) <= limit:
        return list(rows), 0
    path: list[int] = []
    parents: list[int] = []  # of each row the place of its parent, -1 for none
    for at, row in enumerate(rows):
        del path[row.depth :]
        parents.append(path[-1] if path else -1)
        path.append(at)
    kept: set[int] = set()
    for at in sorted(range(len(rows)), key=lambda i: (rows[i].depth > 0, -rows[i].span.duration_ns)):
        line = []
        while at >= 0 and at not in kept:
            line.append(at)
            at = parents[at]
        if len(kept) + len(line) <= limit - 1:  # one line is for what is left out
            kept.update(line)
    return [row for at, row in enumerate(rows) if at in kept], len(rows) - len(kept)


def guides(depths: Sequence[int], ascii_only: bool = False) -> list[str]:
    """The lines that join each row to its parent, three columns a level, for rows in depth-first order."""
    tee, corner, line = ("|- ", "`- ", "|  ") if ascii_only else ("├─ ", "└─ ", "│  ")
    told: list[str] = []
    more: list[bool] = []  # of each level, whether a later row of it has the same parent
    for depth in reversed(depths):
        more.extend([False] * (depth + 1 - len(more)))
        above = "".join(line if more[level] else "   " for level in range(1, depth))
        told.append(above + (tee if more[depth] else corner) if depth else "")
        more[depth] = True
        del more[depth + 1 :]
    return told[::-1]


def gantt(row: Row, trace: Trace, width: int, ascii_only: bool = False) -> str:
    """Where in the trace's time the span lies: a bar in `width` columns, at least half a column long."""
    whole = max(1, trace.duration_ns)
    begin = (row.span.start_ns - trace.start_ns) * 2 * width // whole  # in half columns
    end = -((trace.start_ns - row.span.end_ns) * 2 * width // whole)
    begin = min(begin, 2 * width - 1)
    end = max(end, begin + 1)
    if ascii_only:
        return " " * (begin // 2) + "=" * (-(-end // 2) - begin // 2)
    bar = " " * (begin // 2)
    if begin % 2:
        bar, begin = bar + "╺", begin + 1
    return bar + "━" * ((end - begin) // 2) + ("╸" if end > begin and (end - begin) % 2 else "")


def _heat(row: Row, trace: Trace) -> str:
    """A colour by the share of the trace's time."""
    share = row.span.duration_ns / max(1, trace.duration_ns)
    if row.depth == 0:
        return "bold"
    return "red" if share >= 0.5 else "yellow" if share >= 0.2 else "green"


def _details(text: Text, row: Row) -> Text:
    if row.span.error:
        text.append(f"ERROR {row.span.attributes.get('error.type', '')} ".replace("  ", " "), style="bold red")
    for key, value in news(row).items():
        if isinstance(value, str):  # a text speaks for itself, and the room is short
            text.append(shorten(value, 200) + "  ")
        else:
            text.append(f"{key}=", style="dim").append(f"{value}  ")
    text.rstrip()
    return text
