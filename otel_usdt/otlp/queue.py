"""Delivers encoded requests in their own time: tries again while the receiver is away, and accounts for every span whatever it does."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from otel_usdt.otlp.backlog import Backlog, Delivered, Request
from otel_usdt.otlp.halves import halves
from otel_usdt.otlp.outcome import Accepted, Outcome, Refused, Retry, Signal, TooLarge
from otel_usdt.otlp.spilling import Spilling
from otel_usdt.otlp.spool import Spool, Status

__all__ = ["Backoff", "Delivered", "Delivery", "Sender"]

_ASKED_LIMIT_S = 300.0  # a receiver may ask for more patience than our own backoff has, but not for silence
_REMARKS = 32  # different remarks of a receiver that are passed on; the losses that they are about are in the account anyway


class Sender(Protocol):
    """What `client.Exporter` is to the queue."""

    def send(self, signal: Signal, body: bytes) -> Outcome:
        """One blocking attempt."""
        ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds between attempts: doubled from `first_s` up to `most_s`, each shortened at random by up to half.

    The randomness spreads the sidecars of a cluster, which all lose the same collector at the same moment.
    """

    first_s: float = 1.0
    most_s: float = 30.0

    def delay_s(self, failures: int, asked_s: float | None) -> float:
        """How long to wait after the `failures`th failure in a row, counted from 1; not less than the receiver asked for, up to 300 s."""
        if asked_s is not None:
            return max(min(asked_s, _ASKED_LIMIT_S), self.first_s) * random.uniform(1.0, 1.1)
        return float(min(self.most_s, self.first_s * 2 ** min(failures - 1, 32)) * random.uniform(0.5, 1.0))


@dataclass(slots=True)
class _Lane:
    failures: int = 0  # in a row
    not_before: float = 0.0  # monotonic time of the next attempt
    away: bool = False


