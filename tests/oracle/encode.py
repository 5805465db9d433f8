"""Calls to OTLP trace requests, the clear way: protobuf messages. What otel_usdt.otlp.encode makes must say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.trace.v1 import trace_pb2

from otel_usdt import plan
from otel_usdt.otlp.encode import SCOPE_NAME
from otel_usdt.otlp.encode_metrics import key_values, resource_of
from otel_usdt.spans.model import SpanBatch, SpanRow, span_rows

# W3C "sampled"; bit 8: "is_remote is known"; bit 9: it is (trace.proto, SpanFlags).
_FLAGS = 0x001 | 0x100
_REMOTE = 0x200
_ERROR = trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR)


def clear_request(
    batch: SpanBatch, spans: Sequence[plan.Span], resources: Mapping[int, Mapping[str, str | int]], version: str
) -> ExportTraceServiceRequest:
    """The batch as one request, one ResourceSpans for each process; within a process the batch's order."""
    by_process = np.argsort(batch.calls["thread"] >> np.uint64(32), kind="stable")
    texts = None if batch.texts is None else batch.texts[by_process]
    links = batch.links.copy()
    links["row"] = np.argsort(by_process)[links["row"]]  # where each call went
    rows = list(span_rows(SpanBatch(batch.calls[by_process], texts, batch.realtime_offset_ns, links), spans))
    return _request(rows, resources, InstrumentationScope(name=SCOPE_NAME, version=version))


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
