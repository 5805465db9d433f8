"""The live display of a session, on the terminal's second screen while it runs; its last state and the tables on the first one after it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live

from otel_usdt.cli.views import counts, histograms, ledger, spans
from otel_usdt.cli.views.spans_live import LiveSpans
from otel_usdt.cli.views.text import duration
from otel_usdt.cli.views.ticks import Line

_DETAIL_BESIDE_SPANS, _DETAIL = 3, 8  # histograms in full; the table has the figures of all


class Terminal:
    """Takes the lines of a session and keeps the display; leaving it writes the tables and the ledger."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tree = spans.SpanTree()
        self._spans = LiveSpans(self._tree)
        self._counts = counts.Counts()
        self._histograms: dict[str, Line] = {}
        self._ledger: ledger.Ledger | None = None
        # Redrawn by tick() alone: no thread of rich's reads what this one is changing. A screen of its own, redrawn whole: what the
        # supervisor says to the same terminal meanwhile cannot push it out of place.
        self._live = Live(console=console, auto_refresh=False, screen=True)

    def __enter__(self) -> Self:
        return self  # the display starts with the first thing to show: until then others write to this terminal

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()
        self._spans.take(self._tree.rest())
        if self._tree.spans:
            self._console.print(self._spans)
            self._console.print()
        if error is None:
            self._tables()

    def take(self, line: Line) -> None:
        """One line of a session."""
        if "span_id" in line:
            self._tree.feed(line)
        elif "buckets" in line:
            self._histograms[line["probe"]] = line
        elif "ledger" in line:
            self._ledger = line["ledger"]
        else:
            self._counts.feed(line)

    def tick(self) -> None:
        """Redraws."""
        self._spans.take(self._tree.complete())
        if self._tree.spans or self._counts.repeated or self._histograms:
            self._live.start()
            self._live.update(self._now(), refresh=True)

    def _now(self) -> RenderableType:
        if self._tree.spans or not (self._counts.repeated or self._histograms):
            return self._spans
        shown: list[RenderableType] = []
        if self._counts.repeated:
            shown += [f"[bold]{duration(self._counts.elapsed_s * 1e9)}[/]", counts.view(self._counts)]
        if self._histograms:
            shown.append(histograms.figures([h for h in self._histograms.values() if h["count"]], self._console))
        return Group(*shown)

    def _tables(self) -> None:
        if self._counts.rows():
            counts.render(self._console, self._counts)
            self._console.print()
        if self._histograms:
            histograms.render(self._console, self._histograms.values(), detail=_DETAIL_BESIDE_SPANS if self._tree.spans else _DETAIL)
            self._console.print()
        if self._ledger is not None:
            ledger.render(self._console, self._ledger)
