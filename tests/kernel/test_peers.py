"""Counts and histograms against bpftrace's, both attached to the same calls."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.bpftrace import bpftrace
from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, nonzero
from tests.kernel.program import Workload

pytestmark = pytest.mark.kernel

SLOW_NS = 1 << 28  # 268 ms: a bound of a bucket of both; the sleepers here take 300 ms or nothing, and no scheduler makes that of nothing


def returned_and_timed(workload: Workload, name: str) -> str:
    """A bpftrace program: entries, returns and a histogram of one function."""
    return f"""
        uprobe:{workload.path}:{name} {{ @{name}_entries = count(); @{name}_start[tid] = nsecs; }}
        uretprobe:{workload.path}:{name} /@{name}_start[tid]/ {{
            @{name}_calls = count(); @{name}_ns = hist(nsecs - @{name}_start[tid]); delete(@{name}_start[tid]); }}"""


def slow_in(histogram: list[dict[str, Any]]) -> int:
    """Of bpftrace: how many lie past SLOW_NS."""
    return sum(bucket["count"] for bucket in histogram if bucket["min"] >= SLOW_NS)


def test_count_agrees_with_bpftrace(workload: Workload, otel_usdt: Commands) -> None:
    """Entries and calls of three functions under five threads: the same numbers, and they are the program's own."""
    names = ("outer", "middle", "leaf")
    with bpftrace("\n".join(returned_and_timed(workload, name) for name in names), workload) as peer:
        session = otel_usdt.count(workload.pid, *(f"func:{name}" for name in names))
        workload.run("outer 211")
        workload.run("threads 5 101")
        told, maps = session.stop(), peer.stop()
    truth = {"outer": 211, "middle": 211, "leaf": 4 * 211 + 5 * 101}
    assert {name: (told.counts[name]["entries"], told.counts[name]["calls"]) for name in names} == {
        name: (n, n) for name, n in truth.items()
    }
    assert {name: (maps[f"{name}_entries"], maps[f"{name}_calls"]) for name in names} == {name: (n, n) for name, n in truth.items()}


def test_hist_agrees_with_bpftrace(workload: Workload, otel_usdt: Commands) -> None:
    """Of 103 calls five take 300 ms: both histograms hold 103, of which five past 268 ms."""
    with bpftrace(returned_and_timed(workload, "sleeper"), workload) as peer:
        session = otel_usdt.hist(workload.pid, "func:sleeper")
        workload.run("sleeper 98 0")
        workload.run("sleeper 5 300000")
        told, maps = session.stop(), peer.stop()
    ours = told.histograms["sleeper"]
    assert ours["count"] == sum(bucket["count"] for bucket in ours["buckets"]) == 103
    assert sum(bucket["count"] for bucket in maps["sleeper_ns"]) == 103
    assert sum(bucket["count"] for bucket in ours["buckets"] if bucket["le_ns"] is None or bucket["le_ns"] > SLOW_NS) == 5
    assert slow_in(maps["sleeper_ns"]) == 5


def test_hist_holds_the_programs_own_durations(workload: Workload, otel_usdt: Commands) -> None:
    """Sum and extremes lie between what the function measured inside itself and what its caller measured around it."""
    session = otel_usdt.hist(workload.pid, "func:timed")
    truth = workload.run("timed 307 1000")
    told = session.stop()
    ours = told.histograms["timed"]
    assert ours["count"] == 307
    assert sum(truth["inside_ns"]) <= ours["sum_ns"] <= sum(truth["around_ns"])
    assert min(truth["inside_ns"]) <= ours["min_ns"] <= min(truth["around_ns"])
    assert max(truth["inside_ns"]) <= ours["max_ns"] <= max(truth["around_ns"])
    bounds = [bucket["le_ns"] for bucket in ours["buckets"] if bucket["le_ns"] is not None]
    assert bounds == sorted(bounds)


def test_spans_agree_with_bpftrace(workload: Workload, otel_usdt: Commands) -> None:
    """As many spans as bpftrace sees calls, when functions nest and children fork."""
    with bpftrace(returned_and_timed(workload, "leaf"), workload) as peer:
        session = otel_usdt.trace(workload.pid, "func:leaf")
        workload.run("outer 307")
        told, maps = session.stop(), peer.stop()
    assert maps["leaf_calls"] == len(told.named("leaf")) == 1228
    assert nonzero(told.ledger["leaf"]) == all_exported(1228)
