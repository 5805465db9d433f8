"""Histograms, counts, the ledger and the plan as people see them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from rich.console import Console

from otel_usdt.cli.views import counts, histograms, ledger, plan
from otel_usdt.metrics.ledger import NAMES
from otel_usdt.plan import Attribute, Binary, ErrorWhen, Export, Lease, Limits, OtlpExport, Plan, Refusal, Site, Span, Target

Line = dict[str, Any]


def told(plain: Callable[..., None], what: object) -> list[str]:
    lines: list[str] = []
    plain(lines.append, what)
    return lines


def drawn(render: Callable[..., None], what: object, **options: Any) -> list[str]:
    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    render(console, what, **options)
    return [row.rstrip() for row in console.export_text().splitlines()]


def hist(probe: str, buckets: list[tuple[int | None, int]], *, longest: int = 0, total: int | None = None) -> Line:
    count = sum(n for _, n in buckets)
    le = [{"le_ns": le, "count": n} for le, n in buckets]
    return {"probe": probe, "count": count, "sum_ns": total or 0, "min_ns": 900, "max_ns": longest, "buckets": le}


# Quarter octaves, as the kernel has them: 1024 is 4/4 of its octave, 1280 5/4 of 1024, and so on.
QUERY = hist("query", [(1024, 1), (1280, 0), (1536, 6), (1792, 2), (2048, 90), (None, 1)], longest=20_000_000_000, total=20_000_200_000)


def test_histogram_is_plain_text() -> None:
    """Figures first, percentiles as upper bounds; then ranges, counts and bars; what never fired is named."""
    assert told(histograms.plain, [QUERY, hist("copy", [])]) == [
        "probe  calls    mean     min   p50 <=   p90 <=   p99 <=     max",
        "query    100  200 ms  900 ns  2.05 us  2.05 us  2.05 us  20.0 s",
        "no calls: copy",
        "",
        "query: 100 calls",
        "     over    up to  calls",
        "           1.02 us      1  #",
        "  1.02 us  1.28 us      0",
        "  1.28 us  1.54 us      6  ###",
        "  1.54 us  1.79 us      2  #",
        "  1.79 us  2.05 us     90  ########################################",
        "  2.05 us   longer      1  #",
    ]


def test_histogram_is_drawn_with_eighths() -> None:
    """On a terminal the bars are finer, shares run up to 100 %, and the percentiles stand at their rows."""
    rows = drawn(histograms.render, [QUERY])
    assert rows[0].split() == ["probe", "calls", "mean", "min", "p50", "≤", "p90", "≤", "p99", "≤", "max", "512", "ns", "…", "2.05", "µs"]
    assert rows[1].endswith("▁█")
    assert rows[3] == "query  100 calls, 20.0 s in all"
    assert "1.79 µs - 2.05 µs 90 " + "█" * 52 + " 99.0% p50 p90 p99" in rows
    assert "1.54 µs - 1.79 µs  2 █▎" in " ".join(rows)


def test_percentiles_are_upper_bounds_and_never_beyond_the_maximum() -> None:
    """The bucket's end, or the longest call when that is less; the endless bucket ends at the longest call."""
    one = hist("f", [(1024, 99), (2048, 1)], longest=1500)
    assert [histograms.percentile(one, p) for p in (50, 99, 100)] == [1024, 1024, 1500]
    assert histograms.percentile(QUERY, 100) == 20_000_000_000
    assert histograms.percentile(hist("f", []), 50) == 0


def test_many_buckets_are_put_together_without_losing_a_call() -> None:
    """From 10 ns to an hour in quarter octaves: at most twenty rows, all calls, ends on the octaves' own bounds."""
    bounds = [(5 + quarter) << exp for exp in range(1, 40) for quarter in range(4)]
    bars = histograms.bars(hist("f", [(le, 1) for le in bounds]))
    assert len(bars) <= 20
    assert sum(bar.count for bar in bars) == len(bounds)
    assert all(a.upper_ns == b.lower_ns for a, b in pairwise(bars))
    assert all((bar.upper_ns or 0) & ((bar.upper_ns or 0) - 1) == 0 for bar in bars)


def test_half_octaves_end_where_the_kernels_buckets_do() -> None:
    """Two quarters make a half: 1.5 and 2 times a power of two."""
    bounds = [(5 + quarter) << exp for exp in range(8, 16) for quarter in range(4)]
    ends = [bar.upper_ns for bar in histograms.bars(hist("f", [(le, 1) for le in bounds]))]
    assert ends == [half << exp for exp in range(9, 17) for half in (3, 4)]


