"""Delta temporality: intervals that follow each other, none told twice, none lost while a request is under way."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_usdt.metrics.histograms import HistogramSnapshot
from otel_usdt.metrics.points import Distribution, Metric, Point
from otel_usdt.metrics.temporality import Intervals
from otel_usdt.otlp.encode_histograms import encode_histograms
from otel_usdt.otlp.encode_metrics import encode_points
from otel_usdt.plan import Target
from tests.samples import PARSE
from tests.unit.test_histograms import snapshot

TOTAL, LEVEL = Metric("total", "1", "total", ""), Metric("level", "1", "level", "")
LAG = Metric("lag", "s", "histogram", "")


def points(total: int, level: int, lag: tuple[int, int]) -> list[Point]:
    return [Point(TOTAL, total, {"a": "b"}), Point(LEVEL, level), Point(LAG, Distribution((1.0,), lag, float(sum(lag))))]


@pytest.mark.parametrize(
    ("preference", "told"),
    [
        ("cumulative", [9, 2, Distribution((1.0,), (3, 4), 7.0)]),
        ("delta", [4, 2, Distribution((1.0,), (2, 0), 2.0)]),
        ("lowmemory", [9, 2, Distribution((1.0,), (2, 0), 2.0)]),
    ],
)
def test_what_is_told_as_a_difference(preference: Any, told: list[Any]) -> None:
    """Sums that only grow and histograms by `delta`, histograms alone by `lowmemory`; what goes up and down never."""
    intervals = Intervals(preference, 1)
    assert [point.value for point in intervals.points(points(5, 7, (1, 4)))] == [5, 7, Distribution((1.0,), (1, 4), 5.0)]
    assert [point.value for point in intervals.points(points(9, 2, (3, 4)))] == told


def test_histograms_of_intervals_add_up_to_the_whole() -> None:
    """Counts and sums; one that does not count is left out, and one that comes later begins with all that it has."""
    intervals = Intervals("delta", 1)
    first, second = snapshot(1_000, 3_000), snapshot(1_000, 3_000, 9_000)
    told: list[HistogramSnapshot | None] = [*intervals.histograms([first, None]), *intervals.histograms([second, None])]
    assert [one and (one.count, one.sum_ns, int(one.counts.sum())) for one in told] == [(2, 4_000, 2), None, (1, 9_000, 1), None]


def test_deltas_say_when_their_interval_began() -> None:
    """Temporality and start are of the interval; least and most, which are not known, are left out."""
    body = encode_histograms([snapshot(1_000)], [PARSE], [Target("db", "pid", (), {})], 5, 9, "1", delta=True)
    (metrics,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    histogram = metrics.scope_metrics[0].metrics[0].histogram
    (point,) = histogram.data_points
    assert (histogram.aggregation_temporality, point.start_time_unix_nano, point.count) == (1, 5, 1)
    assert not point.HasField("min")
    told = points(5, 7, (1, 4))
    body = encode_points(told, {}, 2, 9, "1", Intervals("delta", 5).kinds, 5)
    total, level, lag = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics
    assert (total.sum.aggregation_temporality, total.sum.data_points[0].start_time_unix_nano) == (1, 5)
    assert (level.sum.aggregation_temporality, level.sum.data_points[0].start_time_unix_nano) == (2, 2)
    assert (lag.histogram.aggregation_temporality, lag.histogram.data_points[0].start_time_unix_nano) == (1, 5)
