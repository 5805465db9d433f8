"""What the receivers were sent, decoded: spans and metric points, each with the resource that it came under."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.pipeline.receivers import Received

Attributes = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A span or a data point. `own` is the protobuf message, `metric` the one that it is a point of."""

    resource: Attributes
    scope: str
    attributes: Attributes
    own: Any
    metric: Any = None


def spans(requests: Iterable[Any]) -> list[Arrived]:
    """Every span of trace requests, in the order of arrival. That a request is empty or has a resource twice fails the test."""
    found = []
    for request in requests:
        resources = [attributes(of_process.resource.attributes) for of_process in request.resource_spans]
        assert resources
        assert len({one["process.pid"] for one in resources}) == len(resources), "two ResourceSpans for one process"
        for resource, of_process in zip(resources, request.resource_spans, strict=True):
            for of_scope in of_process.scope_spans:
                found += [Arrived(resource, of_scope.scope.name, attributes(span.attributes), span) for span in of_scope.spans]
    return found


def points(received: Received, name: str) -> list[Arrived]:
    """Every data point of the metric, in the order of arrival."""
    return [point for request in received.metrics for point in _points(request) if point.metric.name == name]


def _points(request: Any) -> Iterator[Arrived]:
    for of_resource in request.resource_metrics:
        resource = attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    yield Arrived(resource, of_scope.scope.name, attributes(point.attributes), point, metric)


def attributes(pairs: Iterable[Any]) -> Attributes:
    """Key to value; keys are unique, as OTLP demands."""
    told = [(pair.key, getattr(pair.value, pair.value.WhichOneof("value"))) for pair in pairs]
    assert len(dict(told)) == len(told), f"a key twice: {told}"
    return dict(told)
