"""A sender that answers as told, the delivery that works with it, and requests to send."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from otel_usdt.otlp.client import Outcome
from otel_usdt.otlp.encode import Encoded, encode_spans
from otel_usdt.otlp.queue import Backoff, Delivery
from tests.samples import PARSE, QUERY, batch, call

QUICK = Backoff(0.01, 0.05)
NAMES = (QUERY.name, PARSE.name)


class Script:
    """A sender that answers as told, the last answer from then on, and keeps what it was given."""

    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[tuple[str, bytes]] = []
        self.times: list[float] = []
        self.gate = threading.Event()
        self.gate.set()

    def send(self, signal: str, body: bytes) -> Outcome:
        self.sent.append((signal, body))
        self.times.append(time.monotonic())
        self.gate.wait(10)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@contextmanager
def delivery(
    sender: Any,
    queue_bytes: int = 1 << 20,
    say: Callable[[str], None] = lambda line: None,
    backoff: Backoff = QUICK,
    concurrency: int = 1,
) -> Iterator[Delivery]:
    made = Delivery(sender, queue_bytes, NAMES, say, backoff, concurrency=concurrency)
    try:
        yield made
    finally:
        made.close(0)


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30.0
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def spans(n: int, first: int = 1) -> Encoded:
    """A request of n spans, the first third of which are of span probe 0."""
    calls = [call(probe=0 if i < n // 3 else 1, span=first + i) for i in range(n)]
    [encoded] = encode_spans(batch(calls), [QUERY, PARSE], {}, "1")
    return encoded
