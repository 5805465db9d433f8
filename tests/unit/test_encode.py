"""Calls become OTLP spans: every field, one resource a process, no request too large."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from otel_usdt.otlp.encode import Encoded, encode_spans
from otel_usdt.plan import Attribute, ErrorWhen
from otel_usdt.spans.model import SpanBatch, is_error
from otel_usdt.spans.view import span_lines
from otel_usdt.stream.records import CALL, DISAGREES, LINK, REMOTE
from tests.samples import OFFSET_NS, PARSE, QUERY, batch, call, plain

SPANS = (QUERY, PARSE)
RESOURCES: dict[int, dict[str, str | int]] = {
    100: {"service.name": "orders", "process.pid": 100},
    200: {"service.name": "billing", "process.pid": 200},
}


def decoded(encoded: list[Encoded]) -> list[ExportTraceServiceRequest]:
    return [ExportTraceServiceRequest.FromString(one.body) for one in encoded]


def spans_of(request: ExportTraceServiceRequest) -> list[Span]:
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def only_span(calls: SpanBatch) -> Span:
    [request] = decoded(encode_spans(calls, SPANS, RESOURCES, "0.1.0"))
    [span] = spans_of(request)
    return span


def test_every_field_of_a_span_arrives() -> None:
    """Ids big-endian, unix times, kind, flags, attributes and status are as the record and the plan say."""
    fields = call(span=0x1122334455667788, parent=0x99, start_ktime_ns=7, duration_ns=1_500, arg=(-5, 0, 0, 0), flags=3)
    span = only_span(batch([fields], [{0: b"SELECT 1", 1: b"alice"}]))
    assert span.trace_id.hex() == "0123456789abcdeffedcba9876543210"
    assert span.span_id.hex() == "1122334455667788"
    assert span.parent_span_id.hex() == "0000000000000099"
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (OFFSET_NS + 7, OFFSET_NS + 1_507)
    assert (span.name, span.kind, span.flags, span.trace_state) == ("query", Span.SPAN_KIND_INTERNAL, 0x101, "")
    assert plain(span.attributes) == {"thread.id": 101, "db.rows": -5, "db.query.text": "SELECT 1", "db.user": "alice"}
    assert not span.HasField("status")


def test_root_has_an_empty_parent_and_a_function_its_name() -> None:
    """Parent 0 is no parent; a function probe's spans carry code.function.name."""
    span = only_span(batch([call(probe=1)]))
    assert span.parent_span_id == b""
    assert plain(span.attributes) == {"thread.id": 101, "code.function.name": "pg_parse_query"}


def test_one_resource_for_each_process() -> None:
    """Spans of one process share a ResourceSpans with its own resource and our scope, in the order in which they came."""
    calls = [call(tgid=200, span=1), call(tgid=100, span=2), call(tgid=200, span=3), call(tgid=300, span=4)]
    [request] = decoded(encode_spans(batch(calls), SPANS, RESOURCES, "1.2.3"))
    found = {}
    for of_process in request.resource_spans:
        [scope] = of_process.scope_spans
        assert (scope.scope.name, scope.scope.version) == ("otel-usdt", "1.2.3")
        found[plain(of_process.resource.attributes)["process.pid"]] = [int.from_bytes(span.span_id, "big") for span in scope.spans]
    assert found == {100: [2], 200: [1, 3], 300: [4]}
    assert plain(request.resource_spans[0].resource.attributes)["service.name"] == "orders"


def test_texts_follow_their_calls_when_the_batch_is_sorted_by_process() -> None:
    """Sorting calls by process takes their texts along."""
    calls = [call(tgid=200, flags=1), call(tgid=100, flags=1)]
    [request] = decoded(encode_spans(batch(calls, [{0: b"of 200"}, {0: b"of 100"}]), SPANS, RESOURCES, "1"))
    assert len(request.resource_spans) == 2
    for of_process in request.resource_spans:
        [span] = of_process.scope_spans[0].spans
        assert plain(span.attributes)["db.query.text"] == f"of {plain(of_process.resource.attributes)['process.pid']}"


@pytest.mark.parametrize(
    ("flags", "text", "expected"),
    [
        (0, b"unread", None),
        (2, b"unread", None),
        (1, b"", ""),
        (1, b"one\0two", "one"),
        (1, b"x" * 256, "x" * 256),
        (1, b"caf\xc3\xa9 \xff\xed\xa0\x80", "café " + "�" * 4),
    ],
)
def test_text_attribute_is_what_the_kernel_read(flags: int, text: bytes, expected: str | None) -> None:
    """A text is there only when its flag is set, ends at its NUL, and is valid UTF-8 whatever was read."""
    attributes = plain(only_span(batch([call(flags=flags)], [{0: text}])).attributes)
    assert attributes.get("db.query.text") == expected


def test_text_flag_without_texts_is_no_attribute() -> None:
    """A record from the ring without texts cannot have one, whatever its flags say."""
    assert "db.query.text" not in plain(only_span(batch([call(flags=3)])).attributes)


def test_error_by_value_sets_status_and_type() -> None:
    """A call that failed by its declared rule has status ERROR, and the value for error.type unless the plan names one."""
    span = only_span(batch([call(arg=(0, -17, 0, 0))]))
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert plain(span.attributes)["error.type"] == "-17"


