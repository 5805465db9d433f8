"""Calls to OTLP trace requests, the clear way: protobuf messages. opentelemetry/proto/trace/v1/trace.proto says what the fields mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from otel_usdt import plan
from otel_usdt.spans.model import SpanBatch, SpanRow, span_rows

__all__ = ["SCOPE_NAME", "Encoded", "SpanBatch", "encode_spans", "key_values", "resource_of"]

SCOPE_NAME = "otel-usdt"
# W3C "sampled"; bit 8: "is_remote is known"; bit 9: it is (trace.proto, SpanFlags).
_FLAGS = 0x001 | 0x100
_REMOTE = 0x200
_ERROR = trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One ExportTraceServiceRequest, and how many spans of each span probe it holds, by index into the plan's spans."""

    body: bytes
    counts: dict[int, int]


def encode_spans(
    batch: SpanBatch,
    spans: Sequence[plan.Span],
    resources: Mapping[int, Mapping[str, str | int]],
    version: str,
    max_bytes: int = 3_500_000,  # a Collector's gRPC receiver takes 4 MiB
) -> list[Encoded]:
    """The batch as requests smaller than `max_bytes`, one ResourceSpans for each process in each; [] for an empty batch.

    `resources` is keyed by process id (tgid); a process that is not in it goes out with its `process.pid` alone. A single span
    that does not fit is still a request of its own, for the receiver to judge. Within a process the batch's order is kept.
    """
    if not len(batch.calls):
        return []
    by_process = np.argsort(batch.calls["thread"] >> np.uint64(32), kind="stable")
    texts = None if batch.texts is None else batch.texts[by_process]
    links = batch.links.copy()
    links["row"] = np.argsort(by_process)[links["row"]]  # where each call went
    rows = list(span_rows(SpanBatch(batch.calls[by_process], texts, batch.realtime_offset_ns, links), spans))
    return list(_requests(rows, resources, InstrumentationScope(name=SCOPE_NAME, version=version), max_bytes))


def key_values(attributes: Mapping[str, str | int]) -> list[KeyValue]:
    """Attributes as OTLP has them. The values must be Python's own: numpy's scalars are silently lost in protobuf messages."""
    return [
        KeyValue(key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value))
        for key, value in attributes.items()
    ]


def resource_of(attributes: Mapping[str, str | int]) -> Resource:
    """A resource with these attributes."""
    return Resource(attributes=key_values(attributes))


def _requests(
    rows: list[SpanRow], resources: Mapping[int, Mapping[str, str | int]], scope: InstrumentationScope, max_bytes: int
) -> Iterator[Encoded]:
    body = _request(rows, resources, scope).SerializeToString()
    if len(body) < max_bytes or len(rows) == 1:
        yield Encoded(body, dict(Counter(row.probe for row in rows)))
        return
    pieces = len(body) // max_bytes + 1
    step = -(-len(rows) // pieces)
    for at in range(0, len(rows), step):
        yield from _requests(rows[at : at + step], resources, scope, max_bytes)


def _request(
    rows: list[SpanRow], resources: Mapping[int, Mapping[str, str | int]], scope: InstrumentationScope
) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    for tgid, own in groupby(rows, key=attrgetter("tgid")):
        of_process = request.resource_spans.add(resource=resource_of(resources.get(tgid, {"process.pid": tgid})))
        of_process.scope_spans.add(scope=scope, spans=map(_span, own))
    return request


def _span(row: SpanRow) -> trace_pb2.Span:
    return trace_pb2.Span(
        trace_id=row.trace_id,
        span_id=row.span_id,
        parent_span_id=row.parent_id,
        flags=_FLAGS | _REMOTE if row.remote else _FLAGS,
        name=row.name,
        kind=trace_pb2.Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=row.start_unix_ns,
        end_time_unix_nano=row.end_unix_ns,
        attributes=key_values({"thread.id": row.tid, **row.attributes}),  # a declared key wins: keys must be unique
        status=_ERROR if row.error else None,
        links=[trace_pb2.Span.Link(trace_id=trace_id, span_id=span_id, flags=_FLAGS) for trace_id, span_id in row.links],
    )
