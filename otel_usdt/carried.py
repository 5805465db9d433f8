"""What a pipeline leaves to the next one of its session when it is killed, so that no record is counted twice or not at all.

It lies in a memory file that the supervisor makes and hands to each pipeline in turn; the supervisor itself never looks into it, for the
less trusted side has written it. A kill falls between two stores of 64 bits, so:

- what was exported and dropped is a word a span probe, moved when it has happened. The one thing that a kill can leave uncertain is a
  request (a piece of the console's lines) that was given away and not counted yet: it is counted as dropped.
- what was read from the rings is written to the older of two slots, together with the rings' positions as they will be, before the
  records' room is given back. Moving the position makes that slot the one that counts, and needs no second store.
- what was read and is in no other count (exported, dropped, on disk) was in memory, and is dropped: by the pipeline that takes over.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_usdt.ladder import uppers
from otel_usdt.layout import layout_of, room_of
from otel_usdt.metrics.histograms import HistogramSnapshot, Series
from otel_usdt.metrics.ledger import LOSSES, NAMES, Ledger
from otel_usdt.metrics.series import attributes_of
from otel_usdt.otlp.backlog import Tallies
from otel_usdt.plan import ARGUMENT_SLOTS, Span
from otel_usdt.spans.pairing import Account, account_of

RINGS = 2
_COUNTS = tuple(field.name for field in fields(Account) if field.name not in ("took", "series"))
_FIRST, _SETTLED, _MID_LINE, _PIPELINES = range(4)  # of the single words
_U64 = (1 << 64) - 1
_ALL, _SERIES, _OVERFLOW = 1, 2, 3  # what calls a row is of; 0: none
_CALLS: list[tuple[str, Any, tuple[int, ...]]] = [
    ("what", "u8", ()),
    ("key", "i8", (1 + ARGUMENT_SLOTS,)),
    ("sum_ns", "u8", ()),
    ("min_ns", "u8", ()),
    ("max_ns", "u8", ()),
]

Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.void]
Fields = list[tuple[str, Any, tuple[int, ...]]]


class Tally:
    """Counts by span probe index, each a word in the memory file."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def __getitem__(self, probe: int) -> int:
        return int(self._words[probe])

    def __setitem__(self, probe: int, count: int) -> None:
        self._words[probe] = count

    def update(self, counts: Mapping[int, int], /) -> None:
        """Add to them, as Counter.update does."""
        for probe, count in counts.items():
            self[probe] += count

    def items(self) -> Iterator[tuple[int, int]]:
        """Of every span probe."""
        return iter(enumerate(self._words.tolist()))


class Slots:
    """Two rows of a dtype with a `sequence`. The older is written, and counts once its sequence is the higher: the very last store."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def write(self, **values: npt.ArrayLike | Sequence[object]) -> None:
        """A new state in place of the older one; the other is whole meanwhile."""
        sequences: list[int] = self._rows["sequence"].tolist()
        row = self._rows[sequences.index(min(sequences))]
        for name, value in values.items():
            row[name] = value
        row["sequence"] = max(sequences) + 1

    def newest(self, **where: npt.ArrayLike) -> np.void | None:
        """The newest whole state with these values; None when there is none. A newer one without them is forgotten: it never came true."""
        found: np.void | None = None
        for row in self._rows:
            if row["sequence"] and not all(np.array_equal(row[name], value) for name, value in where.items()):
                row["sequence"] = 0
            if row["sequence"] and (found is None or row["sequence"] > found["sequence"]):
                found = row
        return found


@dataclass(slots=True)
class Taken:
    """What was read from the rings: records by span probe, those that were malformed, and what became of keyed calls' ends."""

    received: Counter[int] = field(default_factory=Counter)
    malformed: int = 0
    accounts: dict[int, Account] = field(default_factory=dict)


