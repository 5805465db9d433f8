"""Histograms of calls to OTLP metric requests.

Such a request and the one of our own metrics (encode_metrics.py) may be sent as one by joining their bytes: protobuf joins repeated
fields so, and a metrics interval is then one body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1 import metrics_pb2

from otel_usdt.layout import is_apart
from otel_usdt.metrics.exemplars import Exemplar, Place
from otel_usdt.metrics.histograms import HistogramSnapshot, explicit, exponential
from otel_usdt.metrics.series import Attributes, Key
from otel_usdt.otlp.encode_metrics import CUMULATIVE, DELTA, add_metrics, key_values
from otel_usdt.plan import Span, Target


def encode_histograms(
    snapshots: Sequence[HistogramSnapshot | None],
    spans: Sequence[Span],
    targets: Sequence[Target],
    start_unix_ns: int,
    now_unix_ns: int,
    version: str,
    exemplars: Mapping[Place, Sequence[Exemplar]] = MappingProxyType({}),
    *,
    delta: bool = False,
    max_buckets: int = 160,
) -> bytes:
    """An ExportMetricsServiceRequest with `otel_usdt.call.duration` in seconds: a data point for each span probe, or each of its series.

    Cumulative from `start_unix_ns` on; with `delta` they are of the interval that began then, whose least and most are not known.
    Exponential points have at most `max_buckets` buckets.

    `snapshots` is parallel to `spans`; None is a probe without a histogram. `exemplars` are by the span probe's place in them, and the
    series. Each point is under its target's resource. Its count is the sum of its buckets, as OTLP demands, even when a call came in
    while the counters were being read.
    b"" when there is nothing to say.
    """
    request = ExportMetricsServiceRequest()
    for index, target in enumerate(targets):
        metric = metrics_pb2.Metric(
            name="otel_usdt.call.duration", description="Duration of the calls that the span probe saw, sampled or not", unit="s"
        )
        for at, (snapshot, span) in enumerate(zip(snapshots, spans, strict=True)):
            if span.target != index or snapshot is None:
                continue
            for key, attributes, calls in _parts(span, snapshot):
                common = _common(calls, span, attributes, exemplars.get((at, key), ()), delta)
                times = {"start_time_unix_nano": int(start_unix_ns), "time_unix_nano": int(now_unix_ns)}
                _add_point(metric, calls, max_buckets, **times, **common)
        if kind := metric.WhichOneof("data"):  # a plan's histograms are all of one kind, as a metric's points must be
            getattr(metric, kind).aggregation_temporality = DELTA if delta else CUMULATIVE
            add_metrics(request, target.resource, version, [metric])
    return request.SerializeToString()


def _parts(span: Span, snapshot: HistogramSnapshot) -> list[tuple[Key, Attributes, HistogramSnapshot]]:
    if is_apart(span):
        return [(one.key, one.attributes, one.calls) for one in snapshot.series]
    return [(None, {}, snapshot)]


def _add_point(metric: metrics_pb2.Metric, snapshot: HistogramSnapshot, max_buckets: int, **common: Any) -> None:
    if snapshot.bounds_ns is None:
        found = exponential(snapshot, max_buckets)
        buckets = metrics_pb2.ExponentialHistogramDataPoint.Buckets(offset=found.offset, bucket_counts=found.counts)
        count = sum(found.counts) + found.zero_count
        points = metric.exponential_histogram.data_points
        points.add(scale=found.scale, zero_count=found.zero_count, positive=buckets, count=count, **common)
    else:
        bounds, counts = explicit(snapshot)
        metric.histogram.data_points.add(explicit_bounds=bounds, bucket_counts=counts, count=sum(counts), **common)


def _common(snapshot: HistogramSnapshot, span: Span, attributes: Attributes, exemplars: Sequence[Exemplar], delta: bool) -> dict[str, Any]:
    function = {"code.function.name": span.function} if span.function else {}
    known = bool(snapshot.counts.any()) and not delta
    return {
        "attributes": key_values({"otel_usdt.span.name": span.name, **function, **attributes}),
        "sum": int(snapshot.sum_ns) / 1e9,
        "min": int(snapshot.min_ns) / 1e9 if known else None,
        "max": int(snapshot.max_ns) / 1e9 if known else None,
        "exemplars": [
            metrics_pb2.Exemplar(
                time_unix_nano=one.end_unix_ns,
                as_double=one.duration_ns / 1e9,
                trace_id=one.trace_id,
                span_id=one.span_id,
                filtered_attributes=key_values({"thread.id": one.tid}),
            )
            for one in exemplars
        ],
    }
