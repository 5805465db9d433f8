"""OTLP over HTTP/1.1 with protobuf bodies. https://opentelemetry.io/docs/specs/otlp/#otlphttp"""

from __future__ import annotations

import email.utils
import gzip
import http.client
import math
import time
from urllib.parse import SplitResult

from otel_usdt.errors import UsageError
from otel_usdt.otlp.outcome import Accepted, Outcome, Refused, Retry, Signal, TooLarge, accepted, shown, status_message
from otel_usdt.otlp.tls import Watch, tls_context
from otel_usdt.plan import OtlpExport

_RETRYABLE = frozenset({429, 502, 503, 504})
_ANSWER_LIMIT = 1 << 16  # bytes read of an answer: a partial success is a number and a sentence
_PROTOBUF = "application/x-protobuf"


class HttpTransport:
    """One signal's POSTs on one connection, kept open between them. Without a port the URL's is 80 or 443."""

    def __init__(self, url: SplitResult, signal: Signal, config: OtlpExport) -> None:
        self._url, self._config = url, config
        self._watch = Watch(config) if url.scheme == "https" else None  # before the files are read: a change meanwhile is not missed
        self._connection = _connection(url, config)
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._signal: Signal = signal
        self._gzip = config.compression == "gzip"
        self._headers = {**config.headers, "Content-Type": _PROTOBUF}
        if self._gzip:
            self._headers["Content-Encoding"] = "gzip"

    def send(self, body: bytes) -> Outcome:
        """One POST."""
        if self._watch and self._watch.changed():
            self._connect_again()
        if self._gzip:
            body = gzip.compress(body, compresslevel=1)  # spans are so alike that the cheapest level finds most of it
        kept = self._connection.sock is not None
        outcome = self._attempt(body)
        if kept and outcome is None:
            # The server had closed the kept connection, as servers do after a while: no failure of this request.
            outcome = self._attempt(body)
        return outcome or Retry(None, "the connection was closed without an answer")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _connect_again(self) -> None:
        """With what the files hold now; when that cannot be used, as half-way through a replacement, the connection stays."""
        before = self._connection
        try:
            self._connection = _connection(self._url, self._config)
        except UsageError:
            return
        before.close()

    def _attempt(self, body: bytes) -> Outcome | None:
        """None: the connection broke before an answer began."""
        try:
            sent = self._sent(body)
            response = self._connection.getresponse()
            answer = response.read(_ANSWER_LIMIT)
        except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected):
            self._connection.close()
            return None
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Retry(None, f"{type(error).__name__}: {error}")
        if not sent or not response.isclosed():  # there is more of it
            self._connection.close()
        if not response.headers or (response.length and len(answer) < _ANSWER_LIMIT):
            return Retry(None, "the answer broke off")  # what it would have said of spans that were rejected is not known
        return _outcome(self._signal, response, answer)

    def _sent(self, body: bytes) -> bool:
        """False when the server stopped reading. It may have answered all the same: that the body is too large for it."""
        try:
            self._connection.request("POST", self._path, body, self._headers)
        except (ConnectionResetError, BrokenPipeError):
            if self._connection.sock is None:  # it was never there
                raise
            return False
        return True


def _connection(url: SplitResult, config: OtlpExport) -> http.client.HTTPConnection:
    host = url.hostname or ""
    if url.scheme == "http":
        return http.client.HTTPConnection(host, url.port, timeout=config.timeout_s)
    return http.client.HTTPSConnection(host, url.port, timeout=config.timeout_s, context=tls_context(config))


def _outcome(signal: Signal, response: http.client.HTTPResponse, answer: bytes) -> Outcome:
    status = response.status
    content_type = response.headers.get_content_type() if "Content-Type" in response.headers else ""
    if 200 <= status < 300 and content_type == "text/html":
        return Refused("HTTP 200 with a web page: the endpoint is no OTLP receiver")
    if 200 <= status < 300:
        return Accepted() if content_type == "application/json" else accepted(signal, answer)
    said = status_message(answer) if content_type == _PROTOBUF else shown(answer) if content_type != "text/html" else ""
    why = f"HTTP {status}: {said or shown(response.reason.encode('utf-8', 'replace'))}"
    if status in _RETRYABLE:
        return Retry(_retry_after_s(response.headers.get("Retry-After")), why)
    # The Collector says 400, with the words of Go's http.MaxBytesReader: opentelemetry-collector issue 11066.
    if status == 413 or (status == 400 and "request body too large" in said):
        return TooLarge(why)
    if 300 <= status < 400:
        why += f" (to {shown(response.headers.get('Location', '').encode())}; redirects are not followed)"
    return Refused(why)


def _retry_after_s(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which has seconds or a date (RFC 9110, 10.2.3); None for one that is neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
