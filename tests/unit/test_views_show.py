"""A session's lines shown while they come: order, ticks, Ctrl-C, errors; and rich is not imported for a pipe."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from otel_usdt.cli.views.show import Text, pump, show
from otel_usdt.cli.views.terminal import Terminal
from otel_usdt.cli.views.ticks import Ticks
from otel_usdt.metrics.ledger import NAMES

Line = dict[str, Any]

LEDGER: Line = {"ledger": {"query": dict.fromkeys(NAMES, 0) | {"entries": 1, "returns": 1, "calls": 1, "recorded": 1, "exported": 1}}}
HIST: Line = {"probe": "query", "count": 1, "sum_ns": 900, "min_ns": 900, "max_ns": 900, "buckets": [{"le_ns": 1024, "count": 1}]}


def span(trace: int = 1, name: str = "query") -> Line:
    times = {"start_time_unix_nano": 1_764_000_000_000_000_000, "end_time_unix_nano": 1_764_000_000_000_000_900}
    ids = {"trace_id": f"{trace:032x}", "span_id": f"{trace:016x}", "parent_span_id": ""}
    return {"name": name, **ids, **times, "pid": 7, "tid": 7, "status": "UNSET", "attributes": {}}


def count(elapsed_s: float, entries: int) -> Line:
    return {"probe": "query", "entries": entries, "calls": entries, "elapsed_s": elapsed_s}


def test_plain_session_is_trees_then_figures_then_the_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    """All three kinds in one session, in this order; the ledger's object is handed back."""
    ledger = show([span(), span(2), HIST, LEDGER], terminal=False)
    lines = capsys.readouterr().out.splitlines()
    assert ledger == LEDGER["ledger"]
    assert [line.split()[3] for line in lines[:2]] == ["query", "query"]
    assert lines[3].startswith("probe")
    assert lines[-1] == "closed: every call is accounted for (1 entry)"


def test_only_so_many_trees_are_written_and_the_rest_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not shown is said."""
    show([span(i) for i in range(10)], terminal=False, traces=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[-1] == "... and 7 more traces, not shown here"


def test_trees_are_written_while_the_session_runs() -> None:
    """A quiet session's span does not wait for the end: the next ticks bring it."""
    written: list[str] = []
    text = Text(written.append)
    text.take(span())
    text.tick()
    assert written == []
    text.tick()
    assert len(written) == 1


def test_tables_of_intervals_are_written_once_each() -> None:
    """An interval's lines make one table when they are all there; the last one is not repeated at the end."""
    written: list[str] = []
    text = Text(written.append)
    for at in (1.0, 2.0):
        text.take(count(at, int(at)))
        for _ in range(3):
            text.tick()
    text.end()
    assert [line.split()[0] for line in written if line] == ["probe", "query"] * 2


def test_ctrl_c_stops_the_session_and_loses_no_line() -> None:
    """The first one asks the session to stop and reads on; what it still says is shown."""
    stopped = threading.Event()

    def lines() -> Iterator[Line]:
        yield span()
        assert stopped.wait(10)
        yield LEDGER

    class Interrupted(Text):
        interrupted = False

        def tick(self) -> None:
            super().tick()
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt

    view = Interrupted(lambda _: None)
    assert pump(lines(), view, on_interrupt=stopped.set) == LEDGER["ledger"]


def test_second_ctrl_c_goes_up() -> None:
    """Who presses it twice wants out."""

    def tick() -> None:
        raise KeyboardInterrupt

    forever = threading.Event()

    def lines() -> Iterator[Line]:
        yield span()
        forever.wait(10)

    with pytest.raises(KeyboardInterrupt):
        pump(lines(), Text(lambda _: None), tick, lambda: None)
    forever.set()


def test_errors_of_the_session_go_up() -> None:
    """A broken line ends the view with its error, not in silence."""

    def lines() -> Iterator[Line]:
        yield span()
        raise ValueError("no JSON")

    with pytest.raises(ValueError, match="no JSON"):
        pump(lines(), Text(lambda _: None))


def test_ticks_come_between_lines_however_fast_they_are() -> None:
    """A busy session does not starve the display."""
    seen = list(Ticks(({"n": i} for i in range(20_000)), 0.001))
    assert [one["n"] for one in seen if one] == list(range(20_000))
    assert None in seen


def test_terminal_draws_on_a_second_screen_and_leaves_the_result() -> None:
    """While it runs the display has the alternate screen; the last state, the figures and the ledger stay on the first one."""
    out = io.StringIO()
    with Terminal(Console(file=out, width=100, height=30, force_terminal=True)) as view:
        for one in (span(), span(2, "slow query"), HIST, LEDGER):
            view.take(one)
            view.tick()
            view.tick()
    live, _, left = out.getvalue().rpartition("\x1b[?1049l")
    assert "\x1b[?1049h" in live
    for what in ("slow query", "p99 ≤", "closed"):
        assert what in left


def test_terminal_without_spans_shows_figures_alone() -> None:
    """A session of counts has no empty tree above its table."""
    out = io.StringIO()
    with Terminal(Console(file=out, width=100, height=30, force_terminal=True, color_system=None)) as view:
        view.take(count(2.0, 14))
    assert out.getvalue().split() == ["probe", "entries", "calls", "/s", "query", "14", "14", "7.0"]


def test_plain_views_do_not_import_rich() -> None:
    """A pipe does not pay for colours: start-up stays quick."""
    program = (
        "import sys\n"
        "from otel_usdt.cli.views import plan\n"
        "from otel_usdt.cli.views.show import show\n"
        "show([], terminal=False)\n"
        "sys.exit(' '.join(m for m in ('rich', 'numpy', 'pydantic') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
