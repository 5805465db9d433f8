"""Spans as the JSON objects of `otel-usdt trace --json` (docs/json.md), a stable interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from otel_usdt.plan import Span
from otel_usdt.spans.model import SpanBatch, span_rows


def span_lines(batch: SpanBatch, spans: Sequence[Span]) -> Iterator[dict[str, Any]]:
    """One object a call, in the batch's order: ids in lower-case hex ("" for no parent), times in unix nanoseconds as integers."""
    for row in span_rows(batch, spans):
        yield {
            "name": row.name,
            "trace_id": row.trace_id.hex(),
            "span_id": row.span_id.hex(),
            "parent_span_id": row.parent_id.hex(),
            "start_time_unix_nano": row.start_unix_ns,
            "end_time_unix_nano": row.end_unix_ns,
            "pid": row.tgid,
            "tid": row.tid,
            "status": "ERROR" if row.error else "UNSET",
            "attributes": row.attributes,
            "links": [{"trace_id": trace_id.hex(), "span_id": span_id.hex()} for trace_id, span_id in row.links],
        }
