"""/healthz and /metrics over HTTP, for those who look. The pipeline writes a page now and then; serving it never holds the drain up."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

from otel_usdt.errors import NotPermitted, UsageError
from otel_usdt.metrics.prometheus import CONTENT_TYPE

UNWELL_S = 30.0  # since the pipeline's last look at the rings: at rest that is five times a second
_CONNECTIONS = 8  # at once; more are closed
_PATIENCE_S = 5.0  # with a client that says nothing


class Page:
    """What is shown. One thread writes, others read: each field is replaced as a whole."""

    def __init__(self) -> None:
        self.metrics = b""
        self.seen_s = time.monotonic()  # when the pipeline last looked at the rings

    def healthy(self) -> bool:
        """Is the pipeline still draining?"""
        return time.monotonic() - self.seen_s < UNWELL_S


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version, timeout = "otel-usdt", "", _PATIENCE_S

    def do_GET(self) -> None:
        page = self.server.page
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(200, CONTENT_TYPE, page.metrics)
            case "/healthz":
                self._answer(*(200, "text/plain", b"ok\n") if page.healthy() else (503, "text/plain", b"the rings are not drained\n"))
            case _:
                self._answer(404, "text/plain", b"/metrics and /healthz are here\n")

    do_HEAD = do_GET

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: standard error is for what an operator must know."""


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    block_on_close = False

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int], page: Page) -> None:
        self.address_family, self.page = family, page
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that goes away is no fault."""


def serve(listen: str, page: Page) -> tuple[str, _Server]:
    """Serve `page` on `listen` (ADDRESS:PORT, IPv6 in brackets; port 0: any) from threads of their own; the URL, and what to shut down.

    NotPermitted or UsageError when the address cannot be had.
    """
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        server = _Server(family, (host.strip("[]"), int(port)), page)
    except OSError as error:
        kind = NotPermitted if isinstance(error, PermissionError) else UsageError
        raise kind(
            f"telemetry.listen: {listen}: {error.strerror}", hint="choose another telemetry.listen: a free port from 1024"
        ) from error
    threading.Thread(target=server.serve_forever, name="telemetry", daemon=True).start()
    return f"http://{host}:{server.server_address[1]}", server
