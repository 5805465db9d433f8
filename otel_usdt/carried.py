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
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from otel_usdt.ladder import MAX_CELLS, uppers
from otel_usdt.metrics.histograms import HistogramSnapshot
from otel_usdt.metrics.ledger import LOSSES, NAMES, Ledger
from otel_usdt.otlp.backlog import Tallies
from otel_usdt.plan import Span
from otel_usdt.spans.pairing import Account

RINGS = 2
_COUNTS = tuple(field.name for field in fields(Account) if field.name != "cells")
_FIRST, _SETTLED, _MID_LINE = range(3)  # of the single words
_U64 = (1 << 64) - 1

Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.void]


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
    """Two rows of a dtype with a `sequence`. The older is written, and counts once its sequence is the highest."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def write(self, **values: npt.ArrayLike | Sequence[object]) -> None:
        """A new state in place of the older one; the other is whole meanwhile."""
        sequences: list[int] = self._rows["sequence"].tolist()
        row = self._rows[sequences.index(min(sequences))]
        row["sequence"] = 0
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
        self._keyed = [at for at, span in enumerate(spans) if span.key is not None]
        self._bounds = [span.bounds_ns for span in spans]
        count, at = len(spans), 0

        def part(dtype: np.dtype[np.void] | str, shape: tuple[int, ...]) -> np.ndarray:
            nonlocal at
            made = np.ndarray(shape, dtype, memory, at)
            at += made.nbytes
            return made

        account = np.dtype([*((name, "u8") for name in _COUNTS), ("cells", "u8", (MAX_CELLS,))])
        taken = [("sequence", "u8", ()), ("positions", "u8", (RINGS,)), ("malformed", "u8", ()), ("received", "u8", (count,))]
        told = [("sequence", "u8", ()), ("since_unix_ns", "u8", ()), ("ledger", "u8", (count, len(NAMES))), ("sum_ns", "u8", (count,))]
        keyed, cells = ("accounts", account, (len(self._keyed),)), ("cells", "u8", (count, MAX_CELLS))
        self._words: Words = part("u8", (3,))
        self._exported: Words = part("u8", (count,))
        self._dropped: Words = part("u8", (count,))
        self.said: Words = part("u8", (count * len(LOSSES) + 2,))  # each loss as it was last said
        self._taken = Slots(part(np.dtype([*taken, keyed]), (2,)))
        self._told = Slots(part(np.dtype([*told, cells]), (2,)))
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
        row = self._taken.newest(positions=_padded(positions))
        accounts = {probe: Account(cells=np.zeros(self._cells(probe), np.uint64)) for probe in self._keyed}
        if row is None:
            return Taken(accounts=accounts)
        for account, kept in zip(accounts.values(), row["accounts"], strict=True):
            for name in _COUNTS:
                setattr(account, name, int(kept[name]))
            account.cells = kept["cells"][: len(account.cells)].copy()
            account.let_go()
        self._received = row["received"].copy()
        taken = Taken(Counter(dict(enumerate(row["received"].tolist()))), int(row["malformed"]), accounts)
        self.note(positions, taken)
        return taken

    def note(self, positions: Sequence[int], taken: Taken) -> None:
        """What has been read once the rings' readers stand there; to be called before they do."""
        accounts = [(*(getattr(one, name) & _U64 for name in _COUNTS), _wide(one.cells)) for one in taken.accounts.values()]
        received = [taken.received[probe] for probe in range(len(self._received))]
        self._taken.write(positions=_padded(positions), malformed=taken.malformed, received=received, accounts=accounts)

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
        nothing = np.zeros(0, np.uint64)
        self._told.write(
            since_unix_ns=since_unix_ns,
            ledger=[[max(0, ledger[name]) for name in NAMES] for ledger in ledgers],
            cells=[_wide(one.counts if one else nothing) for one in histograms],
            sum_ns=[one.sum_ns & _U64 if one else 0 for one in histograms],
        )

    def told(self) -> tuple[int, list[Ledger], list[HistogramSnapshot]] | None:
        """The arguments of the last `tell`."""
        row = self._told.newest()
        if row is None:
            return None
        ledgers = [dict(zip(NAMES, counts, strict=True)) for counts in row["ledger"].tolist()]
        histograms = [
            HistogramSnapshot(counts[: self._cells(at)].copy(), self._bounds[at], int(counts.sum()), sum_ns, 0, 0)
            for at, (counts, sum_ns) in enumerate(zip(row["cells"], row["sum_ns"].tolist(), strict=True))
        ]
        return int(row["since_unix_ns"]), ledgers, histograms

    def _cells(self, probe: int) -> int:
        return len(uppers(self._bounds[probe]))


def _wide(cells: Words) -> Words:
    return np.pad(cells, (0, MAX_CELLS - len(cells)))


def _padded(positions: Sequence[int]) -> list[int]:
    return [*positions, *[0] * (RINGS - len(positions))]
