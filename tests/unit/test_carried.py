"""What one pipeline leaves to the next: whichever store a kill falls behind, each record is in one count."""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from otel_usdt.carried import Carried, Slots, Taken
from otel_usdt.ladder import BOUNDS_NS
from otel_usdt.layout import layout_of
from otel_usdt.metrics.ledger import NAMES
from otel_usdt.outputs import open_carried
from otel_usdt.plan import Attribute, Key, Span
from otel_usdt.spans.pairing import Durations, account_of
from tests.samples import PARSE, QUERY
from tests.unit.test_histograms import snapshot

JOB = Span("job", 0, "spans", "pair", "func:put ~~ func:got", key=Key())
SPANS = (QUERY, PARSE, JOB)
APART: dict[str, Any] = {"dimensions": (Attribute("n", 0),)}


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = open_carried(layout_of(SPANS))
    yield descriptor
    os.close(descriptor)


def read(received: dict[int, int]) -> Taken:
    """So many records of each span probe."""
    return Taken(Counter(received), accounts={2: account_of(JOB)})


@pytest.mark.parametrize(("count", "more"), [(0, {}), (1, {}), (1, APART), (7, APART | {"bounds_ns": None}), (1000, {})])
def test_any_plan_finds_room(count: int, more: dict[str, Any]) -> None:
    """The supervisor, which has no numpy, knows by constants how much room what it never looks at takes."""
    spans = [replace(JOB, name=f"job{n}", **more) for n in range(count)]
    descriptor = open_carried(layout_of(spans))
    carried = Carried.open(descriptor, spans)
    carried.note((8, 8), Taken(Counter(dict.fromkeys(range(count), 3)), 1, {n: replace(account_of(JOB), enters=n) for n in range(count)}))
    carried.tell(5, [dict.fromkeys(NAMES, 7)] * count, [snapshot(1_000, bounds_ns=spans[0].bounds_ns)] * count if count else [])
    again = Carried.open(descriptor, spans)
    taken = again.take_over((8, 8))
    assert (taken.received.total(), taken.malformed, len(taken.accounts)) == (3 * count, 1, count)
    told = again.told()
    assert told is not None or not count
    assert not told or [(ledger["calls"], one.count) for ledger, one in zip(told[1], told[2], strict=True) if one] == [(7, 1)] * count
    os.close(descriptor)


def test_nobody_can_take_a_page_away(memory: int) -> None:
    """Else the next reader would die of SIGBUS."""
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(memory, size)


def test_what_was_noted_counts_once_the_ring_has_moved(memory: int) -> None:
    """A kill before the position moves leaves the records in the ring, and the count as it was; one behind it neither."""
    first = Carried.open(memory, SPANS)
    first.note((100, 0), read({0: 5}))
    first.note((200, 0), read({0: 9}))
    assert Carried.open(memory, SPANS).take_over((100, 0)).received == Counter({0: 5})
    first.note((200, 0), read({0: 9}))
    second = Carried.open(memory, SPANS)
    assert second.take_over((200, 0)).received == Counter({0: 9})
    second.note((200, 700), read({0: 9, 1: 2}))
    assert Carried.open(memory, SPANS).take_over((200, 700)).received == Counter({0: 9, 1: 2})


