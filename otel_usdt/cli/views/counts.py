"""How often each probe fired. Standard library only, rich when drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from otel_usdt.cli.views.text import number, printable, table

if TYPE_CHECKING:
    from rich.console import Console

Line = dict[str, Any]


class Counts:
    """The latest count line of every probe, and the one before it, which makes a rate of the last interval."""

    def __init__(self) -> None:
        self._latest: dict[str, Line] = {}
        self._before: dict[str, Line] = {}

    def feed(self, line: Line) -> None:
        """Takes a count line of docs/json.md: totals since the attach."""
        if line["probe"] in self._latest:
            self._before[line["probe"]] = self._latest[line["probe"]]
        self._latest[line["probe"]] = line

    def rows(self) -> list[tuple[str, ...]]:
        """Probe, entries, calls, entries per second since the attach, and in the last interval; busiest first."""
        told: list[tuple[str, ...]] = []
        for probe, line in sorted(self._latest.items(), key=lambda item: -item[1]["entries"]):
            before = self._before.get(probe, {"entries": 0, "elapsed_s": 0.0})
            told.append(
                (
                    printable(probe),
                    number(int(line["entries"])),
                    number(int(line["calls"])),
                    _rate(line["entries"], line["elapsed_s"]),
                    _rate(line["entries"] - before["entries"], line["elapsed_s"] - before["elapsed_s"]),
                )
            )
        return told

    @property
    def elapsed_s(self) -> float:
        """Of the latest line."""
        return max((float(line["elapsed_s"]) for line in self._latest.values()), default=0.0)

    @property
    def repeated(self) -> bool:
        """Whether there is more than one interval, so that the last one has a rate of its own."""
        return bool(self._before)


_HEADER = ("probe", "entries", "calls", "/s", "/s now")


def plain(write: Callable[[str], None], counts: Counts) -> None:
    """A table, busiest first."""
    columns = len(_HEADER) - (not counts.repeated)
    rows = [row[:columns] for row in (_HEADER, *counts.rows())]
    for line in table(rows, "<>>>>"[:columns]):
        write(line)


def render(console: Console, counts: Counts) -> None:
    """A table, busiest first; probes that never fired are dimmed."""
    console.print(view(counts))


def view(counts: Counts) -> Any:
    """The table as something that rich can draw."""
    from rich.table import Table
    from rich.text import Text

    columns = len(_HEADER) - (not counts.repeated)
    drawn = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    for at, head in enumerate(_HEADER[:columns]):
        drawn.add_column(head, justify="right" if at else "left", no_wrap=True, overflow="ellipsis")
    for row in counts.rows():
        drawn.add_row(Text(row[0]), *row[1:columns], style="dim" if row[1] == "0" else "")
    return drawn


def _rate(count: int, seconds: float) -> str:
    return number(count / seconds) if seconds > 0 else "-"
