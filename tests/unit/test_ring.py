"""The mapped ring, against a file in memory that is written as the kernel writes one."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_usdt.stream.records import CALL, CALL_TEXT
from otel_usdt.stream.ring import PAGE, Ring
from tests.unit.ringfile import RingFile

NUMBER = np.dtype([("n", "u8"), ("not_n", "u8")])
LENGTH = NUMBER.itemsize
SLOT = LENGTH + 8
HOLDS = PAGE // SLOT  # 170 records of 24 bytes: the ring's end falls into one of them


def record(n: int) -> bytes:
    return struct.pack("<QQ", n, n ^ 0xFFFFFFFFFFFFFFFF)


@pytest.fixture
def file() -> Iterator[RingFile]:
    made = RingFile(PAGE)
    yield made
    made.close()


def numbers(ring: Ring) -> list[int]:
    """What a batch holds; each record must be whole."""
    batch = ring.batch()
    assert (batch["n"] == ~batch["not_n"]).all()
    taken: list[int] = batch["n"].tolist()
    return taken


def test_records_come_once_and_in_order(file: RingFile) -> None:
    """A batch has what was written since the last, and its space is free at once."""
    ring = Ring(file.descriptor, PAGE, NUMBER)
    assert numbers(ring) == []
    for n in range(7):
        file.put(record(n))
    assert ring.pending_bytes() == 7 * SLOT
    assert numbers(ring) == list(range(7))
    assert (numbers(ring), ring.pending_bytes(), file.consumed) == ([], 0, file.produced)
    file.put(record(8))
    assert numbers(ring) == [8]
    assert ring.malformed == 0


def test_a_batch_is_whole_across_the_rings_end(file: RingFile) -> None:
    """A full ring whose records go over its end, one of them in two pieces, is one batch."""
    file.start_at(SLOT * 1000)
    ring = Ring(file.descriptor, PAGE, NUMBER)
    written = 0
    while file.put(record(written)):
        written += 1
    assert written == HOLDS
    assert numbers(ring) == list(range(HOLDS))


def test_positions_past_32_bits_are_read(file: RingFile) -> None:
    """A ring that has carried terabytes goes on."""
    file.start_at((1 << 45) * SLOT)
    ring = Ring(file.descriptor, PAGE, NUMBER)
    file.put(record(5))
    assert numbers(ring) == [5]


def test_a_batch_is_a_copy(file: RingFile) -> None:
    """The kernel writes over what was read; the batch keeps its values."""
    ring = Ring(file.descriptor, PAGE, NUMBER)
    file.put(record(1))
    batch = ring.batch()
    for n in range(3 * HOLDS):
        file.put(record(n))
        ring.batch()
    assert batch["n"].tolist() == [1]
    batch["n"] = 9  # not a view of the read-only mapping


def test_a_record_still_being_written_holds_up_those_after_it(file: RingFile) -> None:
    """The order is that of reservation, so a busy record stops the batch; once it is whole all follow."""
    ring = Ring(file.descriptor, PAGE, NUMBER)
    file.put(record(0))
    late = file.reserve(LENGTH)
    assert late is not None
    file.put(record(2))
    assert numbers(ring) == [0]
    assert numbers(ring) == []
    file.commit(late, record(1))
    assert numbers(ring) == [1, 2]
    assert ring.malformed == 0


def test_discarded_records_are_skipped(file: RingFile) -> None:
    """What the program gave back is no record and no fault."""
    ring = Ring(file.descriptor, PAGE, NUMBER)
    for n in range(6):
        file.put(record(n), discard=n % 2 == 1)
    assert numbers(ring) == [0, 2, 4]
    file.put(record(7), discard=True)
    assert numbers(ring) == []
    assert (ring.malformed, ring.pending_bytes()) == (0, 0)


@pytest.mark.parametrize("length", [0, 1, 8, 15, 17, 24, 40, 1000])
def test_a_foreign_length_is_counted_and_the_ring_goes_on(file: RingFile, length: int) -> None:
    """Records before it are kept; what follows in the batch is given up and counted; the next batch is good again."""
    ring = Ring(file.descriptor, PAGE, NUMBER)
    file.put(record(0))
    file.put(record(1))
    file.put(bytes(length))
    file.put(record(2))
    slots = ring.pending_bytes() // SLOT
    assert numbers(ring) == [0, 1]
    assert ring.malformed == slots - 2
    assert ring.pending_bytes() == 0
    counted = ring.malformed
    file.put(record(3))
    assert numbers(ring) == [3]
    assert ring.malformed == counted


def test_a_discarded_record_of_foreign_length_is_malformed(file: RingFile) -> None:
    """Its length would lead to the wrong place as well."""
    ring = Ring(file.descriptor, PAGE, NUMBER)
    file.put(bytes(40), discard=True)
    assert numbers(ring) == []
    assert (ring.malformed > 0, ring.pending_bytes()) == (True, 0)


def test_records_that_are_not_padded_are_refused(file: RingFile) -> None:
    """The grid of slots would not be the kernel's."""
    with pytest.raises(ValueError, match="padded"):
        Ring(file.descriptor, PAGE, np.dtype([("n", "u4")]))


