"""Trees of spans: whole, in pieces, many, and hostile; in a pipe and on a terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from otel_usdt.cli.views.spans import SpanTree, Trace, plain
from otel_usdt.cli.views.spans_live import LiveSpans, Trees, fold, gantt, guides, render

T0 = 1_764_000_000_000_000_000  # 2025-11-24 16:00:00 UTC


def line(
    name: str, span: int, parent: int, start_us: float, us: float, *, trace: int = 1, error: bool = False, **more: Any
) -> dict[str, Any]:
    """A span line of docs/json.md; times in microseconds after T0."""
    start = T0 + round(start_us * 1000)
    return {
        "name": name,
        "trace_id": f"{trace:032x}",
        "span_id": f"{span:016x}",
        "parent_span_id": f"{parent:016x}" if parent else "",
        "start_time_unix_nano": start,
        "end_time_unix_nano": start + round(us * 1000),
        "pid": more.pop("pid", 4242),
        "tid": more.pop("tid", 4242),
        "status": "ERROR" if error else "UNSET",
        "attributes": {k.replace("__", "."): v for k, v in more.items()},
    }


def query(trace: int = 1) -> list[dict[str, Any]]:
    """A query as it arrives: children first, the root last."""
    sql = "SELECT 'žluť'\n  FROM\tt"
    return [
        line("parse", 2, 1, 6.74, 44.8, trace=trace, db__query__text=sql, code__function__name="pg_parse_query"),
        line("lock wait", 4, 3, 300, 1500, trace=trace, postgresql__lock__type=5),
        line("execute", 3, 1, 245, 2000, trace=trace, error=True, error__type="-1"),
        line("query", 1, 0, 0, 2310, trace=trace, db__query__text=sql),
    ]


def fed(lines: list[dict[str, Any]], tree: SpanTree | None = None) -> SpanTree:
    tree = tree or SpanTree()
    for one in lines:
        tree.feed(one)
    return tree


def settled(tree: SpanTree) -> list[Trace]:
    """What is complete once nothing more has come for a tick."""
    return [*tree.complete(), *tree.complete()]


def text(trace: Trace) -> str:
    told: list[str] = []
    plain(told.append, trace)
    return "\n".join(told)


def drawn(shown: object, width: int = 100, height: int = 40, *, color: bool = False, encoding: str = "utf-8") -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    color_system = "truecolor" if color else None
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=color_system, legacy_windows=False)  # type: ignore[arg-type]
    console.print(shown)
    out.flush()
    buffer = out.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(encoding)


def names(trace: Trace) -> list[tuple[int, str]]:
    return [(row.depth, row.span.name) for row in trace.rows]


def test_tree_is_plain_text_a_line_a_span() -> None:
    """Root's clock, offsets from it, durations, names indented; no attribute twice; foreign text on one line."""
    (trace,) = settled(fed(query()))
    assert text(trace).splitlines() == [
        "16:00:00.000000Z    2.31 ms  query          pid=4242 tid=4242  trace=00000000000000000000000000000001  "
        "db.query.text=\"SELECT 'žluť' FROM t\"",
        "        +6.74 us    44.8 us    parse",
        "         +245 us    2.00 ms    execute      ERROR -1",
        "         +300 us    1.50 ms      lock wait  postgresql.lock.type=5",
    ]


def test_tree_is_drawn_with_bars_where_the_time_went() -> None:
    """The golden picture at 100 columns: guides, times to the right, bars to scale, the text of the query."""
    (trace,) = settled(fed(query()))
    assert [row.rstrip() for row in drawn(Trees([trace], 20)).splitlines()] == [
        "query              2.31 ms ━━━━━━━━━━━━━━━━━━━━ 16:00:00.000  pid 4242  SELECT 'žluť' FROM t",
        "├─ parse           44.8 µs ╸",
        "└─ execute         2.00 ms   ━━━━━━━━━━━━━━━━━╸ ERROR -1",
        "   └─ lock wait    1.50 ms   ╺━━━━━━━━━━━━━     postgresql.lock.type=5",
    ]


