"""A request that is too large for its receiver, as two of half the spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from otel_usdt.otlp.backlog import Request


def halves(request: Request, probes: Mapping[str, int]) -> list[Request]:
    """The spans of a traces request as two requests, order kept, each with its own account; [] for a single span.

    `probes` is the span probe index of every span's name. Resources and scopes are repeated in both where they have spans in
    both, so that the two together are a little larger than the one. ValueError when the body is not what the account says.
    """
    if sum(request.counts.values()) < 2:
        return []
    whole = ExportTraceServiceRequest.FromString(request.body)
    spans = [
        (of_process, of_scope, span)
        for of_process in whole.resource_spans
        for of_scope in of_process.scope_spans
        for span in of_scope.spans
    ]
    middle = len(spans) // 2
    pieces = [_request(half, probes) for half in (spans[:middle], spans[middle:])]
    if sum((Counter(piece.counts) for piece in pieces), Counter()) != Counter(request.counts):
        raise ValueError("the spans in the request are not those of its account")
    return pieces


def _request(spans: Iterable[tuple[ResourceSpans, ScopeSpans, Span]], probes: Mapping[str, int]) -> Request:
    made = ExportTraceServiceRequest()
    counts = Counter[int]()
    last: tuple[ResourceSpans | None, ScopeSpans | None] = None, None
    for of_process, of_scope, span in spans:
        if of_process is not last[0]:
            made.resource_spans.add(resource=of_process.resource, schema_url=of_process.schema_url)
        if of_scope is not last[1]:
            made.resource_spans[-1].scope_spans.add(scope=of_scope.scope, schema_url=of_scope.schema_url)
        made.resource_spans[-1].scope_spans[-1].spans.append(span)
        counts[probes[span.name]] += 1
        last = of_process, of_scope
    return Request("traces", made.SerializeToString(), counts)
