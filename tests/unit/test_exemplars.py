"""Of an interval's spans, the slowest and the latest of each span probe; then the next interval begins with none."""

from __future__ import annotations

from dataclasses import replace

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_usdt.metrics.exemplars import Exemplars
from otel_usdt.otlp.encode_histograms import encode_histograms
from otel_usdt.plan import Target
from tests.samples import OFFSET_NS, PARSE, QUERY, batch, call
from tests.unit.test_histograms import snapshot

PLAIN = replace(QUERY, error=None)


def test_the_slowest_and_the_latest_of_each_span_probe() -> None:
    """Over several batches; one call that is both is there once."""
    exemplars = Exemplars([PLAIN, PARSE])
    exemplars.see(batch([call(span=1, duration_ns=900), call(span=2, duration_ns=70, start_ktime_ns=9_000), call(probe=1, span=3)]))
    exemplars.see(batch([call(span=4, duration_ns=80, start_ktime_ns=8_000), call(span=5, duration_ns=899)]))
    found = exemplars.take()
    assert {probe: [one.span_id[-1] for one in of_probe] for probe, of_probe in found.items()} == {(0, None): [1, 2], (1, None): [3]}
    slowest = found[0, None][0]
    assert (slowest.duration_ns, slowest.end_unix_ns, slowest.tid) == (900, OFFSET_NS + 5_900, 101)
    assert slowest.trace_id.hex() == "0123456789abcdeffedcba9876543210"
    assert exemplars.take() == {}


def test_exemplars_are_in_their_data_point() -> None:
    """In seconds, with the ids and the thread, and only where there are some."""
    exemplars = Exemplars([PLAIN, PARSE])
    exemplars.see(batch([call(probe=1, span=7, duration_ns=1_500)]))
    body = encode_histograms([snapshot(1_000), snapshot(1_500)], [PLAIN, PARSE], [Target("db", "pid", (), {})], 1, 2, "1", exemplars.take())
    (metrics,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    without, with_one = metrics.scope_metrics[0].metrics[0].histogram.data_points
    assert list(without.exemplars) == []
    (one,) = with_one.exemplars
    assert (one.as_double, one.time_unix_nano, one.span_id[-1], len(one.trace_id)) == (1.5e-6, OFFSET_NS + 6_500, 7, 16)
    assert [(tag.key, tag.value.int_value) for tag in one.filtered_attributes] == [("thread.id", 101)]
