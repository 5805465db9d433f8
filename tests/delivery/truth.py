"""The ground truth: which span came how often to where spans go at last, and what the sender had been told of it.

Span ids are counted up from 1, so that all that is known of spans are arrays by id.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_usdt.otlp.backlog import Delivered
from otel_usdt.otlp.client import Accepted, Exporter, Outcome, Refused, Retry, Signal
from tests.pipeline.receivers import Received

MOST = 1 << 21  # spans of one test
Counts = npt.NDArray[np.int64]


def ids(request: Any) -> list[int]:
    """Of the spans in an ExportTraceServiceRequest."""
    return [
        int.from_bytes(span.span_id, "big") for process in request.resource_spans for scope in process.scope_spans for span in scope.spans
    ]


class Tally(list[Any]):
    """In place of a list of requests: how often each span has arrived, by its id. A million requests would be a gigabyte."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counts = np.zeros(MOST, np.int64)
        self._lock = threading.Lock()

    def append(self, request: Any) -> None:
        own = np.array(ids(request))
        with self._lock:
            np.add.at(self.times, own, 1)

    def total(self) -> int:
        return int(self.times.sum())

    def distinct(self) -> int:
        return int(np.count_nonzero(self.times))


class Sink(Received):
    """What a receiver has of its own knowledge; it outlives the receiver."""

    def __init__(self) -> None:
        super().__init__(traces=Tally())

    @property
    def spans(self) -> Tally:
        assert isinstance(self.traces, Tally)
        return self.traces


class Witness:
    """An exporter, and a note of what became of each attempt with each span."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._lock = threading.Lock()
        self.attempts: list[tuple[Counts, Outcome]] = []
        self.outcomes: Counter[type[Outcome]] = Counter()
        self._known: dict[int, Counts] = {}  # by hash of the body: a request is tried many times

    def send(self, signal: Signal, body: bytes) -> Outcome:
        outcome = self._exporter.send(signal, body)
        if signal == "traces":
            with self._lock:
                own = self._known.setdefault(hash(body), np.empty(0, np.int64))
                if not len(own):
                    own = self._known[hash(body)] = np.array(ids(ExportTraceServiceRequest.FromString(body)))
                self.attempts.append((own, outcome))
        return outcome

    def close(self) -> None:
        self._exporter.close()

    def times(self, *kinds: type[Outcome]) -> Counts:
        """How often each span was in an attempt with such an outcome."""
        found: Counts = np.zeros(MOST, np.int64)
        with self._lock:
            for own, outcome in self.attempts:
                if isinstance(outcome, kinds):
                    found[own] += 1
        return found

    def requests(self) -> Iterator[Counts]:
        """The spans of each different request."""
        with self._lock:
            yield from list(self._known.values())


def reconcile(made: int, sink: Sink, witness: Witness, totals: Delivered, unknown_requests: int) -> None:
    """Every one of `made` spans is at the sink exactly once, or in a loss counter.

    - What the receiver acknowledged is at the sink, and was not sent again.
    - A span is there once more for each attempt whose fate the sender could not know, at most; requests that are there again
      are no more than `unknown_requests`.
    - What is not there is what was refused, and the account says `dropped` of it; of the rest it says `exported`.
    """
    whole = slice(1, made + 1)
    arrived, taken = sink.spans.times[whole], witness.times(Accepted)[whole]
    refused, unknown = witness.times(Refused)[whole], witness.times(Retry)[whole]
    assert sink.spans.total() == arrived.sum(), "spans that nobody made"
    assert (arrived >= taken).all(), "acknowledged and not at the sink"
    assert (arrived <= taken + unknown).all(), "at the sink more often than it was sent"
    assert (taken + refused == 1).all(), "sent again after an answer, or never settled"
    assert sum(totals.exported.values()) == taken.sum()
    assert sum(totals.dropped.values()) == refused.sum()
    assert totals.queued == totals.spooled == {}
    again = sum(int(sink.spans.times[own[0]]) - 1 for own in witness.requests() if sink.spans.times[own[0]] > 1)
    assert again <= unknown_requests