@pytest.mark.parametrize("dtype", [CALL, CALL_TEXT], ids=["call", "call_text"])
def test_our_own_records_arrive_byte_for_byte(file: RingFile, dtype: np.dtype[np.void]) -> None:
    """A ring of the real records, over its end several times."""
    ring = Ring(file.descriptor, PAGE, dtype)
    for n in range(50):
        payload = bytes((n + i) % 256 for i in range(dtype.itemsize))
        assert file.put(payload)
        [taken] = ring.batch()
        assert taken.tobytes() == payload


steps = st.lists(
    st.sampled_from(("put", "put", "put", "discard", "reserve", "commit", "read")) | st.integers(1, 200),  # a number: that many puts
    max_size=60,
)


@settings(deadline=None)
@given(steps, st.integers(0, 1 << 40))
def test_any_order_of_writing_and_reading_yields_each_record_once(what: list[str | int], start: int) -> None:
    """Whatever is put, discarded, reserved, committed late and read between: what comes out is what went in, in order."""
    file = RingFile(PAGE)
    file.start_at(start * SLOT)
    ring = Ring(file.descriptor, PAGE, NUMBER)
    expected: list[int] = []
    taken: list[int] = []
    late: list[tuple[int, int]] = []
    n = 0

    def put(discard: bool = False) -> None:
        nonlocal n
        n += 1
        if file.put(record(n), discard=discard) and not discard:
            expected.append(n)

    for step in what:
        match step:
            case "put" | "discard":
                put(step == "discard")
            case "reserve":
                n += 1
                at = file.reserve(LENGTH)
                if at is not None:
                    late.append((at, n))
                    expected.append(n)
            case "commit" if late:
                at, number = late.pop()
                file.commit(at, record(number))
            case "read":
                taken += numbers(ring)
                assert taken == expected[: len(taken)]
            case int():
                for _ in range(step):
                    put()
    for at, number in late:
        file.commit(at, record(number))
    taken += numbers(ring)
    assert (taken, ring.malformed, ring.pending_bytes()) == (expected, 0, 0)
    file.close()


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, HOLDS), st.integers(0, PAGE))
def test_hostile_headers_neither_raise_nor_lead_astray(data: bytes, first: int, at: int) -> None:
    """Any bytes in the ring: reading them ends, never goes backwards or past the producer, and good records come before bad."""
    file = RingFile(PAGE)
    file.start_at(first * SLOT)
    ring = Ring(file.descriptor, PAGE, NUMBER)
    begin = file.consumed
    while file.put(record(1)):
        pass
    file.write(begin + at, data)
    total = 0
    for _ in range(3):
        before = file.consumed
        total += len(ring.batch())
        assert before <= file.consumed <= file.produced
    assert total + ring.malformed <= HOLDS
    file.close()
