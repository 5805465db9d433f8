"""Several requests at a time: as many as are wanted and no more, none lost or counted twice, and no storm at a receiver that is away."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from otel_usdt.otlp.client import Accepted, Exporter, Outcome, Retry
from otel_usdt.otlp.queue import Backoff, Delivered, Delivery
from otel_usdt.otlp.spool import Spool
from otel_usdt.plan import OtlpExport
from tests.pipeline.receivers import Abort, Answer, accept, grpc_receiver, http_receiver
from tests.pipeline.scripted import NAMES, QUICK, spans, until


class Counting:
    """A sender that knows how many requests are under way, and keeps them until its gate opens."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.gate = threading.Event()
        self.lock = threading.Lock()
        self.now, self.most = Counter[str](), Counter[str]()
        self.sent: list[tuple[str, bytes]] = []

    def send(self, signal: str, body: bytes) -> Outcome:
        with self.lock:
            self.sent.append((signal, body))
            self.now[signal] += 1
            self.most[signal] = max(self.most[signal], self.now[signal])
        self.gate.wait(20)
        with self.lock:
            self.now[signal] -= 1
            return self.outcome


def test_so_many_requests_and_no_more_are_under_way() -> None:
    """Spans fill all the places, oldest first; what is under way is queued until it is settled."""
    sender = Counting(Accepted())
    queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK, concurrency=3)
    for n in range(10):
        queue.put("traces", b"body%d" % n, {0: 2})
    until(lambda: sender.now["traces"] == 3)
    time.sleep(0.05)  # for a fourth, which must not come
    assert sorted(sender.sent) == [("traces", b"body%d" % n) for n in range(3)]
    assert queue.totals() == Delivered({}, {}, {0: 20})
    sender.gate.set()
    until(lambda: queue.totals() == Delivered({0: 20}, {}, {}))
    queue.close(1)
    assert sender.most == {"traces": 3}
    assert len(sender.sent) == len(set(sender.sent)) == 10


def test_metrics_go_one_at_a_time() -> None:
    """Newer ones wait for those that are under way: a receiver must not see them in the wrong order."""
    sender = Counting(Accepted())
    queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK, concurrency=4)
    for n in range(5):
        queue.put("metrics", b"m%d" % n, {})
        until(lambda: sender.now["metrics"] == 1)
    sender.gate.set()
    queue.close(5)
    assert sender.most == {"metrics": 1}
    assert [sender.sent[0], sender.sent[-1]] == [("metrics", b"m0"), ("metrics", b"m4")]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_one_request_tries_while_the_receiver_is_away(protocol: Any) -> None:
    """A real receiver refuses for a while: of four under way one goes on trying; then all spans arrive once, and each turn is said once."""
    said, lock, now, most, away = list[str](), threading.Lock(), [0], [0], [True]
    four = threading.Barrier(4)

    def script(n: int) -> Any:
        if n < 4:
            four.wait(20)  # that so many are under way at once is what the test begins with
        elif away[0]:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.003)
            with lock:
                now[0] -= 1
        if protocol == "grpc":
            return Abort(grpc.StatusCode.UNAVAILABLE) if away[0] else accept(n)
        return Answer(503) if away[0] else Answer()

    receiver = grpc_receiver(script) if protocol == "grpc" else http_receiver(script)
    with receiver as (port, received):
        config = OtlpExport(f"http://127.0.0.1:{port}", protocol, timeout_s=20.0, concurrency=4)
        with closing(Exporter(config)) as sender:
            queue = Delivery(sender, 1 << 20, NAMES, said.append, Backoff(0.005, 0.005), concurrency=4)
            for n in range(20):
                encoded = spans(5, first=1 + 5 * n)
                queue.put("traces", encoded.body, encoded.counts)
            until(lambda: len(received.headers) >= 20)
            away[0] = False
            until(lambda: not queue.totals().queued)
            queue.close(1)
        assert sorted(received.span_ids()) == [n.to_bytes(8, "big") for n in range(1, 101)]
    assert most == [1]
    assert [line.split(";")[0] for line in said] == ["the OTLP receiver is away", "the OTLP receiver is back"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_slow_receiver_is_given_several_at_a_time(protocol: Any) -> None:
    """Each answer waits for three more requests, so that one at a time would never end; over HTTP no more connections than requests."""
    four = threading.Barrier(4)

    def script(n: int) -> Any:
        four.wait(20)
        return accept(n) if protocol == "grpc" else Answer()

    receiver = grpc_receiver(script) if protocol == "grpc" else http_receiver(script)
    with receiver as (port, received):
        config = OtlpExport(f"http://127.0.0.1:{port}", protocol, timeout_s=20.0, concurrency=4)
        with closing(Exporter(config)) as sender:
            queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK, concurrency=4)
            for n in range(12):
                encoded = spans(5, first=1 + 5 * n)
                queue.put("traces", encoded.body, encoded.counts)
            until(lambda: not queue.totals().queued)
            queue.close(1)
        assert sorted(received.span_ids()) == [n.to_bytes(8, "big") for n in range(1, 61)]
        assert len(received.connections) == (4 if protocol == "http/protobuf" else 0)


def test_close_gives_up_all_that_is_under_way() -> None:
    """Counted dropped, and dropped it stays however the requests end."""
    sender = Counting(Accepted())
    queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK, concurrency=4)
    for n in range(6):
        queue.put("traces", b"body", {n: 1})
    until(lambda: sender.now["traces"] == 4)
    queue.close(0.05)
    dropped = Delivered({}, dict.fromkeys(range(6), 1), {})
    assert queue.totals() == dropped
    sender.gate.set()
    for thread in queue._threads:
        thread.join(5)
        assert not thread.is_alive()
    assert queue.totals() == dropped


def test_close_spools_all_that_is_under_way(tmp_path: Path) -> None:
    """Whether the receiver has got them is unknown: they are on disk, oldest first, and the next session sends them again."""
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    sender = Counting(Accepted())
    queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK, Spool(folder, 1 << 24, 1e6), concurrency=4)
    for n in range(6):
        queue.put("traces", b"body%d" % n, {n % 2: 1})
        until(lambda n=n: sender.now["traces"] == min(4, n + 1))  # type: ignore[misc]
    queue.close(3)  # as long again for the disk
    assert queue.totals() == Delivered({}, {}, {}, {0: 3, 1: 3})
    sender.gate.set()
    spool, found = Spool(folder, 1 << 24, 1e6), list[bytes | None]()
    while entry := spool.oldest():
        found.append(spool.read(entry))
        spool.settle(entry)
    os.close(folder)
    assert found == [b"body%d" % n for n in range(6)]


def test_every_place_takes_part_again_after_an_outage() -> None:
    """A receiver that was away and is back gets as many at a time as before."""
    sender = Counting(Retry(None, "away"))
    sender.gate.set()
    queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK, concurrency=4)
    for n in range(40):
        queue.put("traces", b"body%d" % n, {0: 1})
    until(lambda: len(sender.sent) > 10)
    sender.gate.clear()
    until(lambda: sender.now["traces"] == 1)  # the one that tries
    sender.outcome = Accepted()
    sender.gate.set()
    until(lambda: queue.totals() == Delivered({0: 40}, {}, {}))
    sender.gate.clear()
    for _ in range(8):
        queue.put("traces", b"later", {0: 1})
    until(lambda: sender.now["traces"] == 4)
    sender.gate.set()
    queue.close(5)
    assert queue.totals() == Delivered({0: 48}, {}, {})
