"""What bounds the records: a least duration, sampling by trace, a ceiling. Counts and histograms stay exact under all of them."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.program import Workload

pytestmark = pytest.mark.kernel

BOUND_NS = 1 << 23  # 8.4 ms: of a bucket


def test_min_duration_keeps_the_slow_calls_only(workload: Workload, otel_usdt: Commands) -> None:
    """Of 61 calls nine sleep 20 ms: a span for each of them, and for any that the machine held up as long as the least.

    All 61 are in the histogram, and the least is above a bound of its buckets: so it knows how many were to be spans.
    """
    session = otel_usdt.spans(workload.pid, {"name": "sleeper", "function": "sleeper", "min_duration": f"{BOUND_NS + 1}ns"})
    assert workload.run("mixed 61 7")["slow"] == 9
    told = session.stop()
    check_closed(told.ledger)
    buckets = told.histograms["sleeper"]["buckets"]
    assert BOUND_NS in [bucket["le_ns"] for bucket in buckets]
    slow = sum(bucket["count"] for bucket in buckets if bucket["le_ns"] is None or bucket["le_ns"] > BOUND_NS)
    assert 9 <= slow < 61
    assert nonzero(told.ledger["sleeper"]) == {**all_exported(61), "recorded": slow, "exported": slow, "too_short": 61 - slow}
    took = [span["end_time_unix_nano"] - span["start_time_unix_nano"] for span in told.spans]
    assert len(took) == slow
    assert min(took) > BOUND_NS
    assert sum(one >= 20_000_000 for one in took) >= 9
    assert told.histograms["sleeper"]["count"] == 61


def test_sampling_keeps_whole_traces(workload: Workload, otel_usdt: Commands) -> None:
    """At 50 % each trace is there with all its six spans or not at all; the histograms count every call."""
    names = ("outer", "middle", "leaf")
    session = otel_usdt.spans(workload.pid, *({"name": name, "function": name} for name in names), target={"sample": "50%"})
    workload.run("outer 1009")
    told = session.stop()
    check_closed(told.ledger)
    traces = Counter(span["trace_id"] for span in told.spans)
    assert set(traces.values()) == {6}
    # 1009 fair coins: outside 400..609 once in 10^10 runs.
    assert 400 < len(traces) < 610
    assert {name: c["calls"] for name, c in told.ledger.items()} == {"outer": 1009, "middle": 1009, "leaf": 4036}
    assert {name: c["sampled_out"] for name, c in told.ledger.items()} == {
        "outer": 1009 - len(traces),
        "middle": 1009 - len(traces),
        "leaf": 4036 - 4 * len(traces),
    }
    assert {name: h["count"] for name, h in told.histograms.items()} == {"outer": 1009, "middle": 1009, "leaf": 4036}


def test_sample_of_zero_records_nothing_and_counts_all(workload: Workload, otel_usdt: Commands) -> None:
    """With sample 0 there are histograms and no spans."""
    session = otel_usdt.spans(workload.pid, {"name": "leaf", "function": "leaf"}, target={"sample": 0})
    workload.run("leaf 103")
    told = session.stop()
    check_closed(told.ledger)
    assert told.spans == []
    assert nonzero(told.ledger["leaf"]) == {"entries": 103, "returns": 103, "calls": 103, "sampled_out": 103}
    assert told.histograms["leaf"]["count"] == 103


def test_ceiling_on_records_closes_the_ledger(workload: Workload, otel_usdt: Commands) -> None:
    """With 100 records a second, 5003 calls make some records and the rest are rate_limited, each counted."""
    session = otel_usdt.spans(workload.pid, {"name": "leaf", "function": "leaf"}, budget={"records_per_second": 100})
    elapsed_s = workload.run("leaf 5003")["elapsed_ns"] / 1e9
    told = session.stop()
    check_closed(told.ledger)
    c = told.ledger["leaf"]
    assert c["recorded"] + c["rate_limited"] == c["calls"] == 5003
    assert c["recorded"] == len(told.spans)
    assert 100 <= c["recorded"] <= 100 * (int(elapsed_s) + 2)  # the seconds that the calls touch
    assert told.histograms["leaf"]["count"] == 5003


def test_full_ring_is_counted_and_not_waited_for(workload: Workload, otel_usdt: Commands) -> None:
    """A ring of one page holds 39 records: what finds no room is ring_full, and the program runs on."""
    session = otel_usdt.spans(
        workload.pid, {"name": "ping", "function": "ping"}, {"name": "pong", "function": "pong"}, limits={"ring": "4KiB"}
    )
    workload.run("pingpong 1009 40")
    told = session.stop()
    check_closed(told.ledger)
    calls = sum(c["calls"] for c in told.ledger.values())
    recorded, full = (sum(c[name] for c in told.ledger.values()) for name in ("recorded", "ring_full"))
    assert calls == 1009 * 41
    assert recorded + full == calls
    assert full > 0  # 41 returns in one trap: more than the page holds, whoever reads
    assert len(told.spans) == recorded
