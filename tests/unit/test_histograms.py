"""The kernel's buckets, read back exactly: bounds, octaves for OTLP, lines for people, and the metrics that carry them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, Metric

from otel_usdt.metrics.histograms import UNUSED, HistogramSnapshot, hist_line, hist_lines, octaves, upper_bounds_ns
from otel_usdt.otlp.encode_metrics import encode_histograms, encode_ledger
from otel_usdt.plan import Target
from tests.samples import PARSE, QUERY, plain

DURATIONS = st.integers(0, 2**64 - 1) | st.integers(0, 63).map(lambda n: 2**n) | st.integers(0, 63).map(lambda n: 2**n + 1)


def kernel_bucket(duration_ns: int) -> int:
    """The arithmetic of bpf/otel_usdt.bpf.c's `bucket`."""
    v = duration_ns - 1 if duration_ns else 0
    if v < 4:
        return v
    log = v.bit_length() - 1
    return log << 2 | (v >> (log - 2) & 3)


def counted(*durations_ns: int) -> npt.NDArray[np.uint64]:
    counts = np.zeros(256, "u8")
    for duration in durations_ns:
        counts[kernel_bucket(duration)] += np.uint64(1)
    return counts


def snapshot(*durations_ns: int) -> HistogramSnapshot:
    least, most = (min(durations_ns), max(durations_ns)) if durations_ns else (0, 0)
    return HistogramSnapshot(counted(*durations_ns), len(durations_ns), sum(durations_ns), least, most)


@given(DURATIONS)
@example(0)
@example(2**64 - 1)
def test_every_duration_lies_in_the_bucket_that_counts_it(duration_ns: int) -> None:
    """(lower, upper] of the kernel's bucket holds the duration; the first bucket holds 0 too."""
    at = kernel_bucket(duration_ns)
    bounds = [int(bound) for bound in upper_bounds_ns()]
    assert not UNUSED.start <= at < UNUSED.stop
    below = [bound for i, bound in enumerate(bounds) if i < at and not UNUSED.start <= i < UNUSED.stop]
    assert max(below, default=-1) < duration_ns <= bounds[at]


def test_bounds_never_fall_and_four_share_an_octave() -> None:
    """Bounds rise, but for the unused buckets; each power of two is one; within an octave they are a quarter of it apart."""
    bounds = [int(bound) for bound in upper_bounds_ns()]
    used = [bound for i, bound in enumerate(bounds) if not UNUSED.start <= i < UNUSED.stop]
    assert all(a < b for a, b in pairwise(used))
    assert bounds[39:44] == [1024, 1280, 1536, 1792, 2048]
    assert bounds[-1] == 2**64 - 1
    assert {2**n for n in range(64)} <= set(used)


@given(st.lists(DURATIONS, max_size=20))
def test_octaves_count_what_lies_within_their_bounds(durations_ns: list[int]) -> None:
    """Each OTLP bucket (lower, upper] has exactly the durations in it, and together they have all."""
    bounds, counts = octaves(counted(*durations_ns))
    exact = [2**n for n in range(10, 35)]
    assert bounds == [bound / 1e9 for bound in exact]
    edges = [-1, *exact, 2**64]
    assert counts == [sum(low < d <= high for d in durations_ns) for low, high in pairwise(edges)]
    assert all(type(count) is int for count in counts)


def test_hist_line_spans_the_buckets_in_use() -> None:
    """Empty buckets before the first and after the last are left out, those between are there, and none that is unused."""
    line = hist_line("parse", snapshot(3, 4, 9, 9))
    assert line == {
        "probe": "parse",
        "count": 4,
        "sum_ns": 25,
        "min_ns": 3,
        "max_ns": 9,
        "buckets": [{"le_ns": le, "count": n} for le, n in ((3, 1), (4, 1), (5, 0), (6, 0), (7, 0), (8, 0), (10, 2))],
    }


def test_hist_line_of_the_open_ended_bucket_has_a_null_bound() -> None:
    """Nothing bounds the last bucket."""
    assert hist_line("p", snapshot(2**64 - 1))["buckets"] == [{"le_ns": None, "count": 1}]


def test_hist_line_of_nothing_has_no_buckets_and_no_extremes() -> None:
    """A probe that never fired has no smallest call."""
    assert hist_line("p", snapshot()) == {"probe": "p", "count": 0, "sum_ns": 0, "min_ns": None, "max_ns": None, "buckets": []}


def test_hist_lines_leave_out_probes_without_a_histogram() -> None:
    """None among the snapshots is a probe that is only counted."""
    assert [line["probe"] for line in hist_lines([None, snapshot(1)], [QUERY, PARSE])] == ["parse"]


def test_a_count_in_an_unused_bucket_is_not_dropped() -> None:
    """The formula cannot count there; should it ever, the line still adds up."""
    counts = np.zeros(256, "u8")
    counts[5] = 7
    assert hist_line("p", HistogramSnapshot(counts, 7, 28, 4, 4))["buckets"] == [{"le_ns": 4, "count": 7}]