class Carried:
    """The memory file's words, as this session's span probes divide them."""

    def __init__(self, memory: mmap.mmap, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._keyed = [at for at, span in enumerate(spans) if span.key is not None]
        count, at = len(spans), 0

        def part(dtype: np.dtype[np.void] | str, shape: tuple[int, ...]) -> np.ndarray:
            nonlocal at
            made = np.ndarray(shape, dtype, memory, at)
            at += made.nbytes
            return made

        account = np.dtype([(name, "u8") for name in _COUNTS])
        self._calls = np.dtype([*_CALLS, ("cells", "u8", (layout_of(spans).cells,))])
        taken: Fields = [("sequence", "u8", ()), ("positions", "u8", (RINGS,)), ("malformed", "u8", ()), ("received", "u8", (count,))]
        told: Fields = [("sequence", "u8", ()), ("since_unix_ns", "u8", ()), ("ledger", "u8", (count, len(NAMES)))]
        taken += [("accounts", account, (len(self._keyed),)), ("calls", self._calls, (sum(_rows(spans[at]) for at in self._keyed),))]
        told += [("calls", self._calls, (sum(map(_rows, spans)),))]
        self._words: Words = part("u8", (4,))
        self._exported: Words = part("u8", (count,))
        self._dropped: Words = part("u8", (count,))
        self.said: Words = part("u8", (count * len(LOSSES) + 2,))  # each loss as it was last said
        self._taken = Slots(part(np.dtype(taken), (2,)))
        self._told = Slots(part(np.dtype(told), (2,)))
        self.tallies = Tallies(Tally(self._exported), Tally(self._dropped))
        self._received = np.zeros(count, "u8")

    @classmethod
    def open(cls, descriptor: int, spans: Sequence[Span]) -> Carried:
        """From the supervisor's descriptor."""
        return cls(mmap.mmap(descriptor, os.fstat(descriptor).st_size), spans)

    # What was read from the rings

    def take_over(self, positions: Sequence[int]) -> Taken:
        """Where the rings' readers stand -> what an earlier pipeline had read by then.

        The beginnings and ends of keyed calls that waited in its memory are let go: counted as expired and as orphaned.
        """
        self._words[_PIPELINES] += np.uint64(1)
        row = self._taken.newest(positions=_padded(positions))
        accounts = {probe: account_of(self._spans[probe]) for probe in self._keyed}
        if row is None:
            return Taken(accounts=accounts)
        for account, kept in zip(accounts.values(), row["accounts"], strict=True):
            for name in _COUNTS:
                setattr(account, name, int(kept[name]))
            account.let_go()
        for account, calls in zip(accounts.values(), self._read(row["calls"], self._keyed), strict=True):
            if calls is not None:
                account.resume(calls)
        self._received = row["received"].copy()
        taken = Taken(
            Counter({probe: count for probe, count in enumerate(row["received"].tolist()) if count}), int(row["malformed"]), accounts
        )
        self.note(positions, taken)
        return taken

    @property
    def restarts(self) -> int:
        """How many pipelines have taken over from another."""
        return max(0, int(self._words[_PIPELINES]) - 1)

    def note(self, positions: Sequence[int], taken: Taken) -> None:
        """What has been read once the rings' readers stand there; to be called before they do."""
        accounts = [tuple(getattr(one, name) & _U64 for name in _COUNTS) for one in taken.accounts.values()]
        calls = self._written(self._keyed, [one.snapshot(self._spans[at]) for at, one in taken.accounts.items()])
        received = np.zeros_like(self._received)
        for probe, count in taken.received.items():  # of those that were called: a batch costs nothing for the many that are silent
            received[probe] = count
        self._taken.write(positions=_padded(positions), malformed=taken.malformed, received=received, accounts=accounts, calls=calls)

    def write_off(self, spooled: Mapping[int, int]) -> int:
        """Count as dropped what was read before, and is not exported, dropped yet, or on disk; returns how many records those are."""
        total = 0
        for probe, received in enumerate(self._received.tolist()):
            lost = max(0, received - int(self._exported[probe]) - int(self._dropped[probe]) - spooled.get(probe, 0))
            self._dropped[probe] += np.uint64(lost)
            total += lost
        return total

    # What is on disk: records from `spool_first` on are this session's, those up to `settled` are done with, whatever the disk says.

    def spool_first(self, following: int) -> int:
        """The number of the session's first record on disk; `following` is the next one's, should this be the first pipeline."""
        if not self._words[_FIRST]:
            self._words[_FIRST] = following
        return int(self._words[_FIRST])

    @property
    def settled(self) -> int:
        """The last record on disk that is done with."""
        return int(self._words[_SETTLED])

    def settle(self, number: int) -> None:
        """All records up to that one are done with."""
        self._words[_SETTLED] = number

    # What has been told

    @property
    def mid_line(self) -> bool:
        """The console may show the beginning of a line alone."""
        return bool(self._words[_MID_LINE])

    @mid_line.setter
    def mid_line(self, torn: bool) -> None:
        self._words[_MID_LINE] = torn

    def tell(self, since_unix_ns: int, ledgers: Sequence[Ledger], histograms: Sequence[HistogramSnapshot | None]) -> None:
        """What metrics that are differences have come to, before they are sent: a kill may lose an interval, but none is told twice."""
        if not ledgers:
            return
        self._told.write(
            since_unix_ns=since_unix_ns,
            ledger=[[max(0, ledger[name]) for name in NAMES] for ledger in ledgers],
            calls=self._written(range(len(self._spans)), histograms),
        )

    def told(self) -> tuple[int, list[Ledger], list[HistogramSnapshot | None]] | None:
        """The arguments of the last `tell`."""
        row = self._told.newest()
        if row is None:
            return None
        ledgers = [dict(zip(NAMES, counts, strict=True)) for counts in row["ledger"].tolist()]
        histograms = self._read(row["calls"], range(len(self._spans)))
        return int(row["since_unix_ns"]), ledgers, histograms

    # Histograms, each in as many rows as its span probe may have series, and two: all calls, and those that found no room

    def _written(self, which: Sequence[int], histograms: Sequence[HistogramSnapshot | None]) -> Rows:
        rows = np.zeros(sum(_rows(self._spans[at]) for at in which), self._calls)
        start = 0
        for at, told in zip(which, histograms, strict=True):
            parts = [(_ALL, None, told), *((_SERIES if one.key else _OVERFLOW, one.key, one.calls) for one in told.series)] if told else []
            for row, (what, key, calls) in zip(rows[start:], parts, strict=False):
                row["what"], row["key"] = what, key or 0
                row["sum_ns"], row["min_ns"], row["max_ns"] = calls.sum_ns & _U64, calls.min_ns & _U64, calls.max_ns & _U64
                row["cells"][: len(calls.counts)] = calls.counts
            start += _rows(self._spans[at])
        return rows

    def _read(self, rows: Rows, which: Sequence[int]) -> list[HistogramSnapshot | None]:
        found: list[HistogramSnapshot | None] = []
        start = 0
        for span in (self._spans[at] for at in which):
            mine = rows[start : start + _rows(span)]
            parts = {(int(row["what"]), tuple(row["key"].tolist())): _snapshot(row, span) for row in mine if row["what"]}
            series = [(key if what == _SERIES else None, calls) for (what, key), calls in parts.items() if what != _ALL]
            whole = next((calls for (what, _), calls in parts.items() if what == _ALL), None)
            found.append(whole and replace(whole, series=tuple(Series(key, attributes_of(span, key), calls) for key, calls in series)))
            start += len(mine)
        return found


def _rows(span: Span) -> int:
    return 2 + room_of(span)


def _snapshot(row: np.void, span: Span) -> HistogramSnapshot:
    counts = row["cells"][: len(uppers(span.bounds_ns))].copy()
    extent = (int(row["sum_ns"]), int(row["min_ns"]), int(row["max_ns"]))
    return HistogramSnapshot(counts, span.bounds_ns, int(counts.sum()), *extent)


def _padded(positions: Sequence[int]) -> list[int]:
    return [*positions, *[0] * (RINGS - len(positions))]
