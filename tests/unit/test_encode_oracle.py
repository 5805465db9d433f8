"""The fast encoder says what the clear one says, of any batch: decoded, the same spans under the same resources, each once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_usdt.otlp.encode import encode_spans
from otel_usdt.otlp.wire import varints
from otel_usdt.plan import TEXT_BYTES, TEXT_SLOTS, Attribute, ErrorWhen, Span
from otel_usdt.spans.model import SpanBatch
from otel_usdt.stream.records import CALL, LINK
from tests.oracle.encode import clear_request

u64, i64 = st.integers(0, (1 << 64) - 1), st.integers(-(1 << 63), (1 << 63) - 1)
numbers = st.one_of(st.integers(-2, 300), st.sampled_from((127, 128, (1 << 56) - 1, 1 << 56, -1, -(1 << 63), (1 << 63) - 1)), i64)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# Keys are unique, and none is one of ours but for the thread id, which may be declared anew.
keys = st.lists(st.one_of(words.map("a.".__add__), st.just("thread.id")), unique=True, min_size=6, max_size=6)
texts = st.one_of(
    st.binary(max_size=TEXT_BYTES),
    words.map(str.encode),
    st.just(b"\xc3" * TEXT_BYTES),
    st.just(b"x" * TEXT_BYTES),
    st.just("é€".encode() * 9),
)


@st.composite
def probes(draw: st.DrawFn) -> Span:
    own = draw(keys)
    integers = [Attribute(own[n], n) for n in range(draw(st.integers(0, 4)))]
    strings = [Attribute(own[4 + n], n, True) for n in range(draw(st.integers(0, TEXT_SLOTS)))]
    when = st.builds(
        ErrorWhen, st.integers(0, 3), st.sampled_from(("<", "<=", "==", "!=", ">=", ">")), numbers, st.sampled_from(("", "EIO"))
    )
    attributes = tuple(draw(st.permutations([*integers, *(one for one in strings if one.key != "thread.id")])))
    return Span(draw(words), 0, "spans", "function", "func:f", draw(words), attributes=attributes, error=draw(st.none() | when))


@st.composite
def batches(draw: st.DrawFn) -> tuple[SpanBatch, list[Span]]:
    spans = draw(st.lists(probes(), min_size=1, max_size=3))
    count = draw(st.integers(1, 12))
    calls = np.zeros(count, CALL)
    for call in calls:
        call["trace"] = draw(st.tuples(u64, u64))
        call["span"] = draw(st.integers(1, (1 << 64) - 1))
        call["parent"] = draw(st.one_of(st.just(0), u64))
        call["link"] = draw(st.one_of(st.just(0), u64))
        call["start_ktime_ns"], call["duration_ns"] = draw(u64), draw(u64)
        call["thread"] = draw(st.integers(1, 3)) << 32 | draw(st.integers(0, (1 << 32) - 1))
        call["probe"] = draw(st.integers(0, len(spans) - 1))
        call["flags"] = draw(st.integers(0, 15))
        call["arg"] = draw(st.tuples(*[numbers] * 4))
    slots = None
    if draw(st.booleans()):
        slots = np.zeros((count, TEXT_SLOTS, TEXT_BYTES), "u1")
        for row in slots.reshape(-1, TEXT_BYTES):
            text = draw(texts)
            row[: len(text)] = list(text)
    rows = sorted(draw(st.lists(st.integers(0, count - 1), max_size=4)))
    links = np.array([(row, draw(st.tuples(u64, u64)), draw(st.integers(1, (1 << 64) - 1))) for row in rows], LINK)
    return SpanBatch(calls, slots, draw(i64), links), spans


def told(request: ExportTraceServiceRequest) -> dict[bytes, list[bytes]]:
    """Resource -> its spans, attributes sorted, for neither encoder promises their order."""
    found: dict[bytes, list[bytes]] = {}
    for of_process in request.resource_spans:
        (of_scope,) = of_process.scope_spans
        for span in of_scope.spans:
            attributes = sorted(span.attributes, key=lambda one: str(one.key))
            assert len({one.key for one in attributes}) == len(attributes)
            del span.attributes[:]
            span.attributes.extend(attributes)
            found.setdefault(of_process.resource.SerializeToString() + of_scope.scope.SerializeToString(), []).append(
                span.SerializeToString(deterministic=True)
            )
    return {resource: sorted(spans) for resource, spans in found.items()}


RESOURCES: dict[int, dict[str, str | int]] = {1: {"service.name": "é", "process.pid": 1}, 2: {"n": -(1 << 63), "": ""}}


@settings(deadline=None, max_examples=300)
@given(batches(), st.integers(1, 2000))
def test_the_fast_encoder_says_what_the_clear_one_says(made: tuple[SpanBatch, list[Span]], max_bytes: int) -> None:
    """Whatever the records hold and wherever requests are cut; each is below the limit or has one span, and counts its own."""
    batch, spans = made
    whole = ExportTraceServiceRequest()
    for encoded in encode_spans(batch, spans, RESOURCES, "1.2.3", max_bytes):
        request = ExportTraceServiceRequest.FromString(encoded.body)
        count = sum(len(scope.spans) for of_process in request.resource_spans for scope in of_process.scope_spans)
        assert count == sum(encoded.counts.values())
        assert len(encoded.body) < max_bytes or count == 1
        whole.MergeFrom(request)
    assert told(whole) == told(clear_request(batch, spans, RESOURCES, "1.2.3"))


@given(batches())
def test_counts_are_of_the_span_probes(made: tuple[SpanBatch, list[Span]]) -> None:
    """Together the requests account for every call, by its span probe."""
    batch, spans = made
    total = sum((Counter(one.counts) for one in encode_spans(batch, spans, {}, "1", 600)), Counter[int]())
    assert total == Counter(batch.calls["probe"].tolist())


@given(st.lists(numbers, min_size=1, max_size=9))
def test_a_padded_varint_is_the_number(values: list[Any]) -> None:
    """Read as protobuf reads them: seven bits a byte, the lowest first, the last byte without its top bit."""
    for row, value in zip(varints(np.array(values, "i8")).tolist(), values, strict=True):
        assert [byte >> 7 for byte in row] == [1] * (len(row) - 1) + [0]
        assert sum((byte & 0x7F) << 7 * at for at, byte in enumerate(row)) == value % (1 << 64)
