"""Requests that the receiver finds too large: they go in halves, and only what cannot be halved is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_usdt.otlp.backlog import Request
from otel_usdt.otlp.client import Accepted, Exporter, TooLarge
from otel_usdt.otlp.encode import encode_spans
from otel_usdt.otlp.halves import halves
from otel_usdt.otlp.queue import Delivered
from otel_usdt.plan import OtlpExport
from otel_usdt.stream.records import TEXT_FLAG
from tests.pipeline.receivers import Received, grpc_receiver, http_receiver
from tests.pipeline.scripted import Script, delivery, spans, until
from tests.samples import PARSE, QUERY, batch, call, plain


@contextmanager
def limited(protocol: Any, limit: int) -> Iterator[tuple[Exporter, Received]]:
    """A client whose receiver takes no request of more bytes."""
    receiver = grpc_receiver(options=[("grpc.max_receive_message_length", limit)]) if protocol == "grpc" else http_receiver(limit=limit)
    with receiver as (port, received), closing(Exporter(OtlpExport(f"http://127.0.0.1:{port}", protocol, timeout_s=20.0))) as sender:
        yield sender, received


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("limit", [1_500, 8_000])
def test_request_that_is_too_large_goes_in_halves(protocol: Any, limit: int) -> None:
    """Real receivers that take little at once get every span once and in order; the account is exact, and nothing needs saying."""
    said: list[str] = []
    encoded = spans(101)
    assert len(encoded.body) > 8_000
    with limited(protocol, limit) as (sender, received), delivery(sender, say=said.append) as queue:
        queue.put("traces", encoded.body, encoded.counts)
        until(lambda: not queue.totals().queued)
        assert queue.totals() == Delivered(encoded.counts, {}, {})
    assert received.span_ids() == [n.to_bytes(8, "big") for n in range(1, 102)]
    assert len(received.traces) > 1
    assert said == []


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_single_span_that_is_too_large_is_dropped_and_said_once(protocol: Any) -> None:
    """The others of its request arrive; a second one like it is counted and not said again."""
    said: list[str] = []
    calls = [call(probe=0 if n in (4, 9) else 1, span=n, flags=TEXT_FLAG) for n in range(1, 12)]
    texts = [{0: b"q" * (230 + n)} if n in (4, 9) else {} for n in range(1, 12)]
    [encoded] = encode_spans(batch(calls, texts), [QUERY, PARSE], {}, "1")
    with limited(protocol, 300) as (sender, received), delivery(sender, say=said.append) as queue:
        queue.put("traces", encoded.body, encoded.counts)
        until(lambda: not queue.totals().queued)
        assert queue.totals() == Delivered({1: 9}, {0: 2}, {})
    assert [int.from_bytes(span_id, "big") for span_id in received.span_ids()] == [1, 2, 3, 5, 6, 7, 8, 10, 11]
    assert len(said) == 1
    assert "a single span is too large" in said[0]


def test_halves_keep_every_span_under_its_own_resource() -> None:
    """Spans of three processes: each half names the processes and the scope of its spans, and has their account."""
    calls = [call(probe=n % 2, tgid=100 + n // 3, span=1 + n) for n in range(9)]
    resources: dict[int, dict[str, str | int]] = {100 + n: {"service.name": f"s{n}", "process.pid": 100 + n} for n in range(3)}
    [encoded] = encode_spans(batch(calls), [QUERY, PARSE], resources, "1.2.3")
    pieces = halves(Request("traces", encoded.body, encoded.counts), {QUERY.name: 0, PARSE.name: 1})
    assert [piece.counts for piece in pieces] == [{0: 3, 1: 1}, {0: 2, 1: 3}]
    told = [
        (plain(of_process.resource.attributes)["process.pid"], scope.scope.version, [span.span_id[-1] for span in scope.spans])
        for piece in pieces
        for of_process in ExportTraceServiceRequest.FromString(piece.body).resource_spans
        for scope in of_process.scope_spans
    ]
    assert told == [(100, "1.2.3", [1, 3, 2]), (101, "1.2.3", [5]), (101, "1.2.3", [4, 6]), (102, "1.2.3", [7, 9, 8])]


def test_metrics_that_are_too_large_are_dropped_and_said() -> None:
    """They are not split; the next ones are tried again."""
    said: list[str] = []
    sender = Script(TooLarge("413"), Accepted())
    with delivery(sender, say=said.append) as queue:
        queue.put("metrics", b"large", {})
        until(lambda: said)
        queue.put("metrics", b"small", {})
        until(lambda: sender.sent == [("metrics", b"large"), ("metrics", b"small")])
    assert said == ["the metrics are too large for the OTLP receiver: such are dropped (413)"]
