"""Shows a session while it runs: takes its lines, whatever they are, and draws or writes what they tell. rich only when it draws."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from otel_usdt.cli.views import counts, histograms, ledger, spans
from otel_usdt.cli.views.ticks import Line, Ticks

_TICK_S = 0.25  # a redraw, and the time that a straggling span has to join its tree


class View(Protocol):
    """What draws or writes the lines of a session."""

    def take(self, line: Line) -> None:
        """One line of a session."""

    def tick(self) -> None:
        """A moment to show what is complete."""


def show(
    lines: Iterable[Line],
    *,
    terminal: bool | None = None,
    on_tick: Callable[[], None] = lambda: None,
    on_interrupt: Callable[[], None] | None = None,
    traces: int | None = None,
) -> dict[str, Any]:
    """Shows `lines` (docs/json.md) until they end: spans as they complete, counts and histograms as they come, the ledger last.

    `terminal`: draw with rich, live; else plain text; by default as standard output is. `on_tick` is called a few times a second, in
    this thread. `on_interrupt` is called at the first Ctrl-C, and should make `lines` end; without it, and at the second one,
    KeyboardInterrupt goes up. `traces`: how many trees are written as plain text at most; further ones are only counted, and that is said.
    Returns the object of the ledger line, {} when none came.
    """
    if terminal is None:
        terminal = sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
    if terminal:
        from rich.console import Console

        from otel_usdt.cli.views.terminal import Terminal

        with Terminal(Console()) as drawn:
            return pump(lines, drawn, on_tick, on_interrupt)
    written = Text(_write, traces)
    told = pump(lines, written, on_tick, on_interrupt)
    written.end()
    return told


def pump(
    lines: Iterable[Line], view: View, on_tick: Callable[[], None] = lambda: None, on_interrupt: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Feeds `view` with `lines` until they end; the rest as in `show`."""
    told: dict[str, Any] = {}
    ticks = Ticks(lines, _TICK_S)
    while True:
        try:
            for line in ticks:
                if line is None:
                    view.tick()
                    on_tick()
                else:
                    view.take(line)
                    told = line.get("ledger", told)
            return told
        except KeyboardInterrupt:
            if on_interrupt is None:
                raise
            stop, on_interrupt = on_interrupt, None
            stop()


class Text:
    """The plain variant: each thing is written when it is complete, nothing is ever redrawn."""

    def __init__(self, write: Callable[[str], None], traces: int | None = None) -> None:
        self._write = write
        self._tree = spans.SpanTree()
        self._traces_left = traces
        self._not_written = 0
        self._counts = counts.Counts()
        self._histograms: dict[str, Line] = {}
        self._fresh = self._fed = False  # tables that were not written yet; and whether they still grew since the last tick
        self._ledger: ledger.Ledger | None = None

    def take(self, line: Line) -> None:
        """One line of a session."""
        if "span_id" in line:
            self._tree.feed(line)
        elif "ledger" in line:
            self._ledger = line["ledger"]
        else:
            if "buckets" in line:
                self._histograms[line["probe"]] = line
            else:
                self._counts.feed(line)
            self._fresh = self._fed = True

    def tick(self) -> None:
        """Writes the trees that are complete, and the tables of an interval."""
        self._write_traces(self._tree.complete())
        if self._fresh and not self._fed and self._ledger is None:
            self._write_tables()
            self._write("")
        self._fed = False

    def end(self) -> None:
        """Writes what is left: a session's last lines."""
        self._write_traces([*self._tree.complete(), *self._tree.rest()])
        if self._not_written:
            self._write(f"... and {self._not_written:,} more traces, not shown here")
        if self._fresh:
            self._write_tables()
        if self._ledger is not None:
            if self._counts.rows() or self._histograms or self._tree.spans:
                self._write("")
            ledger.plain(self._write, self._ledger)

    def _write_tables(self) -> None:
        self._fresh = False
        if self._counts.rows():
            counts.plain(self._write, self._counts)
        if self._histograms:
            if self._tree.spans:
                self._write("")
            histograms.plain(self._write, self._histograms.values())

    def _write_traces(self, traces: list[spans.Trace]) -> None:
        for trace in traces:
            if self._traces_left == 0:
                self._not_written += 1
                continue
            if self._traces_left is not None:
                self._traces_left -= 1
            spans.plain(self._write, trace)


def _write(line: str) -> None:
    print(line, flush=True)
