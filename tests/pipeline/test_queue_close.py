"""The end of a delivery: what still goes, what is dropped and counted, and how long it may take."""

from __future__ import annotations

import socket
import time
from contextlib import closing

from otel_usdt.otlp.client import Accepted, Exporter, Retry
from otel_usdt.otlp.queue import Delivered, Delivery
from otel_usdt.plan import OtlpExport
from tests.pipeline.scripted import NAMES, QUICK, Script, delivery, spans, until


def test_close_empties_the_queue_within_its_grace() -> None:
    """What waits is sent before the end, also while a backoff is running."""
    sender = Script(Retry(60.0, "busy"), Accepted())
    queue = Delivery(sender, 1 << 20, NAMES, lambda line: None)
    queue.put("traces", b"a", {0: 1})
    until(lambda: sender.sent)
    queue.put("traces", b"b", {0: 1})
    queue.put("metrics", b"last", {})
    started = time.monotonic()
    queue.close(30.0)
    assert time.monotonic() - started < 10
    assert queue.totals() == Delivered({0: 2}, {}, {})
    assert ("metrics", b"last") in sender.sent


def test_close_with_the_receiver_away_drops_and_counts() -> None:
    """At the end of the grace the rest is dropped; the account closes with nothing queued."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with closing(Exporter(OtlpExport(f"http://127.0.0.1:{port}"))) as sender:
        queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK)
        for _ in range(3):
            queue.put("traces", spans(9).body, {0: 3, 1: 6})
        started = time.monotonic()
        queue.close(0.3)
        assert 0.25 < time.monotonic() - started < 5
    assert queue.totals() == Delivered({}, {0: 9, 1: 18}, {})


def test_close_does_not_wait_for_a_hanging_receiver() -> None:
    """A request under way when the grace ends is counted dropped, and stays so however it ends."""
    sender = Script(Accepted())
    sender.gate.clear()
    queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK)
    queue.put("traces", b"body", {0: 1})
    until(lambda: sender.sent)
    queue.close(0.05)
    assert queue.totals() == Delivered({}, {0: 1}, {})
    sender.gate.set()
    for thread in queue._threads:
        thread.join(5)
        assert not thread.is_alive()
    assert queue.totals() == Delivered({}, {0: 1}, {})


def test_put_after_close_is_dropped_and_counted() -> None:
    """Nobody will send it."""
    queue = Delivery(Script(Accepted()), 1 << 20, NAMES, lambda line: None)
    queue.close(0)
    queue.put("traces", b"body", {0: 1})
    assert queue.totals() == Delivered({}, {0: 1}, {})


def test_closed_standard_error_does_not_stop_the_delivery() -> None:
    """`say` may fail; the spans go out all the same."""

    def broken(line: str) -> None:
        raise BrokenPipeError

    with delivery(Script(Retry(None, "away"), Accepted()), say=broken) as queue:
        queue.put("traces", b"body", {0: 1})
        until(lambda: queue.totals() == Delivered({0: 1}, {}, {}))