def counted(probe: str, entries: int, calls: int, elapsed_s: float) -> Line:
    return {"probe": probe, "entries": entries, "calls": calls, "elapsed_s": elapsed_s}


def test_counts_are_sorted_and_have_rates() -> None:
    """Busiest first; per second since the attach."""
    seen = counts.Counts()
    for one in (counted("func:b", 10, 9, 4.0), counted("func:a", 20_000, 20_000, 4.0), counted("func:c", 0, 0, 4.0)):
        seen.feed(one)
    assert told(counts.plain, seen) == [
        "probe   entries   calls     /s",
        "func:a   20,000  20,000  5,000",
        "func:b       10       9    2.5",
        "func:c        0       0      0",
    ]
    assert drawn(counts.render, seen)[1].split() == ["func:a", "20,000", "20,000", "5,000"]


def test_counts_of_intervals_have_the_last_ones_rate() -> None:
    """With a second line the rate of the last interval stands beside the one over all."""
    seen = counts.Counts()
    seen.feed(counted("f", 100, 100, 1.0))
    seen.feed(counted("f", 400, 400, 3.0))
    assert told(counts.plain, seen) == ["probe  entries  calls   /s  /s now", "f          400    400  133     150"]


def account(**counters: int) -> dict[str, int]:
    return dict.fromkeys(NAMES, 0) | counters


def test_ledger_that_closes_says_so() -> None:
    """Calls, and only those other counters that any probe has."""
    whole = account(entries=7, returns=7, calls=7, recorded=5, sampled_out=2, exported=5)
    assert told(ledger.plain, {"query": whole, "copy": account()}) == [
        "ledger  entries  calls  recorded  exported  sampled_out",
        "query         7      7         5         5            2",
        "never hit: copy",
        "sampled_out 2: counted, not recorded: sampling, or a mode or probe that makes no spans",
        "closed: every call is accounted for (7 entries)",
    ]


def test_ledger_names_losses_and_what_does_not_balance() -> None:
    """A loss is marked and explained; an account with a hole says which equation fails, and is not called closed."""
    lossy = account(entries=7, returns=7, calls=7, recorded=5, ring_full=2, exported=4)
    lines = told(ledger.plain, {"query": lossy})
    assert "LOST: ring_full 2: counted, not recorded: the ring buffer was full" in lines
    assert any(line.startswith("DOES NOT BALANCE: query: 5 recorded") for line in lines)
    assert not any("closed" in line for line in lines)
    rows = drawn(ledger.render, {"query": lossy})
    assert any("does not balance: query: 5 recorded" in row for row in rows)


def test_ledger_shows_counters_that_it_does_not_know() -> None:
    """A loss that a later version counts is not hidden by this one."""
    assert told(ledger.plain, {"f": account(entries=1, calls=1, sampled_out=1, returns=1, eaten=3)})[0].split()[-1] == "eaten"


@pytest.fixture
def planned() -> Plan:
    binary = Binary("/proc/7/root/srv/app", "/srv/app", "ab12", 1, 2, "x86_64")
    spans = (
        Span("query", 0, "spans", "pair", "usdt:a:b ~~ usdt:a:c", "", 1_000_000, (Attribute("db.query.text", 0, True),)),
        Span(
            "flush",
            0,
            "histogram",
            "function",
            "func:flush",
            "flush",
            error=ErrorWhen(0, "<", 0),
            bounds_ns=(1_000_000, 2_000_000),
            dimensions=(Attribute("disk", 1), Attribute("file", 2, True)),
        ),
        Span("status", 0, "count", "point", "usdt:a:s"),
    )
    sites = (
        Site(0, 0, "enter", "usdt:a:b", 0x1234, 0x1234, semaphore_offset=99, instruction="nop", cost="emulated"),
        Site(0, 0, "return", "usdt:a:c", 0x1300, 0x1300, semaphore_offset=99, instruction="nop", cost="emulated"),
        Site(1, 0, "enter", "func:flush", 0x2000, 0x2000, instruction="sub rsp, 8", cost="single-step"),
        Site(1, 0, "return", "func:flush", 0x2000, 0x2000, uretprobe=True, instruction="sub rsp, 8", cost="single-step"),
        Site(2, 0, "point", "usdt:a:s", 0x3000, 0x3000, instruction="nop", cost="emulated"),
    )
    return Plan(
        targets=(Target("orders", "tree", (7,), {"service.name": "orders"}, in_scope=3, outsiders=2, sample=0.1),),
        binaries=(binary,),
        spans=spans,
        sites=sites,
        refused=(Refusal("func:go_main", "a return probe would crash a Go program", "use the entry alone"),),
        notes=("text is not captured",),
        lease=Lease("team", "INC-1", 1800.0),
        export=Export(otlp=OtlpExport("http://localhost:4317")),
        limits=Limits(records_per_second=20000),
    )


