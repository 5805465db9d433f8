"""Keyed calls: their two ends may run on different threads or processes, so the kernel sends each, and they are paired here by their key.

No I/O and no clock: time arrives in the records and in `expire`. What comes out are calls like the kernel's own, with the process and the
parent of the beginning. An end may arrive before its beginning, when two processors raced for the ring: it waits a moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from otel_usdt.ladder import BOUNDS_NS, uppers
from otel_usdt.layout import Bounds, is_apart
from otel_usdt.metrics.histograms import HistogramSnapshot, Series, cells_of
from otel_usdt.metrics.series import Key as SeriesKey
from otel_usdt.metrics.series import attributes_of, keys_of
from otel_usdt.plan import Key, Span
from otel_usdt.stream.records import CALL, ENTER, LINK, RATE_LIMITED, RETURN, SAMPLED_OUT

GRACE_NS = 1_000_000_000  # how long an end may wait for its beginning
LINKS = 65536  # spans that wait for the calls that will link to them

Records = npt.NDArray[np.void]
Place = tuple[int, int]  # process, or 0 for any, and key


@dataclass(slots=True)
class Durations:
    """Durations, counted as the kernel counts its own."""

    bounds_ns: Bounds
    sum_ns: int = 0
    min_ns: int = 0
    max_ns: int = 0
    cells: npt.NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self.cells = np.zeros(len(uppers(self.bounds_ns)), np.uint64)

    @classmethod
    def of(cls, told: HistogramSnapshot) -> Durations:
        """One that goes on from there."""
        made = cls(told.bounds_ns, told.sum_ns, told.min_ns, told.max_ns)
        made.cells += told.counts
        return made

    def add(self, durations_ns: npt.NDArray[np.uint64]) -> None:
        """Some more; at least one."""
        least = int(durations_ns.min())
        self.min_ns = min(self.min_ns, least) if self.cells.any() else least
        self.max_ns = max(self.max_ns, int(durations_ns.max()))
        self.sum_ns += int(durations_ns.sum())
        self.cells += np.bincount(cells_of(durations_ns, self.bounds_ns), minlength=len(self.cells)).astype(np.uint64)

    def snapshot(self) -> HistogramSnapshot:
        """Now."""
        return HistogramSnapshot(self.cells.copy(), self.bounds_ns, int(self.cells.sum()), self.sum_ns, self.min_ns, self.max_ns)


@dataclass(slots=True)
class Account:
    """What became of one span probe's ends; the terms of the ledger that the kernel cannot know."""

    enters: int = 0  # records of each end that were read
    ends: int = 0
    returns: int = 0  # those of which it is known what they end
    calls: int = 0
    unwound: int = 0  # replaced by a later one of the same key
    expired: int = 0
    orphaned: int = 0
    full: int = 0
    recorded: int = 0
    sampled_out: int = 0
    rate_limited: int = 0
    too_short: int = 0
    took: Durations = field(default_factory=lambda: Durations(BOUNDS_NS))
    series: dict[SeriesKey, Durations] = field(default_factory=dict)  # where calls are counted apart; None: those that found no room

    def snapshot(self, span: Span) -> HistogramSnapshot:
        """Of the calls of `span`, whose account it is."""
        apart = tuple(Series(key, attributes_of(span, key), took.snapshot()) for key, took in self.series.items())
        return replace(self.took.snapshot(), series=apart)

    def resume(self, told: HistogramSnapshot) -> None:
        """Go on from an earlier `snapshot`."""
        self.took, self.series = Durations.of(told), {one.key: Durations.of(one.calls) for one in told.series}

    def let_go(self) -> None:
        """What waited for its other end was in the memory of a pipeline that was killed."""
        self.expired += self.enters - self.calls - self.unwound - self.expired - self.full
        self.orphaned += self.ends - self.returns
        self.returns = self.ends


def account_of(span: Span) -> Account:
    """A new one."""
    return Account(took=Durations(span.bounds_ns))


