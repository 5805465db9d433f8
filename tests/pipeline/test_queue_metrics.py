"""Metrics beside spans: the newest alone matters, and a receiver without metrics gets its spans."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any

import grpc

from otel_usdt.metrics.points import ledger_points
from otel_usdt.otlp.backlog import Backlog, Request
from otel_usdt.otlp.client import Accepted, Exporter, Outcome, Retry
from otel_usdt.otlp.encode_metrics import encode_points
from otel_usdt.otlp.queue import Backoff, Delivered
from otel_usdt.plan import OtlpExport
from tests.pipeline.receivers import Abort, accept, grpc_receiver
from tests.pipeline.scripted import Script, delivery, spans, until


def test_metrics_keep_only_the_newest() -> None:
    """Metrics are cumulative: while the receiver is away a newer request replaces the older, spans stay."""
    sender = Script(Retry(None, "away"))
    with delivery(sender) as queue:
        for n in range(10):
            queue.put("metrics", b"m%d" % n, {})
        queue.put("traces", b"spans", {0: 1})
        until(lambda: {("metrics", b"m9"), ("traces", b"spans")} <= set(sender.sent))
        sender.sent.clear()
        sender.outcomes = [Accepted()]
        until(lambda: len(set(sender.sent)) == 2)
        assert {body for _, body in sender.sent} == {b"m9", b"spans"}


def test_metrics_that_failed_do_not_replace_newer_ones() -> None:
    """While an attempt was under way newer metrics came: those are tried next."""
    backlog = Backlog(100)
    backlog.put(Request("metrics", b"old", {}))
    old = backlog.take("metrics")
    backlog.put(Request("metrics", b"new", {}))
    backlog.put_back(old)
    assert backlog.take("metrics").body == b"new"
    assert backlog.waiting() == []


def test_metrics_that_nobody_takes_do_not_hold_up_spans() -> None:
    """A receiver without metrics (it is away for them, or refuses them) gets its spans."""

    class TracesOnly:
        def send(self, signal: str, body: bytes) -> Outcome:
            return Accepted() if signal == "traces" else Retry(None, "no such receiver")

    with delivery(TracesOnly(), backoff=Backoff(300.0, 300.0)) as queue:
        queue.put("metrics", b"metrics", {})
        queue.put("traces", b"spans", {0: 1})
        until(lambda: queue.totals() == Delivered({0: 1}, {}, {}))


def test_grpc_receiver_without_metrics_is_told_once() -> None:
    """A real server that does not implement metrics: spans arrive, the refusal is said once however often it happens."""
    said: list[str] = []

    def script(n: int) -> Any:
        return Abort(grpc.StatusCode.UNIMPLEMENTED, "unknown service") if n % 2 == 0 else accept(n)

    body = encode_points(ledger_points({"parse": {"entries": 1}}), {}, 1, 2, "1")
    with (
        grpc_receiver(script) as (port, received),
        closing(Exporter(OtlpExport(f"http://127.0.0.1:{port}"))) as sender,
        delivery(sender, say=said.append) as queue,
    ):

        def come(requests: int) -> bool:
            return len(received.headers) == requests

        for n in range(3):
            queue.put("metrics", body, {})
            until(partial(come, 2 * n + 1))
            queue.put("traces", spans(3).body, {0: 1, 1: 2})
            until(partial(come, 2 * n + 2))
        until(lambda: not queue.totals().queued)
        assert queue.totals().exported == {0: 3, 1: 6}
    assert len(said) == 1
    assert "metrics" in said[0]


def test_empty_body_is_never_sent() -> None:
    """OTLP has no empty requests."""
    sender = Script(Accepted())
    with delivery(sender) as queue:
        queue.put("metrics", b"", {})
        queue.put("traces", b"x", {0: 1})
        until(lambda: not queue.totals().queued)
    assert sender.sent == [("traces", b"x")]
