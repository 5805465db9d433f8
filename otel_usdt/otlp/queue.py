"""Delivers encoded requests in their own time: tries again while the receiver is away, and accounts for every span whatever it does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from otel_usdt.otlp.backlog import Backlog, Delivered, Request, Tallies
from otel_usdt.otlp.halves import halves
from otel_usdt.otlp.lane import Backoff, Lane
from otel_usdt.otlp.outcome import Accepted, Outcome, Refused, Retry, Signal, TooLarge
from otel_usdt.otlp.spilling import Spilling
from otel_usdt.otlp.spool import Spool, Status

__all__ = ["Backoff", "Delivered", "Delivery", "Sender"]

_REMARKS = 32  # different remarks of a receiver that are passed on; the losses that they are about are in the account anyway


class Sender(Protocol):
    """What `client.Exporter` is to the queue."""

    def send(self, signal: Signal, body: bytes) -> Outcome:
        """One blocking attempt; as many threads at once as there may be requests under way."""
        ...


class Delivery:
    """A queue of at most `queue_bytes` of spans and the newest metrics, and the threads that send them.

    Up to `concurrency` requests are under way at a time, the oldest first; of metrics, of what comes from the disk, and while the receiver
    is away, one. `names` are those of the spans, by span probe index. What the receiver finds too large is sent in halves. With a
    `spool`, spans go to disk while the receiver is away, and what is there is sent behind those that are fresh (otlp/spilling.py).
    `say` gets one line when the receiver goes away, one when it is back, and one for each new reason why it refused or
    rejected something. It is called from the sending threads.
    """

    def __init__(
        self,
        sender: Sender,
        queue_bytes: int,
        names: Sequence[str],
        say: Callable[[str], None],
        backoff: Backoff | None = None,
        spool: Spool | None = None,
        concurrency: int = 1,
        tallies: Tallies | None = None,
    ) -> None:
        self._sender = sender
        self._probes = {name: probe for probe, name in enumerate(names)}
        self._say = say
        self._changed = threading.Condition()  # guards all that follows
        self._backlog = Backlog(queue_bytes, tallies)
        backoff = backoff or Backoff()
        self._lanes: dict[Signal, Lane] = {"traces": Lane(backoff), "metrics": Lane(backoff)}
        self._replaying = False  # one at a time: it is in order, and at a bounded rate anyway
        self._remarks: set[str] = set()
        self._give_up_at: float | None = None  # monotonic, set by close()
        self._closed = False
        self._spilling = Spilling(spool, names, self._backlog, self._changed, self._is_away, self._said) if spool else None
        self._threads = [threading.Thread(target=self._run, name=f"otlp-delivery-{n}", daemon=True) for n in range(concurrency)]
        for thread in self._threads:
            thread.start()

    def put(self, signal: Signal, body: bytes, counts: Mapping[int, int]) -> None:
        """Queue an encoded request that holds `counts` spans of each span probe index ({} for metrics). Never blocks.

        When the queue is full its oldest spans are dropped, and counted. An empty body is ignored: OTLP has no empty requests.
        """
        if not body:
            return
        with self._changed:
            self._backlog.put(Request(signal, body, dict(counts)))
            if self._closed:
                self._backlog.drop_all()
            self._changed.notify_all()

    def totals(self) -> Delivered:
        """Spans exported, dropped, spooled and queued (those being sent too), by span probe index: together exactly what was put."""
        with self._changed:
            return self._backlog.totals()

    def metrics_waiting(self) -> bool:
        """Metrics that are not sent yet, or under way."""
        with self._changed:
            return self._backlog.metrics_waiting

    def queued_bytes(self) -> int:
        """How much of the queue is used."""
        with self._changed:
            return self._backlog.used

    def spooled(self) -> Status | None:
        """What is on disk, up to a second ago; None without a spool."""
        return self._spilling.status if self._spilling else None

    def close(self, grace_s: float) -> None:
        """Try to send what waits, for at most `grace_s` seconds; the rest is spooled where there is one, else dropped, and counted.

        Requests that are under way when the grace ends are spooled or dropped too, though the receiver may still get them.
        """
        with self._changed:
            self._give_up_at = time.monotonic() + grace_s
            for lane in self._lanes.values():
                lane.hurry()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, self._give_up_at - time.monotonic()))
        if self._spilling:
            with self._changed:
                self._backlog.give_up_taken()
            self._spilling.close(grace_s)
        with self._changed:
            self._closed = True
            self._backlog.drop_all()

    def _is_away(self) -> bool:
        return self._lanes["traces"].away

    def _said(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed standard error is no reason to stop
            self._say(line)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            taken, turn = job
            if isinstance(taken, Spilling):
                self._replay(taken, turn)
            else:
                outcome, pieces = self._send(taken)
                self._settle(taken, turn, outcome, pieces)

    def _send(self, request: Request) -> tuple[Outcome, Sequence[Request]]:
        """One attempt; when the request was too large, its halves."""
        try:
            outcome = self._sender.send(request.signal, request.body)
            too_large = isinstance(outcome, TooLarge) and request.signal == "traces"
            return outcome, halves(request, self._probes) if too_large and request.counts else []
        except Exception as fault:  # our own; it must not end this thread, and with it the delivery of all that comes later
            return Refused(f"cannot be sent: {fault!r}"), []

    def _next(self) -> tuple[Request | Spilling, int] | None:
        """Wait for what may be sent next, from memory or from the disk, and the turn of this attempt; None when the thread should end."""
        with self._changed:
            while True:
                now, waiting = time.monotonic(), self._backlog.waiting()
                if self._give_up_at is not None and (not waiting or now >= self._give_up_at):
                    return None  # what fails now is tried again by the thread that has it
                times = [self._give_up_at] if self._give_up_at is not None else []
                for signal in waiting:
                    if (at := self._lanes[signal].opens_at()) is None:
                        continue
                    if at <= now:
                        return self._backlog.take(signal), self._lanes[signal].begin()
                    times.append(at)
                spilling, lane = self._spilling, self._lanes["traces"]
                replays = spilling is not None and spilling.has_some and not self._replaying and "traces" not in waiting
                if spilling and replays and (at := lane.opens_at()) is not None:
                    at = max(at, spilling.not_before)
                    if at <= now:
                        self._replaying = True
                        return spilling, lane.begin()
                    times.append(at)
                self._changed.wait(min(times) - now if times else None)

    def _replay(self, spilling: Spilling, turn: int) -> None:
        """Send the oldest of what is on disk."""
        found, lines = spilling.take(), list[str]()
        if found:
            outcome, pieces = self._send(found.request)
            if not isinstance(outcome, Retry):
                spilling.settle(found, outcome.rejected if isinstance(outcome, Accepted) else None, pieces)
        with self._changed:
            if found:
                lines = self._told("traces", turn, outcome, bool(pieces))
            else:
                self._lanes["traces"].end(turn, None, time.monotonic())
            self._replaying = False
            self._changed.notify_all()
        for line in lines:
            self._said(line)

    def _settle(self, request: Request, turn: int, outcome: Outcome, pieces: Sequence[Request]) -> None:
        with self._changed:
            lines = self._told(request.signal, turn, outcome, bool(pieces))
            if isinstance(outcome, Retry):
                self._backlog.put_back(request)
            elif pieces:
                self._backlog.replace(request, pieces)
            else:
                self._backlog.settle(request, outcome.rejected if isinstance(outcome, Accepted) else None)
            self._changed.notify_all()  # what waits may have to go to disk now
        for line in lines:  # without the lock: `say` may ask for the totals
            self._said(line)

    def _told(self, signal: Signal, turn: int, outcome: Outcome, halved: bool) -> list[str]:
        """The lane as `outcome` leaves it, and what there is to say of that."""
        what = "spans" if signal == "traces" else "metrics"
        lane, lines = self._lanes[signal], list[str]()
        was_away = lane.away
        lane.end(turn, outcome, time.monotonic())
        if lane.away != was_away and not any(other.away for other in self._lanes.values() if other is not lane):
            where = "on disk" if self._spilling and signal == "traces" else "in memory"
            why = outcome.why if isinstance(outcome, Retry) else ""
            lines.append(f"the OTLP receiver is away; {what} wait {where} ({why})" if lane.away else "the OTLP receiver is back")
        if isinstance(outcome, TooLarge):
            told = "a single span is too large" if signal == "traces" else "the metrics are too large"
            # The reason names the size, which differs each time.
            lines += [] if halved else self._remark(f"{told} for the OTLP receiver: such are dropped", f" ({outcome.why})")
        elif isinstance(outcome, Refused):
            lines += self._remark(f"the OTLP receiver refuses {what}, which are dropped ({outcome.why})")
        elif isinstance(outcome, Accepted) and outcome.rejected:
            lines += self._remark(f"the OTLP receiver rejects some {what}, which are dropped ({outcome.message})")
        elif isinstance(outcome, Accepted) and outcome.message:
            lines += self._remark(f"the OTLP receiver says of {what}: {outcome.message}")
        return lines

    def _remark(self, line: str, detail: str = "") -> list[str]:
        """`line`, the first time, with a `detail` that makes no new line of it."""
        if line in self._remarks or len(self._remarks) >= _REMARKS:
            return []
        self._remarks.add(line)
        return [line + detail]
