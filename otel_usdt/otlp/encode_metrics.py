"""The ledger and the rest of our own metrics to OTLP metric requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_usdt.metrics.points import Distribution, Metric, Point
from otel_usdt.otlp.encode import SCOPE_NAME

CUMULATIVE, DELTA = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE, metrics_pb2.AGGREGATION_TEMPORALITY_DELTA


def key_values(attributes: Mapping[str, str | int]) -> list[KeyValue]:
    """Attributes as OTLP has them. The values must be Python's own: numpy's scalars are silently lost in protobuf messages."""
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items()]


def _value(value: str | int) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    return AnyValue(bool_value=value) if isinstance(value, bool) else AnyValue(int_value=value)


def resource_of(attributes: Mapping[str, str | int]) -> Resource:
    """A resource with these attributes."""
    return Resource(attributes=key_values(attributes))


def encode_points(
    points: Sequence[Point],
    resource: Mapping[str, str | int],
    start_unix_ns: int,
    now_unix_ns: int,
    version: str,
    deltas: frozenset[str] = frozenset(),
    since_unix_ns: int = 0,
) -> bytes:
    """An ExportMetricsServiceRequest with our own metrics, under the sidecar's own `resource`. b"" for no points.

    Cumulative from `start_unix_ns` on, but for the kinds in `deltas`: those are of the interval that began at `since_unix_ns`.
    """
    by_metric: dict[Metric, list[Point]] = {}
    for point in points:
        by_metric.setdefault(point.metric, []).append(point)
    request = ExportMetricsServiceRequest()
    told = []
    for metric, own in by_metric.items():
        delta = metric.kind in deltas
        told.append(_own(metric, own, since_unix_ns if delta else start_unix_ns, now_unix_ns, DELTA if delta else CUMULATIVE))
    if told:
        add_metrics(request, resource, version, told)
    return request.SerializeToString()


def _own(
    metric: Metric, points: Sequence[Point], start_unix_ns: int, now_unix_ns: int, temporality: metrics_pb2.AggregationTemporality.ValueType
) -> metrics_pb2.Metric:
    made = metrics_pb2.Metric(name=metric.name, description=metric.description, unit=metric.unit)
    for point in points:
        kept = {
            "attributes": key_values(point.attributes),
            "start_time_unix_nano": int(start_unix_ns),
            "time_unix_nano": int(now_unix_ns),
        }
        if isinstance(point.value, Distribution):
            made.histogram.data_points.add(
                count=sum(point.value.counts),
                sum=point.value.sum,
                bucket_counts=point.value.counts,
                explicit_bounds=point.value.bounds,
                **kept,
            )
        elif isinstance(point.value, float):
            made.sum.data_points.add(as_double=point.value, **kept)
        else:
            made.sum.data_points.add(as_int=point.value, **kept)
    if metric.kind == "histogram":
        made.histogram.aggregation_temporality = temporality
    else:
        made.sum.aggregation_temporality, made.sum.is_monotonic = temporality, metric.kind == "total"
    return made


def add_metrics(
    request: ExportMetricsServiceRequest, resource: Mapping[str, str | int], version: str, metrics: list[metrics_pb2.Metric]
) -> None:
    """Metrics under a resource, as ours."""
    scope = InstrumentationScope(name=SCOPE_NAME, version=version)
    request.resource_metrics.add(resource=resource_of(resource)).scope_metrics.add(scope=scope, metrics=metrics)
