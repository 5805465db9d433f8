"""OTLP over gRPC. The bytes go out as they were encoded, through a call without serializers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast
from urllib.parse import SplitResult

import grpc
import grpc._channel  # grpc imports these two where it opens its first channel, when our own code may not be readable any more
import grpc.experimental

from otel_usdt.errors import UsageError
from otel_usdt.otlp.outcome import Outcome, Refused, Retry, Signal, TooLarge, accepted, retry_delay_s, shown
from otel_usdt.otlp.tls import Watch, check_tls, read_pem
from otel_usdt.plan import OtlpExport

_METHODS: dict[Signal, str] = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
# https://opentelemetry.io/docs/specs/otlp/#failures; RESOURCE_EXHAUSTED is one too, but only with a RetryInfo
_RETRYABLE = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_OPTIONS = (
    # A channel whose connection was refused fails every call at once until it dares to connect again, by default after up to
    # two minutes. The queue has its own backoff; the channel's must not outlast it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
)


class GrpcTransport:
    """One signal's unary call on a channel of its own. The endpoint's path means nothing to gRPC; without a port it is 80 or 443."""

    def __init__(self, url: SplitResult, signal: Signal, config: OtlpExport) -> None:
        self._url, self._config = url, config
        self._signal: Signal = signal
        self._watch = Watch(config) if url.scheme == "https" else None  # before the files are read: a change meanwhile is not missed
        self._open()
        self._timeout_s = config.timeout_s
        self._metadata = tuple((key.lower(), value) for key, value in config.headers.items())

    def send(self, body: bytes) -> Outcome:
        """One call with the configured deadline."""
        if self._watch and self._watch.changed():
            self._open_again()
        try:
            return accepted(self._signal, self._call(body, timeout=self._timeout_s, metadata=self._metadata))
        except grpc.RpcError as error:
            if _unresolved(error):
                self._open_again()
            return _failed(error)
        except ValueError as error:  # grpc: "Cannot invoke RPC on closed channel!"
            return Retry(None, str(error))

    def close(self) -> None:
        """Close the channel, which cancels a call under way."""
        self._channel.close()

    def _open(self) -> None:
        self._channel = _channel(self._url, self._config)
        self._call = self._channel.unary_unary(_METHODS[self._signal], None, None)  # bytes in, bytes out

    def _open_again(self) -> None:
        """With what the files hold now, and nothing remembered; when they cannot be used, as half-way through a replacement, it stays."""
        before = self._channel
        try:
            self._open()
        except UsageError:
            return
        before.close()


def _channel(url: SplitResult, config: OtlpExport) -> grpc.Channel:
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    target = f"{host}:{url.port or (443 if url.scheme == 'https' else 80)}"
    compression = grpc.Compression.Gzip if config.compression == "gzip" else grpc.Compression.NoCompression
    if url.scheme == "http":
        return grpc.insecure_channel(target, _OPTIONS, compression)
    check_tls(config)  # gRPC itself would fail every call, and not say why
    pem = read_pem(config)
    # Without a ca_file gRPC trusts the roots that it brings, not the system's.
    credentials = grpc.ssl_channel_credentials(pem.authorities, pem.key, pem.certificate)
    return grpc.secure_channel(target, credentials, _OPTIONS, compression)


def _unresolved(error: grpc.RpcError) -> bool:
    """The host's name had no address. A channel asks again after up to two minutes, which no option shortens; a new one asks at once."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and "resol" in (error.details() or "").lower()


def _failed(error: grpc.RpcError) -> Outcome:
    code = error.code()
    details = shown((error.details() or "").encode())
    why = f"{code.name}: {details}" if details else code.name
    trailers = dict(cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ()))  # the stubs deny that its items are tuples
    status = trailers.get("grpc-status-details-bin", b"")
    delay = retry_delay_s(status) if isinstance(status, bytes) else None
    if code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and delay is not None):
        return Retry(delay, why)
    # gRPC itself (Go: "received message larger than max", C: "Received message larger than max") before any handler saw it
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details.lower():
        return TooLarge(why)
    return Refused(why)