def test_plan_says_where_at_what_cost_and_who_pays(planned: Plan) -> None:
    """The golden text: targets with their blast radius, probes with their sites, refusals with remedies, bounds."""
    assert told(plan.plain, planned.to_dict()) == [
        "3 span probes at 5 sites, 1 refused",
        "1 site on an instruction that must be single-stepped: 3-35 x the cost of the others, on every hit",
        "2 sites with a USDT semaphore, raised while attached and dropped even if we are killed",
        "target orders  pid 7 and all children, now and later  as service orders",
        "  3 processes in scope will be trapped; 2 processes outside the scope map the same file and pay for every hit too",
        "  0.1 of its traces are recorded; counts and histograms see every call",
        "  query  spans; from 1.00 ms on; db.query.text",
        "    enter   usdt:a:b  app+0x1234  on nop  cheap",
        "    return  usdt:a:c  app+0x1300  on nop  cheap",
        "  flush  histogram; error when the result < 0; 3 buckets, bounds from 1.00 ms to 2.00 ms;"
        " counted apart by disk, file, at most 100 series",
        "    enter        func:flush  app+0x2000  on sub rsp, 8  dear, 3-35 x",
        "    return trap  func:flush  app+0x2000  on sub rsp, 8  with the entry's",
        "  status  counted only: it has one end",
        "    point  usdt:a:s  app+0x3000  on nop  cheap",
        "refused",
        "  func:go_main: a return probe would crash a Go program",
        "    remedy: use the entry alone",
        "note: text is not captured",
        "lease: for team, INC-1; ends after 30 min 0 s; at most 20,000 records a second",
        "export: OTLP to http://localhost:4317",
    ]


def test_plan_says_what_a_moved_probe_saves_and_why_a_dear_one_stays(planned: Plan) -> None:
    """The saving stands at the site, the sum of them at the top; so does the reason where there is none."""
    where = {"address": 0x2007, "file_offset": 0x2007, "entry": 0x2000, "instruction": "je 0x2010"}
    moved = replace(planned, sites=tuple(replace(site, cost="emulated", **where) for site in planned.sites[2:4]))  # type: ignore[arg-type]
    lines = told(plan.plain, moved.to_dict())
    assert lines[1] == "1 site moved to a later instruction of its function, at 1/3 to 1/35 of the first one's cost on every hit"
    saved = "cheap, 7 bytes into the function, whose first instruction is dear"
    assert f"    enter        func:flush  app+0x2007  on je 0x2010  {saved}" in lines
    assert "    return trap  func:flush  app+0x2007  on je 0x2010  with the entry's" in lines
    dear = replace(planned, sites=tuple(replace(site, entry=0x2000, stays="ret ends the search") for site in planned.sites[2:4]))
    assert "    enter        func:flush  app+0x2000  on sub rsp, 8  dear, 3-35 x: ret ends the search" in told(plan.plain, dear.to_dict())


def test_plan_is_drawn_with_the_same_words(planned: Plan) -> None:
    """Colour adds nothing that the text lacks."""
    assert drawn(plan.render, planned.to_dict()) == told(plan.plain, planned.to_dict())


def test_foreign_names_in_tables_are_disarmed() -> None:
    """A probe's name with an escape sequence or markup is text in every table."""
    evil = "f\x1b[31m[bold]"
    seen = counts.Counts()
    seen.feed(counted(evil, 1, 1, 1.0))
    outputs = (
        *told(counts.plain, seen),
        *told(histograms.plain, [hist(evil, [(1024, 1)], longest=1000)]),
        *told(ledger.plain, {evil: account(entries=1, returns=1, calls=1, sampled_out=1)}),
        *drawn(counts.render, seen),
        *drawn(ledger.render, {evil: account()}),
    )
    assert not any("\x1b" in line for line in outputs)
    assert sum("[bold]" in line for line in outputs) == 6


def test_narrow_terminal_shows_every_digit() -> None:
    """At 80 columns the one-line histograms go, the figures stay whole."""
    console = Console(record=True, width=80, force_terminal=True, file=io.StringIO())
    histograms.render(console, [QUERY | {"probe": "replication wait", "count": 123_456}], detail=0)
    row = " ".join(console.export_text().splitlines()[1].split())
    assert row == "replication wait 123,456 162 µs 900 ns 2.05 µs 2.05 µs 2.05 µs 20.0 s"
