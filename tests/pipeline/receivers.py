"""Real OTLP receivers on loopback, gRPC and HTTP, that answer as a test tells them to and keep what they accepted."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

REQUESTS: dict[str, Any] = {
    "/v1/traces": trace_service_pb2.ExportTraceServiceRequest,
    "/v1/metrics": metrics_service_pb2.ExportMetricsServiceRequest,
}


@dataclass
class Received:
    """What a receiver accepted, and the headers of every request that reached it."""

    traces: list[Any] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    clients: list[str] = field(default_factory=list)  # the common name in the certificate that a request's client showed
    lock: threading.Lock = field(default_factory=threading.Lock)

    def number(self, headers: dict[str, str]) -> int:
        """Notes that a request has come, with these headers; which one it is, from 0. No two that come at once have the same number."""
        with self.lock:
            self.headers.append(headers)
            return len(self.headers) - 1

    def span_ids(self) -> list[bytes]:
        """Of every span in the traces, in order of arrival."""
        return [s.span_id for request in self.traces for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]


@dataclass(frozen=True)
class Abort:
    """A gRPC failure."""

    code: grpc.StatusCode
    details: str = ""
    trailers: tuple[tuple[str, bytes | str], ...] = ()


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; `hang_s` comes first."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/x-protobuf"),)
    hang_s: float = 0.0
    close: bool = False  # the connection, without saying so


GrpcScript = Callable[[int], Any]  # the number of the request, from 0 -> a response, an Abort, or bytes to send as they are


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, script: GrpcScript, received: Received) -> None:
        self.script, self.received = script, received

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(self.script, self.received, self.received.traces, request, context)


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, script: GrpcScript, received: Received) -> None:
        self.script, self.received = script, received

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = _answered(self.script, self.received, self.received.metrics, request, context)
        return metrics_service_pb2.ExportMetricsServiceResponse() if answer == trace_service_pb2.ExportTraceServiceResponse() else answer


def _answered(script: GrpcScript, received: Received, kept: list[Any], request: Any, context: grpc.ServicerContext) -> Any:
    number = received.number({str(key): str(value) for key, value in context.invocation_metadata()})
    identities: Any = context.auth_context()  # bytes, whatever the stubs say
    received.clients += [name.decode() for name in identities.get("x509_common_name", ())]
    answer = script(number)
    if isinstance(answer, Abort):
        context.set_trailing_metadata(answer.trailers)
        context.abort(answer.code, answer.details)
    kept.append(request)
    return answer


def accept(_: int) -> Any:
    """The script of a receiver that takes everything."""
    return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def grpc_receiver(
    script: GrpcScript = accept,
    port: int = 0,
    options: Sequence[tuple[str, Any]] = (),
    credentials: grpc.ServerCredentials | None = None,
    into: Received | None = None,
) -> Iterator[tuple[int, Received]]:
    """A gRPC server on loopback: its port, and what it received, together with what an earlier life put `into` the same."""
    received = into or Received()
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads, options=(("grpc.so_reuseport", 0), *options))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(script, received), server)  # type: ignore[no-untyped-call]
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(script, received), server)  # type: ignore[no-untyped-call]
        address = f"127.0.0.1:{port}"
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        assert bound, f"port {port} is taken"
        server.start()
        try:
            yield bound, received
        finally:
            server.stop(grace=None).wait()


@contextmanager
def http_receiver(
    script: Callable[[int], Answer] = lambda _: Answer(),
    port: int = 0,
    wrap: Callable[[Any], Any] = lambda socket: socket,
    limit: int = 1 << 30,
    into: Received | None = None,
) -> Iterator[tuple[int, Received]]:
    """An HTTP/1.1 server on loopback: its port, and what it received. `wrap` is for TLS; bodies over `limit` bytes get a 413."""
    received = into or Received()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            number = received.number({key.lower(): value for key, value in self.headers.items()})
            received.paths.append(self.path)
            received.connections.add(self.client_address)
            shown: Any = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
            received.clients += [value for pairs in (shown or {}).get("subject", ()) for key, value in pairs if key == "commonName"]
            answer = script(number) if len(body) <= limit else Answer(413)
            time.sleep(answer.hang_s)
            if 200 <= answer.status < 300:
                kind = REQUESTS[self.path] if self.path in REQUESTS else REQUESTS["/v1/traces"]
                (received.metrics if self.path.endswith("metrics") else received.traces).append(kind.FromString(body))
            self.send_response(answer.status)
            for key, value in answer.headers:
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
            self.close_connection = self.close_connection or answer.close

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that gave up: the tests look at the client

    with Server(("127.0.0.1", port), Handler) as server:
        server.socket = wrap(server.socket)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1], received
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def talker(answer: bytes) -> Iterator[tuple[int, list[float]]]:
    """A server that says `answer` to everybody and hangs up: its port, and when it was called."""
    called: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                called.append(time.monotonic())
                with peer:
                    peer.settimeout(5.0)
                    try:
                        peer.recv(1 << 16)
                        peer.sendall(answer)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], called
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
