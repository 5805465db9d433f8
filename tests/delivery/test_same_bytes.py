"""The very bytes that are sent are understood alike: by opentelemetry-proto, by the Collector (Go) and by rotel (Rust)."""

from __future__ import annotations

from contextlib import closing
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_usdt.otlp.client import Accepted, Exporter
from otel_usdt.otlp.encode import encode_spans
from otel_usdt.plan import TEXT_BYTES, Attribute, ErrorWhen, Span
from otel_usdt.spans.model import SpanBatch
from otel_usdt.stream.records import DISAGREES, LINK, REMOTE, TEXT_FLAG
from tests.delivery.receivers import How, Kind, receiver
from tests.kernel.session import wait_until
from tests.oracle.encode import clear_request
from tests.pipeline.receivers import Received
from tests.samples import PARSE, QUERY, batch, call
from tests.unit.test_encode_oracle import told

TYPED = Span("typed", 0, "spans", "function", "func:f", "f", attributes=(Attribute("n", 0),), error=ErrorWhen(0, "<", 0, "EIO"))
SPANS = [QUERY, PARSE, TYPED]
RESOURCES: dict[int, dict[str, str | int]] = {1: {"service.name": "é", "process.pid": 1}, 2: {"service.name": "orders", "n": -(1 << 63)}}
NUMBERS = (0, 127, 128, (1 << 56) - 1, 1 << 56, (1 << 63) - 1, -1, -(1 << 63))
TEXTS = (b"", b"SELECT 1", b"\xc3\xa9\xff", b"x" * TEXT_BYTES)


def every_shape() -> SpanBatch:
    """Each span probe as root and child, local and remote, sure and unsure, with a link of its own or in the batch or none, and each number
    (negative ones are errors) and text."""
    calls, texts = [], []
    bits = product(range(len(SPANS)), (0, 7), (0, REMOTE), (0, DISAGREES), (0, 9), NUMBERS, (0, TEXT_FLAG, TEXT_FLAG | TEXT_FLAG << 1))
    for span, (probe, parent, remote, unsure, link, number, text) in enumerate(bits, 1):
        own = {"parent": parent, "link": link, "arg": (number,) * 4, "flags": remote | unsure | text}
        calls.append(call(probe, 1 + span % 2, span * 1_000, span) | own)
        texts.append({0: TEXTS[span % 4], 1: TEXTS[span // 4 % 4]})
    made = batch(calls, texts)
    links = np.array([(row, (row, ~row & 0xFFFF), row + 1) for row in range(0, len(calls), 3)], LINK)
    return SpanBatch(made.calls, made.texts, made.realtime_offset_ns, links)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        pytest.param("collector", "grpc", marks=pytest.mark.peers),
        pytest.param("collector", "http/protobuf", marks=pytest.mark.peers),
        ("rotel", "grpc"),
        ("rotel", "http/protobuf"),
        ("own", "grpc"),
    ],
)
def test_every_shape_is_understood_alike(kind: Kind, how: How, tmp_path: Path) -> None:
    """What the receiver passes on, decoded, is what the clear encoder says of the same calls, under the same resources."""
    made, received = every_shape(), Received()
    requests = encode_spans(made, SPANS, RESOURCES, "1.2.3", max_bytes=100_000)
    assert len(requests) > 1
    with receiver(kind, how, tmp_path, received) as (config, life), closing(Exporter(config)) as exporter:
        life.start()
        wait_until(lambda: exporter.send("traces", requests[0].body) == Accepted(), "a receiver that is ready")
        for request in requests[1:]:
            assert exporter.send("traces", request.body) == Accepted()
        life.end()
    whole = ExportTraceServiceRequest()
    for one in received.traces:
        whole.MergeFrom(one)
    for span in (span for process in whole.resource_spans for scope in process.scope_spans for span in scope.spans):
        if not span.status.ByteSize():
            span.ClearField("status")  # the Collector always writes one: empty is the same as absent
    assert told(whole) == told(clear_request(made, SPANS, RESOURCES, "1.2.3"))