def test_colours_show_share_and_errors() -> None:
    """Most of the trace's time is red, little of it green, an error bold red."""
    (trace,) = settled(fed(query()))
    ansi = drawn(Trees([trace], 20), color=True)
    assert re.search(r"\x1b\[32m +44.8 µs", ansi)
    assert re.search(r"\x1b\[31m +1.50 ms", ansi)
    assert "\x1b[1;31mERROR -1" in ansi


def test_terminal_without_unicode_gets_ascii() -> None:
    """Where the terminal's encoding is ASCII, guides, bars and units are, too."""
    (trace,) = settled(fed([*query()[1:3], line("query", 1, 0, 0, 2310)]))
    rows = drawn(Trees([trace], 20), encoding="ascii").splitlines()
    assert rows[1].startswith("`- execute")
    assert "=====" in rows[1]
    assert "2.00 ms" in rows[1]


def test_root_before_its_children_is_one_tree() -> None:
    """Records with text come by another way, so a root may overtake its children by a little."""
    lines = query()
    tree = fed([lines[-1]])
    assert tree.complete() == []
    fed(lines[:-1], tree)
    (trace,) = settled(tree)
    assert names(trace) == [(0, "query"), (1, "parse"), (1, "execute"), (2, "lock wait")]
    assert tree.waiting == 0


def test_child_that_outlives_its_root_goes_on_from_it() -> None:
    """BEGIN's query has long returned when its transaction ends: the rest comes as a second piece, with the queries in it."""
    tree = fed([line("query", 1, 0, 0, 100)])
    (first,) = settled(tree)
    fed([line("parse", 12, 10, 510, 10), line("query", 10, 2, 500, 100)], tree)
    assert settled(tree) == []
    fed([line("transaction", 2, 1, 50, 900)], tree)
    (second,) = settled(tree)
    assert names(first) == [(0, "query")]
    assert names(second) == [(0, "transaction"), (1, "query"), (2, "parse")]
    assert second.partial
    assert text(second).startswith("part of trace=00000000000000000000000000000001: goes on from above")


def test_missing_parent_is_said_at_the_end() -> None:
    """Spans whose parent never came are shown at the end, as pieces, and said to be such."""
    tree = fed([*query(1)[:2], *query(2)])
    assert [trace.trace_id for trace in settled(tree)] == [f"{2:032x}"]
    assert tree.waiting == 2
    (rest,) = tree.rest()
    assert names(rest) == [(0, "parse"), (0, "lock wait")]
    assert "its root was not seen to return" in text(rest)
    assert tree.waiting == 0


def test_parents_in_a_ring_end() -> None:
    """Ids that name each other as parents (there is no such call) neither hang nor lose a span."""
    tree = fed([line("a", 1, 2, 0, 1), line("b", 2, 1, 0, 1), line("c", 3, 3, 0, 1)])
    (rest,) = tree.rest()
    assert sorted(row.span.name for row in rest.rows) == ["a", "b", "c"]


def test_ten_thousand_spans_of_one_trace_are_cut_and_counted() -> None:
    """Memory is bounded, the root with its kept children is whole, and the rest is a number."""
    tree = fed([line("step", 1 + i, 1, i, 1) for i in range(1, 10_000)] + [line("job", 1, 0, 0, 10_001)])
    (trace,) = settled(tree)
    assert trace.rows[0].span.name == "job"
    assert len(trace.rows) + trace.cut == 10_000
    assert len(trace.rows) <= 2_002
    assert text(trace).splitlines()[-1].split() == ["...", f"{trace.cut:,}", "more", "spans", "of", "this", "trace", "not", "kept"]
    assert f"{trace.cut:,} not kept" in drawn(Trees([trace], 10))


def test_ten_thousand_traces_without_a_root_come_out_early() -> None:
    """When too much waits, the oldest pieces are given out, none is lost."""
    tree = SpanTree(max_spans=1_000)
    seen = 0
    for i in range(10_000):
        tree.feed(line("orphan", 2, 1, i, 1, trace=i))
        seen += sum(len(trace.rows) for trace in tree.complete())
        assert tree.waiting <= 1_000
    seen += sum(len(trace.rows) for trace in tree.rest())
    assert seen == 10_000


