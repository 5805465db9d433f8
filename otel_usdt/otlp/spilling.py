"""Between the queue in memory and the spool on disk: a thread that writes, for a disk may be slow, and the account of what is there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from otel_usdt.otlp.backlog import Backlog, Request
from otel_usdt.otlp.spool import Entry, Spool

DISK_PAUSE_S = 5.0  # after a disk that did not take a request
SOON_S = 0.01  # a record that is just being written
LOOK_S = 1.0  # between looks at what has become too old
REPLAY_BYTES_PER_S = 8 << 20  # a receiver that is back is not to be run over by what it missed


@dataclass(frozen=True, slots=True)
class Found:
    """A request from the disk. Its counts are {} when an earlier session wrote it: that is in no ledger of ours."""

    entry: Entry
    request: Request


class Spilling:
    """Moves the oldest spans to disk while the receiver `is_away`, when the queue is half full, and at the end.

    `changed` is the queue's lock and condition; disk is never touched while it is held. `say` gets a line when the disk fails,
    when it is well again, and when spans on disk are given up.
    """

    def __init__(
        self,
        spool: Spool,
        names: Sequence[str],
        backlog: Backlog,
        changed: threading.Condition,
        is_away: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self._spool, self._names, self._backlog, self._changed = spool, names, backlog, changed
        self._is_away, self._say = is_away, say
        self._probes = {name: probe for probe, name in enumerate(names)}
        self._accounted = spool.next_number()  # records before this one are in the account
        ours = spool.spans()
        backlog.found_spooled({self._probes[name]: count for name, count in ours.items()})
        self._ends_at: float | None = None
        self._disk_not_before = 0.0
        self._failing = False
        self.not_before = 0.0  # monotonic time of the next replay
        self.status = spool.status()
        self.has_some = self.status.records > 0
        self.replayed = 0  # spans of earlier sessions that were sent
        if spans := self.status.spans.total() - ours.total():
            say(f"spool: {spans} spans of earlier sessions wait on disk; they are sent behind fresh ones")
        if self.status.torn:
            say(f"spool: the end of {self.status.torn} segments was torn, as by a kill; what was whole before it is kept")
        self._thread = threading.Thread(target=self._run, name="otlp-spool", daemon=True)
        self._thread.start()

    def take(self) -> Found | None:
        """The oldest request on disk, for the sending thread; None when there is none or it cannot be read, which gives it up."""
        entry = self._spool.oldest()
        if entry is None:
            self._refresh()
            return None
        if entry.number >= self._accounted:
            self.not_before = time.monotonic() + SOON_S
            return None
        body = self._spool.read(entry)
        if body is None:
            self._say(f"spool: a request is damaged on disk, and its {sum(entry.spans.values())} spans are dropped")
            if self._spool.settle(entry):
                self._give_up([entry])
            return None
        self.not_before = time.monotonic() + len(body) / REPLAY_BYTES_PER_S
        return Found(entry, Request("traces", body, self._counts(entry)))

    def settle(self, found: Found, rejected: int | None, pieces: Sequence[Request]) -> None:
        """It has been sent (`rejected` as in Backlog.settle), or cut in `pieces` that wait in memory now."""
        if self._spool.settle(found.entry):
            with self._changed:
                counts = found.request.counts
                if not counts:
                    self.replayed += sum(found.entry.spans.values())
                elif pieces:
                    self._backlog.from_spool(counts, pieces)
                else:
                    self._backlog.unspooled(counts, rejected)
        self._refresh()

    def close(self, grace_s: float) -> None:
        """Write what is left, for so many seconds at most."""
        with self._changed:
            self._ends_at = time.monotonic() + grace_s
            self._changed.notify_all()
        self._thread.join(grace_s)
        self._spool.close()

    def _run(self) -> None:
        look_at = 0.0
        while True:
            with self._changed:
                request = None
                while request is None:
                    now = time.monotonic()
                    ending = self._ends_at is not None
                    if now >= self._disk_not_before or ending:
                        due = ending or self._is_away() or self._backlog.half_full
                        request = self._backlog.spill() if due else None
                    if request is None:
                        if ending:
                            return
                        if now >= look_at:
                            break
                        self._changed.wait(look_at - now)
            if request is not None and not self._write(request) and self._ends_at is not None:
                return
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_S
                self._give_up(self._spool.expire(time.time()))
                self._refresh()

    def _write(self, request: Request) -> bool:
        spans = {self._names[probe]: count for probe, count in request.counts.items()}
        try:
            number, gone = self._spool.append("traces", request.body, spans, time.time())
        except OSError as fault:
            with self._changed:
                self._backlog.unspill(request)
                self._disk_not_before = time.monotonic() + DISK_PAUSE_S
                self._changed.notify_all()  # it may be sent from memory
            if not self._failing:
                self._say(f"spool: {os.strerror(fault.errno or 0)}; spans wait in memory")
            self._failing = True
            return False
        with self._changed:
            self._backlog.spooled(request)
            self._accounted = number + 1
            self.has_some = True
            self._changed.notify_all()
        if self._failing:
            self._say("spool: it is written again")
        self._failing = False
        self._give_up(gone)
        return True

    def _give_up(self, gone: Sequence[Entry]) -> None:
        if not gone:
            return
        with self._changed:
            for entry in gone:
                self._backlog.given_up(self._counts(entry))
        self._say(f"spool: {sum(sum(entry.spans.values()) for entry in gone)} spans are given up, for its bounds")

    def _counts(self, entry: Entry) -> Mapping[int, int]:
        return {self._probes[name]: count for name, count in entry.spans.items()} if entry.number >= self._spool.first else {}

    def _refresh(self) -> None:
        status = self._spool.status()
        with self._changed:
            self.status, self.has_some = status, status.records > 0
