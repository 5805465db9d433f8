"""Requests on disk: whole and in order after any end, bounded, and gone when they are settled, and only then."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from otel_usdt.otlp.spool import SMALLEST, Spool, read_segments, status_of

LARGE, LONG_S = 1 << 30, 1e9


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def bodies(spool: Spool) -> list[bytes | None]:
    """All that is in it, taken out."""
    found = []
    while (entry := spool.oldest()) is not None:
        found.append(spool.read(entry))
        assert spool.settle(entry)
    return found


def test_requests_come_back_in_order_after_a_restart(folder: int) -> None:
    """What one run has written the next one reads, byte for byte, behind nothing of its own."""
    first = Spool(folder, LARGE, LONG_S)
    for n in range(7):
        first.append("traces", bytes([n]) * n + b"\n{}", {"query": n}, 100.0 + n)
    second = Spool(folder, LARGE, LONG_S)  # without a close: as after a kill
    second.append("traces", b"last", {"parse": 1}, 200.0)
    status = second.status()
    assert (status.records, status.spans, status.oldest_s, status.newest_s) == (8, {"query": 21, "parse": 1}, 100.0, 200.0)
    assert bodies(second) == [*(bytes([n]) * n + b"\n{}" for n in range(7)), b"last"]
    assert second.status().records == 0


def test_what_was_settled_does_not_come_back(folder: int) -> None:
    """A record that a receiver has taken is gone for the next run too, in the midst of a segment."""
    first = Spool(folder, LARGE, LONG_S)
    for n in range(5):
        first.append("traces", b"%d" % n, {}, 1.0)
    for _ in range(3):
        entry = first.oldest()
        assert entry is not None
        first.settle(entry)
    second = Spool(folder, LARGE, LONG_S)
    assert bodies(second) == [b"3", b"4"]
    number, _ = second.append("traces", b"new", {}, 2.0)
    assert number == 6
    assert bodies(Spool(folder, LARGE, LONG_S)) == [b"new"]


@pytest.mark.parametrize("kept", [0, 1, 19, 20, 25, 60])
def test_a_torn_last_record_costs_only_itself(folder: int, tmp_path: Path, kept: int) -> None:
    """Whatever part of it reached the disk: those before it are whole, and what is written later is found."""
    first = Spool(folder, LARGE, LONG_S)
    first.append("traces", b"whole", {"q": 1}, 1.0)
    (segment,) = tmp_path.glob("*.spool")
    size = segment.stat().st_size
    first.append("traces", b"torn" * 10, {"q": 1}, 1.0)
    os.truncate(segment, size + kept)
    second = Spool(folder, LARGE, LONG_S)
    assert second.status().torn == (kept > 0)
    second.append("traces", b"later", {"q": 1}, 2.0)
    assert bodies(Spool(folder, LARGE, LONG_S)) == [b"whole", b"later"]


def test_damage_ends_its_segment_and_no_other(folder: int, tmp_path: Path) -> None:
    """A bit that has turned is seen by the checksum, when the spool is opened and when the record is read."""
    spool = Spool(folder, 16 * SMALLEST, LONG_S)
    for n in range(4):
        spool.append("traces", bytes([n]) * SMALLEST, {"q": 1}, 1.0)  # a segment each
    second = sorted(tmp_path.glob("*.spool"))[1]
    content = bytearray(second.read_bytes())
    content[-1] ^= 1
    second.write_bytes(content)
    assert [body is None for body in bodies(spool)] == [False, True, False, False]


def test_bounds_give_up_the_oldest(folder: int) -> None:
    """By size a segment at a time, by age a record at a time; what is given up is told."""
    spool = Spool(folder, 16 * SMALLEST, 100.0)
    gone = []
    for n in range(40):
        gone += spool.append("traces", bytes(SMALLEST // 2 - 200), {"q": n}, float(n))[1]
    assert [entry.spans["q"] for entry in gone] == list(range(len(gone)))
    assert spool.status().bytes <= 16 * SMALLEST
    assert sum(spool.status().spans.values()) + sum(entry.spans["q"] for entry in gone) == sum(range(40))
    assert [entry.spans["q"] for entry in spool.expire(135.5)] == list(range(len(gone), 36))
    assert spool.status().records == 4


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failed_write_changes_nothing(folder: int, fault: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a record is taken back; what was there stays, and the next write is good again."""
    spool = Spool(folder, LARGE, LONG_S)
    spool.append("traces", b"before", {"q": 1}, 1.0)
    write = os.write

    def failing(descriptor: int, data: Any) -> int:
        if len(data) > 10:
            return write(descriptor, data[:10])
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(OSError, match=os.strerror(fault)):
        spool.append("traces", b"lost", {"q": 1}, 2.0)
    monkeypatch.undo()
    spool.append("traces", b"after", {"q": 1}, 3.0)
    assert bodies(Spool(folder, LARGE, LONG_S)) == [b"before", b"after"]


def test_other_files_are_left_alone(folder: int, tmp_path: Path) -> None:
    """Only names of ours are read or removed; a link in a segment's place is not followed."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "x.spool").write_text("mine too")
    spool = Spool(folder, LARGE, LONG_S)
    spool.append("traces", b"one", {}, 1.0)
    assert bodies(spool) == [b"one"]
    spool.close()
    assert {path.name for path in tmp_path.iterdir()} >= {"notes.txt", "x.spool"}
    (tmp_path / "0000000000000001.spool").unlink(missing_ok=True)
    (tmp_path / "0000000000000001.spool").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        list(read_segments(folder))


class Machine(RuleBasedStateMachine):
    """Any sequence of writes, settlements, kills, torn ends and restarts: the model is a list."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.place = tempfile.TemporaryDirectory()
        self.folder = os.open(self.place.name, os.O_RDONLY | os.O_DIRECTORY)
        self.spool, self.model, self.count = Spool(self.folder, LARGE, LONG_S), list[bytes](), 0

    @rule(size=st.sampled_from((0, 10, SMALLEST)))
    def write(self, size: int) -> None:
        self.count += 1
        body = b"%d" % self.count + bytes(size)
        self.spool.append("traces", body, {"q": 1}, float(self.count))
        self.model.append(body)

    @rule()
    def settle(self) -> None:
        entry = self.spool.oldest()
        assert (entry is None) == (not self.model)
        if entry is not None:
            assert self.spool.read(entry) == self.model.pop(0)
            assert self.spool.settle(entry)
            assert not self.spool.settle(entry)

    @rule(torn=st.binary(max_size=30))
    def kill(self, torn: bytes) -> None:
        segments = sorted(Path(self.place.name).glob("*.spool"))
        if segments and self.model:  # a record was being written
            with segments[-1].open("ab") as file:
                file.write(torn)
        self.spool = Spool(self.folder, LARGE, LONG_S)

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.spool = Spool(self.folder, LARGE, LONG_S)

    @invariant()
    def as_the_model_says(self) -> None:
        status = self.spool.status()
        assert (status.records, status.spans.get("q", 0)) == (len(self.model), len(self.model))
        on_disk = status_of(read_segments(self.folder))
        assert (on_disk.records, on_disk.spans) == (status.records, status.spans)

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
            os.close(self.folder)
            self.place.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