def test_ten_thousand_whole_traces_leave_nothing_behind() -> None:
    """Each comes out once, in order."""
    tree = SpanTree()
    out = [trace for i in range(2_500) for trace in settled(fed(query(i), tree))]
    assert [int(trace.trace_id, 16) for trace in out] == list(range(2_500))
    assert tree.spans == 10_000
    assert tree.waiting == 0


@pytest.mark.parametrize("evil", ["\x1b[2Jgone", "a\x07b", "‮right to left", "\x9b31m"])
def test_foreign_text_cannot_command_the_terminal(evil: str) -> None:
    """Control and direction characters of names and values never reach the output; markup is text."""
    tree = fed([line(evil + "[red]", 1, 0, 0, 5, db__query__text=evil + "[/]")])
    (trace,) = settled(tree)
    for shown in (text(trace), drawn(Trees([trace], 5))):
        assert not set(evil) & {"\x1b", "\x07", "\x9b", "‮"} & set(shown)
        assert "[red]" in shown
        assert "[/]" in shown


def test_wide_names_keep_the_columns() -> None:
    """East Asian names take two columns a character, and what follows is still in line."""
    tree = fed([line("解析", 2, 1, 1, 2), line("query", 1, 0, 0, 5, k=1)])
    (trace,) = settled(tree)
    rows = drawn(Trees([trace], 5), width=80).splitlines()
    assert rows[1].startswith("└─ 解析")
    # In characters the second row's duration ends two earlier: the two wide ones are one character each.
    assert rows[0].index(" µs") - rows[1].index(" µs") == 2


def test_guides_join_children_to_their_parent() -> None:
    """A line goes on only where a sibling follows."""
    assert guides([0, 1, 2, 2, 1, 2, 0, 1]) == ["", "├─ ", "│  ├─ ", "│  └─ ", "└─ ", "   └─ ", "", "└─ "]
    assert guides([0, 1, 1], ascii_only=True) == ["", "|- ", "`- "]


def test_fold_keeps_the_longest_with_their_ancestors() -> None:
    """The slow leaf stays, and so does all above it; short siblings go, and are counted."""
    lines = [line("leaf", 9, 8, 50, 40), line("mid", 8, 1, 49, 41), *(line("short", 20 + i, 1, i, 1) for i in range(20))]
    (trace,) = settled(fed([*lines, line("root", 1, 0, 0, 100)]))
    rows, left = fold(trace.rows, 5)
    assert [(r.depth, r.span.name) for r in rows if r.span.name != "short"] == [(0, "root"), (1, "mid"), (2, "leaf")]
    assert len(rows) + left == 23
    assert len(rows) == 4


def test_gantt_is_to_scale_and_never_empty() -> None:
    """A bar covers its share of the trace, at least half a column, within the width."""
    lines = [line("first", 2, 1, 0, 50), line("second", 3, 1, 50, 50), line("blink", 4, 1, 100, 0), line("root", 1, 0, 0, 100)]
    (trace,) = settled(fed(lines))
    bars = {row.span.name: gantt(row, trace, 10) for row in trace.rows}
    assert bars == {"root": "━" * 10, "first": "━" * 5, "second": " " * 5 + "━" * 5, "blink": " " * 9 + "╺"}
    assert gantt(trace.rows[0], trace, 10, ascii_only=True) == "=" * 10


def test_live_view_fits_the_window_and_shows_the_slowest() -> None:
    """However many traces there are, the display has no more lines than the window, and the slowest so far is on it."""
    tree = SpanTree()
    live = LiveSpans(tree)
    for i in range(50):
        fed(query(i), tree)
    fed([line("very slow", 1, 0, 0, 9e6, trace=99), line("waits", 2, 1, 0, 1, trace=100)], tree)
    for i in range(100, 120):
        fed(query(i + 1), tree)
    live.take(settled(tree))
    for height in (12, 24, 50):
        shown = drawn(live, height=height).splitlines()
        assert len(shown) <= height
        assert shown[0].startswith("282 spans in 71 traces · 70 errors · 1 in calls that have not returned yet")
        assert any("very slow" in row and "9.00 s" in row for row in shown)


def test_render_prints_trees_one_after_another() -> None:
    """The function for those who have traces and a console."""
    out = io.StringIO()
    render(Console(file=out, width=100), settled(fed([*query(1), *query(2)])))
    assert out.getvalue().count("lock wait") == 2