@dataclass(slots=True)
class _Open:
    """The ends of one span probe that wait for the other. A record is its bytes: a hundred thousand may wait."""

    span: Span
    key: Key
    account: Account
    begun: dict[Place, deque[bytes] | bytes] = field(default_factory=dict)
    count: int = 0
    ended: dict[Place, deque[bytes]] = field(default_factory=dict)

    def begin(self, place: Place, record: bytes) -> bytes | None:
        """The end that has waited for this beginning, or None: it waits itself."""
        account = self.account
        account.enters += 1
        if waiting := self.ended.get(place):
            end = waiting.popleft()
            if not waiting:
                del self.ended[place]
            return end
        before = self.begun.get(place)
        if before is not None and self.key.duplicates == "last":
            account.unwound += 1
            self.begun[place] = record
        elif self.count >= self.key.pending:
            account.full += 1
        else:
            self.count += 1
            if before is None:
                self.begun[place] = record
            elif isinstance(before, bytes):
                self.begun[place] = deque((before, record))
            else:
                before.append(record)
        return None

    def end(self, place: Place, record: bytes) -> bytes | None:
        """The beginning that this ends, the oldest of its key, or None: it waits a moment for it."""
        self.account.ends += 1
        found = self.begun.get(place)
        if found is None:
            self.ended.setdefault(place, deque()).append(record)
            return None
        self.count -= 1
        if isinstance(found, bytes):
            del self.begun[place]
            return found
        first = found.popleft()
        if len(found) == 1:
            self.begun[place] = found[0]
        return first

    def expire(self, now_ns: int) -> None:
        """Let go of beginnings that are too old, and of ends whose grace is over."""
        oldest = now_ns - self.key.expire_ns
        for place, found in list(self.begun.items()):
            left = [one for one in ((found,) if isinstance(found, bytes) else found) if _start(one) > oldest]
            gone = (1 if isinstance(found, bytes) else len(found)) - len(left)
            if gone:
                self.account.expired += gone
                self.count -= gone
                if left:
                    self.begun[place] = left[0] if len(left) == 1 else deque(left)
                else:
                    del self.begun[place]
        for place, waiting in list(self.ended.items()):
            while waiting and _start(waiting[0]) <= now_ns - GRACE_NS:
                waiting.popleft()
                self.account.returns += 1
                self.account.orphaned += 1
            if not waiting:
                del self.ended[place]


_START = int(CALL.fields["start_ktime_ns"][1]) if CALL.fields else 0


def _start(record: bytes) -> int:
    return int.from_bytes(record[_START : _START + 8], "little")