def test_what_never_came_true_is_overwritten_first() -> None:
    """Killed before the ring moved, and again within the next note: the state that counts has been left alone by both."""
    slots = Slots(np.zeros(2, np.dtype([("sequence", "u8"), ("position", "u8"), ("read", "u8")])))
    for position in (100, 200, 300):
        slots.write(position=position, read=position)
    for _ in range(2):
        found = slots.newest(position=200)
        assert found is not None
        assert int(found["read"]) == 200
        with pytest.raises(TypeError):
            slots.write(position=400, read=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("stores", range(4))
def test_a_slot_that_is_half_written_never_counts(stores: int) -> None:
    """Killed within a note, however far it came: the state before it is whole."""
    rows = np.zeros(2, np.dtype([("sequence", "u8"), ("a", "u8"), ("b", "u8"), ("c", "u8")]))
    slots = Slots(rows)
    slots.write(a=1, b=1, c=1)
    slots.write(a=2, b=2, c=2)

    if stores < 3:  # what is no number ends the write there
        with pytest.raises(TypeError):
            slots.write(**{name: 3 if at < stores else None for at, name in enumerate("abc")})  # type: ignore[arg-type]
    else:
        slots.write(a=3, b=3, c=3)
    found = slots.newest()
    assert found is not None
    assert {int(found[name]) for name in "abc"} == {2 if stores < 3 else 3}


def test_what_is_nowhere_else_is_written_off_once(memory: int) -> None:
    """Read, and neither exported, dropped, nor on disk: it was in memory. Whoever does it again finds nothing."""
    first = Carried.open(memory, SPANS)
    first.note((8, 0), read({0: 100, 1: 10}))
    first.tallies.exported.update({0: 60, 1: 10})
    first.tallies.dropped.update({0: 7})
    for lost in (13, 0):
        carried = Carried.open(memory, SPANS)
        carried.take_over((8, 0))
        assert carried.write_off({0: 20}) == lost
        assert dict(carried.tallies.dropped.items()) == {0: 20, 1: 0, 2: 0}


def test_ends_that_waited_are_let_go_once(memory: int) -> None:
    """Beginnings expire and ends become orphans; the accounts close, and stay so when the next is killed before it has read anything."""
    account = replace(
        account_of(JOB),
        enters=20,
        ends=9,
        returns=7,
        calls=6,
        unwound=1,
        expired=2,
        orphaned=1,
        full=3,
    )
    account.took.add(np.array([7] * 6 + [35], "u8"))
    Carried.open(memory, SPANS).note((8, 0), Taken(accounts={2: account}))
    for _ in range(3):
        kept = Carried.open(memory, SPANS).take_over((8, 0)).accounts[2]
        assert (kept.expired, kept.orphaned, kept.returns, kept.took.sum_ns, int(kept.took.cells.sum())) == (10, 3, 9, 77, 7)
        assert kept.enters == kept.calls + kept.unwound + kept.expired + kept.full
        assert kept.ends == kept.returns == kept.calls + kept.orphaned


def test_numbers_of_the_spool_outlive_a_pipeline(memory: int) -> None:
    """The session's first record is said by its first pipeline alone."""
    first = Carried.open(memory, SPANS)
    assert first.spool_first(7) == 7
    first.settle(9)
    second = Carried.open(memory, SPANS)
    assert (second.spool_first(12), second.settled) == (7, 9)


def test_memory_of_nobody_is_all_zeroes() -> None:
    """A first pipeline begins with nothing."""
    carried = Carried(mmap.mmap(-1, 1 << 20), SPANS)
    assert (carried.take_over((0, 0)).received.total(), carried.write_off({}), carried.told(), carried.mid_line) == (0, 0, None, False)


@pytest.mark.parametrize("bounds_ns", [BOUNDS_NS, None])
def test_series_outlive_a_pipeline(bounds_ns: tuple[int, ...] | None) -> None:
    """Those of keyed calls, which nobody else counts, and what was told of any: by key, with those that found no room."""
    span = replace(JOB, bounds_ns=bounds_ns, max_series=2, **APART)
    account = account_of(span)
    took = {(0, 7, 0, 0, 0): [100, 300], (0, -7, 0, 0, 0): [5], None: [1 << 40]}
    for key, durations in took.items():
        account.series[key] = Durations(bounds_ns)
        for tally in (account.series[key], account.took):
            tally.add(np.array(durations, "u8"))
    descriptor = open_carried(layout_of([span]))
    carried = Carried.open(descriptor, [span])
    carried.note((8, 0), Taken(accounts={0: account}))
    carried.tell(5, [dict.fromkeys(NAMES, 0)], [account.snapshot(span)])
    again = Carried.open(descriptor, [span])
    told = again.told()
    assert told is not None
    for found in (again.take_over((8, 0)).accounts[0].snapshot(span), told[2][0]):
        assert found is not None
        assert (found.count, found.sum_ns, found.min_ns, found.max_ns) == (4, 405 + (1 << 40), 5, 1 << 40)
        assert {one.key: (one.calls.sum_ns, one.calls.count) for one in found.series} == {k: (sum(d), len(d)) for k, d in took.items()}
        assert np.array_equal(sum(one.calls.counts for one in found.series), found.counts)
    os.close(descriptor)