@pytest.mark.parametrize(
    ("operator", "true_for"),
    [("<", {-1}), ("<=", {-1, 0}), ("==", {0}), ("!=", {-1, 1}), (">=", {0, 1}), (">", {1})],
)
def test_error_rule_compares_signed(operator: Any, true_for: set[int]) -> None:
    """Each operator of an error rule, on both sides of its value."""
    assert {value for value in (-1, 0, 1) if is_error(ErrorWhen(0, operator, 0), value)} == true_for


def test_remote_parents_links_and_doubts_are_told() -> None:
    """A parent outside has bit 9; a call's own link comes before the batch's, which follow it when the batch is sorted by process."""
    made = batch([call(tgid=200), call(parent=2)])
    made.calls["flags"] = [0, REMOTE | DISAGREES]
    made.calls["link"] = [0, 7]
    links = np.array([(1, (1, 2), 9)], LINK)
    (request,) = decoded(encode_spans(SpanBatch(made.calls, None, OFFSET_NS, links), SPANS, {}, "1"))
    ours, other = spans_of(request)
    assert [(link.trace_id.hex()[-4:], link.span_id[-1]) for link in ours.links] == [("3210", 7), ("0002", 9)]
    assert (ours.flags, other.flags, len(other.links)) == (0x301, 0x101, 0)
    assert [a.value.string_value for a in ours.attributes if a.key == "otel_usdt.parent"] == ["uncertain"]


def test_empty_batch_is_no_request() -> None:
    """OTLP has no empty requests."""
    assert encode_spans(SpanBatch(np.zeros(0, CALL), None, 0), SPANS, RESOURCES, "1") == []


def test_requests_are_cut_below_the_limit_and_lose_nothing() -> None:
    """Many spans make several requests, each below the limit, with every span once and its count right."""
    calls = [call(probe=n % 2, tgid=100 + n % 3, span=n + 1, flags=1) for n in range(997)]
    encoded = encode_spans(batch(calls, [{0: b"q" * 200}] * len(calls)), SPANS, RESOURCES, "1", max_bytes=20_000)
    assert len(encoded) > 1
    assert all(len(one.body) < 20_000 for one in encoded)
    seen: list[int] = []
    for one, request in zip(encoded, decoded(encoded), strict=True):
        spans = spans_of(request)
        assert one.counts == {probe: n for probe in (0, 1) if (n := sum(span.name == SPANS[probe].name for span in spans))}
        seen += [int.from_bytes(span.span_id, "big") for span in spans]
    assert sorted(seen) == list(range(1, 998))


def test_span_larger_than_the_limit_is_still_sent() -> None:
    """A limit that no span fits into leaves one span a request rather than none."""
    encoded = encode_spans(batch([call(span=1), call(span=2)]), SPANS, RESOURCES, "1", max_bytes=10)
    assert [one.counts for one in encoded] == [{0: 1}, {0: 1}]


def test_nonsense_record_is_encoded_all_the_same() -> None:
    """All bits set in a record: end is not before start, and nothing raises."""
    calls = np.zeros(1, CALL)
    calls.view("u1")[:] = 0xFF
    calls["probe"] = 0
    span = only_span(SpanBatch(calls, np.full((1, 2, 256), 0xFF, "u1"), -OFFSET_NS))
    assert span.start_time_unix_nano <= span.end_time_unix_nano
    assert plain(span.attributes)["thread.id"] == 0xFFFFFFFF


def test_declared_attribute_replaces_ours_of_the_same_key() -> None:
    """Attribute keys are unique in OTLP; the user's declaration wins."""
    spans = (replace(PARSE, attributes=(Attribute("thread.id", 0), Attribute("code.function.name", 1))),)
    [request] = decoded(encode_spans(batch([call(arg=(7, 8, 0, 0))]), spans, RESOURCES, "1"))
    assert plain(spans_of(request)[0].attributes) == {"thread.id": 7, "code.function.name": 8}


def test_trace_lines_are_the_documented_objects() -> None:
    """`trace --json`: the keys and forms of docs/json.md, with the same ids, times and attributes as OTLP has."""
    calls = batch([call(parent=2, arg=(3, -1, 0, 0), flags=1), call(probe=1, span=0xAB)], [{0: b"SELECT 1"}, {}])
    assert list(span_lines(calls, SPANS)) == [
        {
            "name": "query",
            "trace_id": "0123456789abcdeffedcba9876543210",
            "span_id": "0000000000000001",
            "parent_span_id": "0000000000000002",
            "start_time_unix_nano": OFFSET_NS + 5_000,
            "end_time_unix_nano": OFFSET_NS + 6_000,
            "pid": 100,
            "tid": 101,
            "status": "ERROR",
            "attributes": {"db.rows": 3, "db.query.text": "SELECT 1", "error.type": "-1"},
            "links": [],
        },
        {
            "name": "parse",
            "trace_id": "0123456789abcdeffedcba9876543210",
            "span_id": "00000000000000ab",
            "parent_span_id": "",
            "start_time_unix_nano": OFFSET_NS + 5_000,
            "end_time_unix_nano": OFFSET_NS + 6_000,
            "pid": 100,
            "tid": 101,
            "status": "UNSET",
            "attributes": {"code.function.name": "pg_parse_query"},
            "links": [],
        },
    ]