class Pairing:
    """The keyed span probes of a plan, by their place in it; with the accounts that an earlier pairing left."""

    def __init__(self, spans: Sequence[Span], accounts: Mapping[int, Account] = MappingProxyType({})) -> None:
        self._open = {i: _Open(span, span.key, accounts.get(i) or account_of(span)) for i, span in enumerate(spans) if span.key is not None}
        self._links: dict[int, list[tuple[int, int, int]]] = {}  # enclosing span of an end -> trace and span of what ended there

    def __bool__(self) -> bool:
        return bool(self._open)

    def accounts(self) -> Mapping[int, Account]:
        """By the span probe's place in the plan."""
        return {i: one.account for i, one in self._open.items()}

    def in_flight(self, probe: int) -> int:
        """Beginnings that wait for their end."""
        return self._open[probe].count

    def feed(self, records: Records) -> Records:
        """Records with ENTER or RETURN of span probes that are keyed, in any order -> the calls that are complete and are to be spans."""
        records = records[np.argsort(records["start_ktime_ns"], kind="stable")]
        whole = records.tobytes()
        columns = zip(
            records["probe"].tolist(),
            (records["thread"] >> np.uint64(32)).tolist(),
            records["duration_ns"].tolist(),
            records["flags"].tolist(),
            range(0, len(whole), CALL.itemsize),
            strict=True,
        )
        begins: list[bytes] = []
        ends: list[bytes] = []
        for probe, tgid, key, flags, at in columns:
            one, record = self._open[probe], whole[at : at + CALL.itemsize]
            place = (tgid if one.key.within == "process" else 0, key)
            if flags & ENTER:
                if (end := one.begin(place, record)) is not None:
                    begins.append(record)
                    ends.append(end)
            elif (begin := one.end(place, record)) is not None:
                begins.append(begin)
                ends.append(record)
        return self._calls(np.frombuffer(b"".join(begins), CALL).copy(), np.frombuffer(b"".join(ends), CALL))

    def expire(self, now_ns: int) -> None:
        """Let go of what has waited for too long at `now_ns` of the records' clock (CLOCK_MONOTONIC)."""
        for one in self._open.values():
            one.expire(now_ns)

    def links(self, calls: Records) -> Records:
        """The keyed calls that ended within each of `calls`: an array of LINK. Each is told once."""
        found = []
        if self._links:
            for row, span in enumerate(calls["span"].tolist()):
                found += [(row, (high, low), linked) for high, low, linked in self._links.pop(span, ())]
        return np.array(found, LINK)

    def _calls(self, calls: Records, ends: Records) -> Records:
        """Beginnings and their ends, parallel -> calls that are to be spans; all of them are counted."""
        start, end = calls["start_ktime_ns"], ends["start_ktime_ns"]
        calls["duration_ns"] = np.where(end > start, end - start, 0)
        calls["arg"] |= ends["arg"]  # an argument is read at one end, and is 0 at the other
        recorded = np.zeros(len(calls), bool)
        for probe in np.unique(calls["probe"]).tolist():
            one, mine = self._open[probe], calls["probe"] == probe
            account = one.account
            account.calls += int(mine.sum())
            account.returns += int(mine.sum())
            account.took.add(calls["duration_ns"][mine])
            if is_apart(one.span):
                _count_apart(one.span, account.series, calls[mine])
            # In the kernel's own order (bpf/otel_usdt.bpf.c, leave), so that each call is in one count.
            short = mine & (calls["duration_ns"] < one.span.min_duration_ns)
            unsampled = mine & ~short & ((calls["flags"] & SAMPLED_OUT > 0) | (one.span.mode != "spans"))
            limited = mine & ~short & ~unsampled & (calls["flags"] & RATE_LIMITED > 0)
            kept = mine & ~short & ~unsampled & ~limited
            account.too_short += int(short.sum())
            account.sampled_out += int(unsampled.sum())
            account.rate_limited += int(limited.sum())
            account.recorded += int(kept.sum())
            recorded |= kept
        calls["flags"] &= ~np.uint16(ENTER | RETURN | SAMPLED_OUT | RATE_LIMITED)
        made = calls[recorded]
        for within, trace, span in zip(ends["span"][recorded].tolist(), made["trace"].tolist(), made["span"].tolist(), strict=True):
            if within:
                self._links.setdefault(within, []).append((trace[0], trace[1], span))
        while len(self._links) > LINKS:  # of calls that will never be records: sampled out, unwound
            del self._links[next(iter(self._links))]
        return made


def _count_apart(span: Span, series: dict[SeriesKey, Durations], calls: Records) -> None:
    keys, which = np.unique(keys_of(span, calls["arg"]), axis=0, return_inverse=True)
    places: list[SeriesKey] = []
    known = len(series) - (None in series)
    for key in map(tuple, keys.tolist()):
        known += key not in series
        places.append(key if key in series or known <= span.max_series else None)
    order = which.reshape(-1)
    for place in dict.fromkeys(places):
        mine = np.isin(order, [at for at, one in enumerate(places) if one == place])
        series.setdefault(place, Durations(span.bounds_ns)).add(calls["duration_ns"][mine])
