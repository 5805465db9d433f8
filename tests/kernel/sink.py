"""An OTLP receiver that stops answering and goes on again, and keeps of what it accepted only what can be counted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Sink:
    """`spans` by name, of all that was accepted; `metrics` is the newest request. A request that comes during a stall is never accepted.

    One whose answer comes too late for the client, on a busy machine, comes again: its spans count once.
    """

    port: int = 0
    spans: Counter[str] = field(default_factory=Counter)
    ids: set[bytes] = field(default_factory=set)
    metrics: Any = None
    going: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, path: str, body: bytes) -> None:
        if path.endswith("metrics"):
            self.metrics = ExportMetricsServiceRequest.FromString(body)
            return
        told = [
            (span.name, span.span_id)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self.lock:
            self.spans.update(name for name, identity in told if identity not in self.ids)
            self.ids.update(identity for _, identity in told)

    def points(self, metric: str) -> list[tuple[dict[str, str], Any]]:
        """The newest points of a metric, each with its attributes."""
        return [
            ({pair.key: pair.value.string_value for pair in point.attributes}, point)
            for resource in self.metrics.resource_metrics
            for scope in resource.scope_metrics
            for one in scope.metrics
            if one.name == metric
            for point in getattr(one, one.WhichOneof("data")).data_points
        ]


@contextmanager
def running_sink() -> Iterator[Sink]:
    """One on loopback, by HTTP."""
    sink = Sink()
    sink.going.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            stalled = not sink.going.is_set()
            sink.going.wait()
            if not stalled:
                sink.take(self.path, body)
            self.send_response(503 if stalled else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that gave up during a stall is what a stall is for."""

    with Server(("127.0.0.1", 0), Handler) as server:
        sink.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield sink
        finally:
            sink.going.set()
            server.shutdown()
            thread.join()