TARGETS = (
    Target("db", "tree", (1,), {"service.name": "orders", "process.pid": 1}),
    Target("other", "pid", (2,), {"service.name": "billing"}),
)


def test_histograms_go_out_in_seconds_under_their_targets_resource() -> None:
    """One cumulative data point a span probe, with start time, extremes and its name, beside the target's own resource."""
    body = encode_histograms([snapshot(1_000, 3_000, 2**40), None], [PARSE, QUERY], TARGETS, 11, 22, "0.1.0")
    [of_target] = ExportMetricsServiceRequest.FromString(body).resource_metrics
    assert plain(of_target.resource.attributes) == {"service.name": "orders", "process.pid": 1}
    [metric] = of_target.scope_metrics[0].metrics
    assert (metric.name, metric.unit) == ("otel_usdt.call.duration", "s")
    assert metric.histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    [point] = metric.histogram.data_points
    assert plain(point.attributes) == {"otel_usdt.span.name": "parse", "code.function.name": "pg_parse_query"}
    assert (point.start_time_unix_nano, point.time_unix_nano, point.count) == (11, 22, 3)
    assert point.sum == pytest.approx((4_000 + 2**40) / 1e9)
    assert (point.min, point.max) == (1e-6, 2**40 / 1e9)
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert (point.bucket_counts[0], point.bucket_counts[2], point.bucket_counts[-1], sum(point.bucket_counts)) == (1, 1, 1, 3)


def test_histogram_point_without_calls_has_no_extremes() -> None:
    """A probe that has not fired yet is a point of zeros, so that a rate starts from nothing."""
    body = encode_histograms([snapshot()], [PARSE], TARGETS, 11, 22, "1")
    [point] = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points
    assert (point.count, point.sum, point.HasField("min"), point.HasField("max")) == (0, 0.0, False, False)


def test_histogram_counts_agree_with_its_buckets_while_calls_come_in() -> None:
    """OTLP wants the count to be the sum of the buckets; a call counted between two reads must not break that."""
    body = encode_histograms([HistogramSnapshot(counted(5_000), 2, 5_000, 5_000, 5_000)], [PARSE], TARGETS, 11, 22, "1")
    [point] = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points
    assert point.count == sum(point.bucket_counts) == 1


def test_nothing_to_measure_is_no_request() -> None:
    """Without histograms or ledger there are no bytes, and so nothing is sent."""
    assert encode_histograms([None], [PARSE], TARGETS, 1, 2, "1") == b""
    assert encode_ledger({}, {}, 1, 2, "1") == b""


def ledger_metrics(body: bytes) -> dict[str, Metric]:
    [resource] = ExportMetricsServiceRequest.FromString(body).resource_metrics
    assert plain(resource.resource.attributes) == {"service.name": "otel-usdt"}
    return {metric.name: metric for metric in resource.scope_metrics[0].metrics}


def test_ledger_goes_out_entry_by_entry() -> None:
    """Each ledger entry is one data point; outcomes and totals are monotonic sums, what still waits is not; numpy's numbers arrive."""
    ledger = {
        "query": {
            "entries": 13,
            "calls": 11,
            "in_flight": 2,
            "queued": 3,
            "exported": np.uint64(7),
            "unwound": 1,
            "text_lost": 4,
            "novel": 5,
        }
    }
    metrics = ledger_metrics(encode_ledger(ledger, {"service.name": "otel-usdt"}, 11, 22, "1"))  # type: ignore[arg-type]
    found = {
        (name, *sorted(str(v) for k, v in plain(point.attributes).items() if k != "otel_usdt.span.name")): point.as_int
        for name, metric in metrics.items()
        for point in metric.sum.data_points
    }
    assert found == {
        ("otel_usdt.hits", "entry"): 13,
        ("otel_usdt.calls.paired",): 11,
        ("otel_usdt.calls.waiting", "in_flight"): 2,
        ("otel_usdt.calls.waiting", "queued"): 3,
        ("otel_usdt.calls", "exported"): 7,
        ("otel_usdt.calls", "unwound"): 1,
        ("otel_usdt.calls", "novel"): 5,
        ("otel_usdt.texts.lost",): 4,
    }
    assert {name for name, metric in metrics.items() if not metric.sum.is_monotonic} == {"otel_usdt.calls.waiting"}
    assert {metric.sum.aggregation_temporality for metric in metrics.values()} == {AGGREGATION_TEMPORALITY_CUMULATIVE}
    assert {plain(p.attributes)["otel_usdt.span.name"] for m in metrics.values() for p in m.sum.data_points} == {"query"}


def test_two_metric_requests_join_by_their_bytes() -> None:
    """Histograms and ledger of one interval travel as one body."""
    histograms = encode_histograms([snapshot(1)], [PARSE], TARGETS, 1, 2, "1")
    ledger = encode_ledger({"parse": {"entries": 1}}, {"service.name": "otel-usdt"}, 1, 2, "1")
    assert len(ExportMetricsServiceRequest.FromString(histograms + ledger).resource_metrics) == 2