class Delivery:
    """A queue of at most `queue_bytes` of spans and the newest metrics, and the thread that sends them.

    `names` are those of the spans, by span probe index. What the receiver finds too large is sent in halves. With a `spool`, spans go
    to disk while the receiver is away, and what is there is sent behind those that are fresh (otlp/spilling.py). `say` gets one line
    when the receiver goes away, one when it is back, and one for each new reason why it refused or rejected something. It is
    called from the sending thread.
    """

    def __init__(
        self,
        sender: Sender,
        queue_bytes: int,
        names: Sequence[str],
        say: Callable[[str], None],
        backoff: Backoff | None = None,
        spool: Spool | None = None,
    ) -> None:
        self._sender = sender
        self._probes = {name: probe for probe, name in enumerate(names)}
        self._say = say
        self._backoff = backoff or Backoff()
        self._changed = threading.Condition()  # guards all that follows
        self._backlog = Backlog(queue_bytes)
        self._lanes: dict[Signal, _Lane] = {"traces": _Lane(), "metrics": _Lane()}
        self._remarks: set[str] = set()
        self._give_up_at: float | None = None  # monotonic, set by close()
        self._closed = False
        self._spilling = Spilling(spool, names, self._backlog, self._changed, self._is_away, self._said) if spool else None
        self._thread = threading.Thread(target=self._run, name="otlp-delivery", daemon=True)
        self._thread.start()

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

        A request that is under way when the grace ends is spooled or dropped too, though the receiver may still get it.
        """
        with self._changed:
            self._give_up_at = time.monotonic() + grace_s
            for lane in self._lanes.values():  # no time left to be patient
                lane.failures, lane.not_before = 0, 0.0
            self._changed.notify_all()
        self._thread.join(grace_s)
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
            if isinstance(job, Spilling):
                self._replay(job)
            else:
                outcome, pieces = self._send(job)
                self._settle(job, outcome, pieces)

    def _send(self, request: Request) -> tuple[Outcome, Sequence[Request]]:
        """One attempt; when the request was too large, its halves."""
        try:
            outcome = self._sender.send(request.signal, request.body)
            too_large = isinstance(outcome, TooLarge) and request.signal == "traces"
            return outcome, halves(request, self._probes) if too_large and request.counts else []
        except Exception as fault:  # our own; it must not end this thread, and with it the delivery of all that comes later
            return Refused(f"cannot be sent: {fault!r}"), []

    def _next(self) -> Request | Spilling | None:
        """Wait for the next request that may be sent, from memory or from the disk; None when the thread should end."""
        with self._changed:
            while True:
                now, waiting = time.monotonic(), self._backlog.waiting()
                if self._give_up_at is not None and (not waiting or now >= self._give_up_at):
                    return None
                for signal in waiting:
                    if self._lanes[signal].not_before <= now:
                        return self._backlog.take(signal)
                times = [self._lanes[signal].not_before for signal in waiting]
                if self._spilling and self._spilling.has_some and "traces" not in waiting:
                    at = max(self._lanes["traces"].not_before, self._spilling.not_before)
                    if at <= now:
                        return self._spilling
                    times.append(at)
                if self._give_up_at is not None:
                    times.append(self._give_up_at)
                self._changed.wait(min(times) - now if times else None)

    def _replay(self, spilling: Spilling) -> None:
        """Send the oldest of what is on disk."""
        found = spilling.take()
        if found is None:
            return
        outcome, pieces = self._send(found.request)
        with self._changed:
            lines = self._told("traces", outcome, bool(pieces))
        if not isinstance(outcome, Retry):
            spilling.settle(found, outcome.rejected if isinstance(outcome, Accepted) else None, pieces)
        for line in lines:
            self._said(line)

    def _settle(self, request: Request, outcome: Outcome, pieces: Sequence[Request]) -> None:
        with self._changed:
            lines = self._told(request.signal, outcome, bool(pieces))
            if isinstance(outcome, Retry):
                self._backlog.put_back(request)
            elif pieces:
                self._backlog.replace(request, pieces)
            else:
                self._backlog.settle(request, outcome.rejected if isinstance(outcome, Accepted) else None)
            self._changed.notify_all()  # what waits may have to go to disk now
        for line in lines:  # without the lock: `say` may ask for the totals
            self._said(line)

    def _told(self, signal: Signal, outcome: Outcome, halved: bool) -> list[str]:
        """The lane as `outcome` leaves it, and what there is to say of that."""
        lane = self._lanes[signal]
        lines = self._lines(signal, outcome, halved)
        lane.away = isinstance(outcome, Retry)
        if isinstance(outcome, Retry):
            lane.failures += 1
            lane.not_before = time.monotonic() + self._backoff.delay_s(lane.failures, outcome.after_s)
        else:
            lane.failures, lane.not_before = 0, 0.0
        return lines

    def _lines(self, signal: Signal, outcome: Outcome, halved: bool) -> list[str]:
        """What there is to say of `outcome`; the lanes still are as they were before it."""
        what = "spans" if signal == "traces" else "metrics"
        others_away = any(lane.away for name, lane in self._lanes.items() if name != signal)
        was_away = self._lanes[signal].away
        if isinstance(outcome, Retry):
            where = "on disk" if self._spilling and signal == "traces" else "in memory"
            return [] if was_away or others_away else [f"the OTLP receiver is away; {what} wait {where} ({outcome.why})"]
        lines = ["the OTLP receiver is back"] if was_away and not others_away else []
        if isinstance(outcome, TooLarge):
            told = "a single span is too large" if signal == "traces" else "the metrics are too large"
            # The reason names the size, which differs each time.
            lines += [] if halved else self._remark(f"{told} for the OTLP receiver: such are dropped", f" ({outcome.why})")
        elif not isinstance(outcome, Accepted):
            lines += self._remark(f"the OTLP receiver refuses {what}, which are dropped ({outcome.why})")
        elif outcome.rejected:
            lines += self._remark(f"the OTLP receiver rejects some {what}, which are dropped ({outcome.message})")
        elif outcome.message:
            lines += self._remark(f"the OTLP receiver says of {what}: {outcome.message}")
        return lines

    def _remark(self, line: str, detail: str = "") -> list[str]:
        """`line`, the first time, with a `detail` that makes no new line of it."""
        if line in self._remarks or len(self._remarks) >= _REMARKS:
            return []
        self._remarks.add(line)
        return [line + detail]
