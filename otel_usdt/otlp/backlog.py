"""Requests that wait to be sent, and the account of the spans in them. No threads, no clock: otlp/queue.py has those."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from otel_usdt.otlp.outcome import Signal


@dataclass(frozen=True, slots=True)
class Delivered:
    """Spans by span probe index, at one instant: what was put = exported + dropped + queued + spooled."""

    exported: dict[int, int]
    dropped: dict[int, int]
    queued: dict[int, int]
    spooled: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """An encoded request and how many spans of each span probe index are in it; none for metrics."""

    signal: Signal
    body: bytes
    counts: Mapping[int, int]


class Tally(Protocol):
    """Counts by span probe index: a Counter, or one that outlives this process."""

    def __getitem__(self, probe: int, /) -> int: ...

    def __setitem__(self, probe: int, count: int, /) -> None: ...

    def update(self, counts: Mapping[int, int], /) -> None:
        """Add to them."""

    def items(self) -> Iterable[tuple[int, int]]:
        """Of those that have any, at least."""
        ...


@dataclass(frozen=True, slots=True)
class Tallies:
    """Where spans that left are counted, each in one of them, when they have."""

    exported: Tally = field(default_factory=Counter[int])
    dropped: Tally = field(default_factory=Counter[int])


class Backlog:
    """At most `limit` bytes of spans, oldest first, and the newest metrics (they are cumulative, so the newest says all).

    Several may be taken at a time. A request that was taken counts as queued, and its bytes against the limit, until it is settled, put
    back or replaced; when it was dropped meanwhile, these do nothing.
    """

    def __init__(self, limit: int, tallies: Tallies | None = None) -> None:
        tallies = tallies or Tallies()
        self._limit = limit
        self._bytes = 0
        self._spans: deque[Request] = deque()
        self._metrics: Request | None = None
        self._taken: list[Request] = []
        self._exported, self._dropped = tallies.exported, tallies.dropped
        self._queued: Counter[int] = Counter()
        self._spooled: Counter[int] = Counter()

    @property
    def used(self) -> int:
        """Bytes of spans that wait or are taken."""
        return self._bytes

    @property
    def metrics_waiting(self) -> bool:
        """They wait, or are taken."""
        return self._metrics is not None or self._metrics_taken()

    @property
    def half_full(self) -> bool:
        """Time to make room."""
        return self._bytes > self._limit // 2

    def put(self, request: Request) -> None:
        """Let it wait. When that is too much the oldest spans are dropped; a request that would not fit even then is dropped itself."""
        if request.signal == "metrics":
            self._metrics = request
            return
        self._queued.update(request.counts)
        self._bytes += len(request.body)
        under_way = sum(len(taken.body) for taken in self._taken if taken.signal == "traces")
        if len(request.body) + under_way > self._limit:
            self._drop(request)
            return
        self._spans.append(request)
        while self._bytes > self._limit and self._spans:
            self._drop(self._spans.popleft())

    def waiting(self) -> list[Signal]:
        """The signals that have something to take, metrics first: they are one small request, and one at a time for they are in order."""
        metrics: tuple[Signal, ...] = ("metrics",) if self._metrics and not self._metrics_taken() else ()
        return [*metrics, *(("traces",) if self._spans else ())]

    def take(self, signal: Signal) -> Request:
        """The next request of a signal that is `waiting`."""
        if signal == "traces":
            request = self._spans.popleft()
        else:
            assert self._metrics is not None
            request, self._metrics = self._metrics, None
        self._taken.append(request)
        return request

    def spill(self) -> Request | None:
        """The oldest spans that wait, to be `spooled` or put back; None when nothing waits. They count as queued until then."""
        return self._spans.popleft() if self._spans else None

    def unspill(self, request: Request) -> None:
        """They could not be spooled: they wait again, and are the oldest."""
        self._spans.appendleft(request)

    def spooled(self, request: Request) -> None:
        """They are on disk, and no more in memory."""
        self._forget(request)
        self._spooled.update(request.counts)

    def found_spooled(self, counts: Mapping[int, int]) -> None:
        """They were on disk already."""
        self._spooled.update(counts)

    def given_up(self, counts: Mapping[int, int]) -> None:
        """Spans on disk that had to make room, or became too old."""
        self._spooled.subtract(counts)
        self._dropped.update(counts)

    def unspooled(self, counts: Mapping[int, int], rejected: int | None) -> None:
        """Spans that came from the disk have been sent; `rejected` as in `settle`."""
        self._spooled.subtract(counts)
        self._account(counts, rejected)

    def from_spool(self, counts: Mapping[int, int], pieces: Sequence[Request]) -> None:
        """A request from the disk is these pieces now, which wait in memory."""
        self._spooled.subtract(counts)
        for piece in reversed(pieces):
            self._queued.update(piece.counts)
            self._bytes += len(piece.body)
            self._spans.appendleft(piece)

    def put_back(self, request: Request) -> None:
        """The taken request was not sent: it is the first again, unless it is metrics and newer ones have come."""
        if not self._untake(request):
            return
        if request.signal == "traces":
            self._spans.appendleft(request)
        elif self._metrics is None:
            self._metrics = request

    def replace(self, request: Request, pieces: Sequence[Request]) -> None:
        """The taken request is these, in its place and with its spans. What they are larger than it the next put makes good."""
        if not self._untake(request):
            return
        self._forget(request)
        for piece in reversed(pieces):
            self._queued.update(piece.counts)
            self._bytes += len(piece.body)
            self._spans.appendleft(piece)

    def settle(self, request: Request, rejected: int | None = 0) -> None:
        """The taken request is done with: exported but for `rejected` spans, or dropped whole when that is None.

        A receiver does not say which spans it rejected. They are taken off the span probe with the most spans in the request
        first, then the next.
        """
        if not self._untake(request):
            return
        self._account(request.counts, rejected)
        self._forget(request)

    def give_up_taken(self) -> None:
        """What was taken waits again: whether the receiver has got it is unknown, and it may get it twice."""
        self._spans.extendleft(taken for taken in reversed(self._taken) if taken.signal == "traces")
        self._taken.clear()

    def drop_all(self) -> None:
        """Nothing will be sent any more; what was taken is given up too, for its fate is unknown."""
        everything = [*self._spans, *self._taken]
        self._spans.clear()
        self._taken.clear()
        self._metrics = None
        for request in everything:
            self._drop(request)

    def totals(self) -> Delivered:
        """The account as it stands; span probes with nothing are left out."""
        all_counts: tuple[Tally, ...] = (self._exported, self._dropped, self._queued, self._spooled)
        return Delivered(*({probe: n for probe, n in counts.items() if n} for counts in all_counts))

    def _metrics_taken(self) -> bool:
        return any(taken.signal == "metrics" for taken in self._taken)

    def _untake(self, request: Request) -> bool:
        if request not in self._taken:
            return False
        self._taken.remove(request)
        return True

    def _account(self, counts: Mapping[int, int], rejected: int | None) -> None:
        left = sum(counts.values()) if rejected is None else rejected
        for probe, count in sorted(counts.items(), key=lambda item: -item[1]):
            lost = min(left, count)
            left -= lost
            self._dropped[probe] += lost
            self._exported[probe] += count - lost

    def _drop(self, request: Request) -> None:
        self._dropped.update(request.counts)
        self._forget(request)

    def _forget(self, request: Request) -> None:
        self._queued.subtract(request.counts)
        if request.signal == "traces":
            self._bytes -= len(request.body)
