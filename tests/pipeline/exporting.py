"""Requests to send, an exporter to send them by, and what gRPC receivers add to a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration

from otel_usdt.metrics.points import ledger_points
from otel_usdt.otlp.client import Exporter
from otel_usdt.otlp.encode import encode_spans
from otel_usdt.otlp.encode_metrics import encode_points
from otel_usdt.plan import OtlpExport
from tests.samples import PARSE, batch, call

TRACES = encode_spans(batch([call(span=n) for n in range(1, 4)]), [PARSE], {100: {"service.name": "orders"}}, "0.1.0")[0].body
METRICS = encode_points(ledger_points({"parse": {"entries": 3}}), {"service.name": "otel-usdt"}, 1, 2, "0.1.0")


@contextmanager
def exporter(port: int, protocol: Any = "grpc", scheme: str = "http", **config: Any) -> Iterator[Exporter]:
    settings: dict[str, Any] = {"timeout_s": 5.0, "endpoint": f"{scheme}://localhost:{port}"} | config
    with closing(Exporter(OtlpExport(protocol=protocol, **settings))) as made:
        yield made


def rpc_status(*details: bytes, message: str = "slow down") -> bytes:
    """An encoded google.rpc.Status: code 8, a message, and `details`, each an encoded Any."""
    text = message.encode()
    encoded = b"\x08\x08\x12" + bytes([len(text)]) + text
    return encoded + b"".join(b"\x1a" + bytes([len(detail)]) + detail for detail in details)


def retry_info(seconds: int, nanos: int = 0) -> bytes:
    delay = Duration(seconds=seconds, nanos=nanos).SerializeToString()
    packed = Packed(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\x0a" + bytes([len(delay)]) + delay)
    return packed.SerializeToString()
