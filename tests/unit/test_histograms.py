"""Histograms out of the kernel's cells, exactly: explicit and exponential for OTLP, lines for people, and the metrics that carry them."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, Metric

from otel_usdt.ladder import BOUNDS_NS, LONGEST_NS, QUARTERS, SCALE, crowded, step_of, steps, uppers
from otel_usdt.layout import Bounds
from otel_usdt.metrics.histograms import Exponential, HistogramSnapshot, explicit, exponential, hist_line, hist_lines
from otel_usdt.metrics.points import ledger_points
from otel_usdt.otlp.encode_histograms import encode_histograms
from otel_usdt.otlp.encode_metrics import encode_points
from otel_usdt.plan import Target
from tests.samples import PARSE, QUERY, plain

DURATIONS = st.integers(0, 2**64 - 1) | st.integers(0, 63).map(lambda n: 2**n) | st.sampled_from(uppers(None)) | st.integers(1, 10**9)


def counted(*durations_ns: int, bounds_ns: Bounds = BOUNDS_NS) -> npt.NDArray[np.uint64]:
    """As the kernel counts: by the table that it is given."""
    cells = uppers(bounds_ns)
    table, counts = steps(cells), np.zeros(len(cells), "u8")
    for duration in durations_ns:
        bound, cell = table[step_of(duration)]
        counts[cell + (duration > bound)] += np.uint64(1)
    return counts


def snapshot(*durations_ns: int, bounds_ns: Bounds = BOUNDS_NS) -> HistogramSnapshot:
    least, most = (min(durations_ns), max(durations_ns)) if durations_ns else (0, 0)
    return HistogramSnapshot(counted(*durations_ns, bounds_ns=bounds_ns), bounds_ns, len(durations_ns), sum(durations_ns), least, most)


@settings(deadline=None)
@given(st.lists(DURATIONS, max_size=30), st.lists(DURATIONS, min_size=1, max_size=20, unique=True).map(sorted).map(tuple))
def test_explicit_counts_are_numpys_own(durations_ns: list[int], bounds_ns: tuple[int, ...]) -> None:
    """Whatever the bounds: each bucket (lower, upper] has exactly the durations in it, and together they have all."""
    assume(not crowded(bounds_ns))
    bounds, counts = explicit(snapshot(*durations_ns, bounds_ns=bounds_ns))
    assert bounds == [bound / 1e9 for bound in bounds_ns]
    where = np.searchsorted(np.array(bounds_ns, "u8"), np.array(durations_ns, "u8"))
    assert counts == np.bincount(where, minlength=len(bounds_ns) + 1).tolist()
    assert all(type(count) is int for count in counts)


@settings(deadline=None)
@given(st.lists(DURATIONS, max_size=30), st.integers(2, 320))
@example([0, 1, 2**64 - 1], 160)
@example([500_000_000, 500_000_001, 10**9, 10**9 + 1], 4)
def test_exponential_counts_are_exact_at_every_size(durations_ns: list[int], max_size: int) -> None:
    """Bucket i has the durations in (base^i, base^(i+1)] seconds, by fourth powers of whole numbers."""
    found = exponential(snapshot(*durations_ns, bounds_ns=None), max_size)
    assert len(found.counts) <= max_size
    assert found.scale <= SCALE
    assert found.zero_count + sum(found.counts) == len(durations_ns)
    assert found.zero_count == durations_ns.count(0)
    expected = Counter(index_of(duration) >> SCALE - found.scale for duration in durations_ns if duration)
    assert expected == {found.offset + i: count for i, count in enumerate(found.counts) if count}
    if found.counts:
        assert (found.counts[0] > 0, found.counts[-1] > 0) == (True, True)


def index_of(duration_ns: int) -> int:
    """The bucket at scale 2: the i for which 2^i < (d / 1e9)^4 <= 2^(i + 1)."""
    ratio = Fraction(duration_ns, 10**9) ** 4
    i = ratio.numerator.bit_length() - ratio.denominator.bit_length() - 2
    while Fraction(2) ** (i + 1) < ratio:
        i += 1
    return i


def test_exponential_histogram_takes_no_finer_scale_than_it_has_counts_for() -> None:
    """Durations within one octave: four buckets at scale 2; one more than fits: half as many."""
    whole = [int(10**9 * 2 ** (quarter / 4)) for quarter in (-3, -2, -1, 0)]
    assert exponential(snapshot(*whole, bounds_ns=None), 4) == Exponential(2, -4, [1, 1, 1, 1], 0)
    assert exponential(snapshot(*whole, bounds_ns=None), 3) == Exponential(1, -2, [2, 2], 0)
    assert exponential(snapshot(bounds_ns=None), 160) == Exponential(2, 0, [], 0)


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


@settings(deadline=None)
@given(st.lists(DURATIONS, min_size=1, max_size=20), st.sampled_from((BOUNDS_NS, None)))
def test_hist_line_has_four_buckets_an_octave_whatever_the_histogram_is_told_by(durations_ns: list[int], bounds_ns: Bounds) -> None:
    """The bounds between are no part of it."""
    line = hist_line("p", snapshot(*durations_ns, bounds_ns=bounds_ns))
    assert line == hist_line("p", snapshot(*durations_ns, bounds_ns=(1000,)))
    assert sum(bucket["count"] for bucket in line["buckets"]) == len(durations_ns)
    assert {bucket["le_ns"] or LONGEST_NS for bucket in line["buckets"]} <= set(QUARTERS)


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
    assert list(point.explicit_bounds)[14:20] == [0.005, 0.01, 0.025, 0.05, 0.075, 0.1]


def test_exponential_histograms_are_points_of_their_own_kind() -> None:
    """What a receiver reads: scale, offset, counts, zeros; count, sum and extremes as of any histogram."""
    body = encode_histograms([snapshot(0, 600_000_000, 10**9, bounds_ns=None)], [PARSE], TARGETS, 11, 22, "1", max_buckets=2)
    [metric] = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics
    assert metric.exponential_histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    [point] = metric.exponential_histogram.data_points
    assert (point.scale, point.positive.offset, list(point.positive.bucket_counts), point.zero_count, point.count) == (1, -2, [1, 1], 1, 3)
    assert (point.sum, point.min, point.max, point.zero_threshold, len(point.negative.bucket_counts)) == (1.6, 0.0, 1.0, 0.0, 0)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (11, 22)
    assert plain(point.attributes) == {"otel_usdt.span.name": "parse", "code.function.name": "pg_parse_query"}


def test_histogram_point_without_calls_has_no_extremes() -> None:
    """A probe that has not fired yet is a point of zeros, so that a rate starts from nothing."""
    body = encode_histograms([snapshot()], [PARSE], TARGETS, 11, 22, "1")
    [point] = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points
    assert (point.count, point.sum, point.HasField("min"), point.HasField("max")) == (0, 0.0, False, False)


def test_histogram_counts_agree_with_its_buckets_while_calls_come_in() -> None:
    """OTLP wants the count to be the sum of the buckets; a call counted between two reads must not break that."""
    body = encode_histograms([HistogramSnapshot(counted(5_000), BOUNDS_NS, 2, 5_000, 5_000, 5_000)], [PARSE], TARGETS, 11, 22, "1")
    [point] = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points
    assert point.count == sum(point.bucket_counts) == 1


def test_nothing_to_measure_is_no_request() -> None:
    """Without histograms or ledger there are no bytes, and so nothing is sent."""
    assert encode_histograms([None], [PARSE], TARGETS, 1, 2, "1") == b""
    assert encode_points(ledger_points({}), {}, 1, 2, "1") == b""


def ledger_metrics(body: bytes) -> dict[str, Metric]:
    [resource] = ExportMetricsServiceRequest.FromString(body).resource_metrics
    assert plain(resource.resource.attributes) == {"service.name": "otel-usdt"}
    return {metric.name: metric for metric in resource.scope_metrics[0].metrics}


def test_ledger_goes_out_entry_by_entry() -> None:
    """Each ledger entry is one data point; outcomes and totals are monotonic sums, what still waits is not; numpy's numbers arrive."""
    ledger: dict[str, dict[str, Any]] = {  # numpy's numbers are no ints to mypy
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
    metrics = ledger_metrics(encode_points(ledger_points(ledger), {"service.name": "otel-usdt"}, 11, 22, "1"))
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
    ledger = encode_points(ledger_points({"parse": {"entries": 1}}), {"service.name": "otel-usdt"}, 1, 2, "1")
    assert len(ExportMetricsServiceRequest.FromString(histograms + ledger).resource_metrics) == 2
