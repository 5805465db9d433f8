"""A batch of calls as spans, before any format: ids, wall-clock times, attributes and status are decided here and nowhere else.

`otlp/encode.py` writes these rows as protobuf, `spans/view.py` as the JSON of docs/json.md.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_usdt.plan import Attribute, ErrorWhen, Span
from otel_usdt.stream.records import DISAGREES, LINK, REMOTE, TEXT_FLAG

COMPARE: dict[str, Callable[[Any, int], Any]] = {  # of numbers, or of an array of them
    "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">=": operator.ge, ">": operator.gt,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SpanBatch:
    """Calls to send as spans. Every `probe` in them is an index into the plan's spans: the caller has removed the others.

    `calls` has dtype `stream.records.CALL`; `texts` is None or u1 of shape (n, TEXT_SLOTS, TEXT_BYTES), parallel to `calls`;
    `realtime_offset_ns` added to a ktime gives unix time. `links` has dtype `stream.records.LINK`, sorted by `row`: links to other spans
    beside those that the calls name themselves (`link`, of their own trace).
    """

    calls: npt.NDArray[np.void]
    texts: npt.NDArray[np.uint8] | None
    realtime_offset_ns: int
    links: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, LINK))


class SpanRow(NamedTuple):
    """One span. Ids are big-endian bytes, `parent_id` b"" for a root; times are unix nanoseconds; pids are of the initial namespace.

    `links` are pairs of trace and span id; `remote` says that the parent is another process's or another tracer's span.
    """

    probe: int
    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    start_unix_ns: int
    end_unix_ns: int
    tgid: int
    tid: int
    error: bool
    attributes: dict[str, str | int]
    remote: bool = False
    links: tuple[tuple[bytes, bytes], ...] = ()


def span_rows(batch: SpanBatch, spans: Sequence[Span]) -> Iterator[SpanRow]:
    """The spans of `batch`, in its order. IndexError when a call's `probe` is not in `spans`."""
    calls = batch.calls
    starts, ends = unix_times(batch)
    threads: npt.NDArray[np.uint64] = calls["thread"]
    columns = zip(
        calls["probe"].tolist(),
        trace_ids(calls["trace"]),
        span_ids(calls["span"]),
        span_ids(calls["parent"]),
        starts.tolist(),
        ends.tolist(),
        (threads >> np.uint64(32)).tolist(),
        (threads & np.uint64(0xFFFFFFFF)).tolist(),
        calls["arg"].tolist(),
        calls["flags"].tolist(),
        span_ids(calls["link"]),
        strict=True,
    )
    links = _links(batch.links)
    for at, (probe, trace_id, span_id, parent_id, start, end, tgid, tid, arguments, flags, link) in enumerate(columns):
        span = spans[probe]
        texts = None if batch.texts is None else batch.texts[at]
        attributes: dict[str, str | int] = {"code.function.name": span.function} if span.function else {}
        for attribute in span.attributes:
            value = _value(attribute, arguments, texts, flags)
            if value is not None:
                attributes[attribute.key] = value
        when, failed = span.error, False
        if when is not None and (failed := is_error(when, arguments[when.slot])):
            attributes["error.type"] = when.type or str(arguments[when.slot])
        if flags & DISAGREES:
            attributes["otel_usdt.parent"] = "uncertain"
        linked = (*([(trace_id, link)] if link else ()), *links.get(at, ()))
        yield SpanRow(
            probe, span.name, trace_id, span_id, parent_id, start, end, tgid, tid, failed, attributes, bool(flags & REMOTE), linked
        )


def _links(links: npt.NDArray[np.void]) -> dict[int, list[tuple[bytes, bytes]]]:
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    for row, trace_id, span_id in zip(links["row"].tolist(), trace_ids(links["trace"]), span_ids(links["span"]), strict=True):
        found.setdefault(row, []).append((trace_id, span_id))
    return found


def trace_ids(words: npt.NDArray[np.uint64]) -> list[bytes]:
    """The 16 bytes of each trace id, from rows of two u64: the first is the high half, both big-endian."""
    flat = words.astype(">u8").tobytes()
    return [flat[at : at + 16] for at in range(0, len(flat), 16)]


def span_ids(words: npt.NDArray[np.uint64]) -> list[bytes]:
    """The 8 big-endian bytes of each span id; b"" for 0, which means none."""
    return [word.to_bytes(8, "big") if word else b"" for word in words.tolist()]


def unix_times(batch: SpanBatch) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Start and end of each call in unix nanoseconds. Never an end before its start, whatever the record says."""
    # Modulo 2^64, like the kernel's own arithmetic: a negative offset is a large addend, and a nonsense record cannot raise.
    start = batch.calls["start_ktime_ns"] + np.uint64(batch.realtime_offset_ns % (1 << 64))
    return start, np.maximum(start, start + batch.calls["duration_ns"])


def is_error(when: ErrorWhen, value: int) -> bool:
    """Does the signed `value` mean that the call failed?"""
    return bool(COMPARE[when.operator](value, when.value))


def _value(attribute: Attribute, arguments: list[int], texts: npt.NDArray[np.uint8] | None, flags: int) -> str | int | None:
    if not attribute.string:
        return arguments[attribute.slot]
    if texts is None or not flags & (TEXT_FLAG << attribute.slot):
        return None  # not read, or lost on the way: absent is not the same as empty
    text: bytes = texts[attribute.slot].tobytes()
    return text.partition(b"\0")[0].decode("utf-8", errors="replace")
