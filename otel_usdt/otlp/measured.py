"""Counts what becomes of each attempt to send, and how long after its calls a request of spans is taken."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, OrderedDict
from typing import Protocol

from otel_usdt.metrics.points import Distribution
from otel_usdt.otlp.outcome import Accepted, Outcome, Refused, Retry, Signal

_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
_REMEMBERED = 1 << 16  # requests that wait; of more than these the oldest are not timed


class Sender(Protocol):
    """What is measured."""

    def send(self, signal: Signal, body: bytes) -> Outcome:
        """One blocking attempt."""
        ...


class Measured:
    """A sender as `sender` is, that keeps count. For any number of threads."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._lock = threading.Lock()  # guards all that follows
        self._requests: Counter[tuple[str, str]] = Counter()
        self._returned: OrderedDict[int, int] = OrderedDict()  # hash of a body -> when its oldest call returned
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def expect(self, body: bytes, returned_unix_ns: int) -> None:
        """`body` will be sent some time, perhaps by way of a file; its oldest call returned then."""
        with self._lock:
            self._returned[hash(body)] = returned_unix_ns
            if len(self._returned) > _REMEMBERED:
                self._returned.popitem(last=False)

    def send(self, signal: Signal, body: bytes) -> Outcome:
        """One attempt of the sender's, counted."""
        outcome: Outcome | None = None
        try:
            outcome = self._sender.send(signal, body)
        finally:
            with self._lock:
                self._requests[signal, _word(outcome)] += 1
                if not isinstance(outcome, Retry) and (returned := self._returned.pop(hash(body), None)) and isinstance(outcome, Accepted):
                    lag_s = max(0.0, (time.time_ns() - returned) / 1e9)
                    self._counts[bisect_left(_BOUNDS_S, lag_s)] += 1
                    self._sum_s += lag_s
        return outcome

    def read(self) -> tuple[dict[tuple[str, str], int], Distribution]:
        """Attempts by signal and outcome, and the lag of the requests of spans that were taken, in seconds."""
        with self._lock:
            return dict(self._requests), Distribution(_BOUNDS_S, tuple(self._counts), self._sum_s)


def _word(outcome: Outcome | None) -> str:
    if isinstance(outcome, Accepted):
        return "partial" if outcome.rejected else "accepted"
    if outcome is None:
        return "failed"  # by a fault of our own
    return "retry" if isinstance(outcome, Retry) else "refused" if isinstance(outcome, Refused) else "too_large"
