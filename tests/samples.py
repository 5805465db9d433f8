"""Plans' spans and batches of calls for tests, with plain values in place of a kernel's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from otel_usdt.plan import TEXT_BYTES, TEXT_SLOTS, Attribute, ErrorWhen, Span
from otel_usdt.spans.model import SpanBatch
from otel_usdt.stream.records import CALL

OFFSET_NS = 1_700_000_000_000_000_000  # of the wall clock to the monotonic one
QUERY = Span(
    name="query",
    target=0,
    mode="spans",
    kind="pair",
    probe="usdt:postgresql:query__start ~~ usdt:postgresql:query__done",
    attributes=(Attribute("db.rows", 0), Attribute("db.query.text", 0, string=True), Attribute("db.user", 1, string=True)),
    error=ErrorWhen(slot=1, operator="<", value=0),
)
PARSE = Span(name="parse", target=0, mode="spans", kind="function", probe="func:pg_parse_query", function="pg_parse_query")


def thread(tgid: int, tid: int) -> int:
    """A record's `thread`."""
    return tgid << 32 | tid


def batch(calls: Sequence[Mapping[str, Any]], texts: Sequence[Mapping[int, bytes]] | None = None) -> SpanBatch:
    """A batch of records with the fields given; `texts` are the bytes in each record's text slots."""
    records = np.zeros(len(calls), CALL)
    for record, fields in zip(records, calls, strict=True):
        for field, value in fields.items():
            record[field] = value
    if texts is None:
        return SpanBatch(records, None, OFFSET_NS)
    slots = np.zeros((len(calls), TEXT_SLOTS, TEXT_BYTES), "u1")
    for at, of_call in enumerate(texts):
        for slot, text in of_call.items():
            slots[at, slot, : len(text)] = list(text)
    return SpanBatch(records, slots, OFFSET_NS)


def call(probe: int = 0, tgid: int = 100, tid: int = 101, span: int = 1, **fields: Any) -> dict[str, Any]:
    """A record of one microsecond, with other fields as given."""
    return {
        "trace": (0x0123456789ABCDEF, 0xFEDCBA9876543210), "span": span, "start_ktime_ns": 5_000, "duration_ns": 1_000,
        "thread": thread(tgid, tid), "probe": probe, "depth": 1, **fields,
    }  # fmt: skip


def plain(attributes: Any) -> dict[str, str | int]:
    """OTLP attributes as a dict; fails on a key that is there twice."""
    pairs: list[tuple[str, str | int]] = [(one.key, getattr(one.value, one.value.WhichOneof("value"))) for one in attributes]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)
