"""Sends encoded requests to an OTLP receiver, an attempt a call. When to try again is otlp/queue.py's business."""

from __future__ import annotations

from queue import LifoQueue
from typing import Protocol

from otel_usdt.otlp.endpoint import check_headers, parse_endpoint, with_own
from otel_usdt.otlp.outcome import Accepted, Outcome, Refused, Retry, Signal, TooLarge
from otel_usdt.plan import OtlpExport, OtlpSignal

__all__ = ["Accepted", "Exporter", "Outcome", "Refused", "Retry", "Signal", "TooLarge"]


class Transport(Protocol):
    """One signal's way to one receiver, for one thread at a time."""

    def send(self, body: bytes) -> Outcome:
        """One attempt, bounded by the configured timeout."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Exporter:
    """The configured receiver. Opens no connection before the first `send`; proxies named in the environment are not used.

    UsageError when the configuration cannot be used: an endpoint that is no URL, a `ca_file` without certificates. For any number of
    threads; `concurrency` requests of spans, and one of metrics, are under way at a time. Certificates and key are read again when
    their files change.
    """

    def __init__(self, config: OtlpExport) -> None:
        self._transports: dict[Signal, list[Transport]] = {
            "traces": [_transport(config, "traces", config.traces) for _ in range(config.concurrency)],
            "metrics": [_transport(config, "metrics", config.metrics)],
        }
        # Last in, first out: while one at a time is enough the others stay unconnected.
        self._free: dict[Signal, LifoQueue[Transport]] = {"traces": LifoQueue(), "metrics": LifoQueue()}
        for signal, transports in self._transports.items():
            for transport in transports:
                self._free[signal].put(transport)

    def send(self, signal: Signal, body: bytes) -> Outcome:
        """One attempt to send the encoded request `body`; no step of it waits longer than `timeout_s`.

        Raises nothing for what a receiver or the network does: the Outcome says it.
        """
        transport = self._free[signal].get()
        try:
            return transport.send(body)
        finally:
            self._free[signal].put(transport)

    def close(self) -> None:
        """Close the connections; a later `send` has Retry for its outcome or connects again."""
        for transports in self._transports.values():
            for transport in transports:
                transport.close()


def _transport(common: OtlpExport, signal: Signal, own: OtlpSignal) -> Transport:
    config = with_own(common, own)
    check_headers(config.headers)
    url = parse_endpoint(config.endpoint)
    if config.protocol == "grpc":
        from otel_usdt.otlp.grpc_transport import GrpcTransport  # heavy, and only this protocol needs it

        return GrpcTransport(url, signal, config)
    from otel_usdt.otlp.http_transport import HttpTransport

    if own.endpoint is None:  # the common endpoint is a base, a signal's own is used as it is
        url = url._replace(path=f"{url.path.rstrip('/')}/v1/{signal}")
    return HttpTransport(url, signal, config)
