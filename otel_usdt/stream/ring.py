"""The BPF ring buffer, mapped: batches of records without a system call and without rights.

Layout (kernel/bpf/ringbuf.c): page 0 the consumer's position (ours to write), page 1 the producer's, then the data, mapped twice so that a
batch is contiguous across the end. A record is a header {u32 length, u32 page offset}, the payload, and padding to 8 bytes.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from typing import Protocol

import numpy as np

BUSY, DISCARDED = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT
PAGE = mmap.PAGESIZE
PIECE = 1 << 21  # of a ring that has run full, at a time: the copy is memory, and leases, ledgers and metrics want their turn between
_MEMBARRIER = {"x86_64": None, "aarch64": 283}[platform.machine()]


def _acquire() -> None:
    """Positions before data: x86 orders loads by itself; on arm64 membarrier(2) (CMD_GLOBAL) is the barrier that Python has not."""
    if _MEMBARRIER is not None:
        ctypes.CDLL(None).syscall(_MEMBARRIER, 1, 0, 0)


class RecordSource(Protocol):
    """Where the pipeline gets records from: a ring, or in tests a recording."""

    malformed: int

    def peek(self) -> tuple[np.ndarray, int]:
        """Records that are there, in the order in which they were reserved; their own copy. And where the reader stands behind them."""

    def release(self, position: int) -> None:
        """The records before `position` are read for good."""


class Ring:
    """One ring whose records all have the dtype `record`."""

    def __init__(self, descriptor: int, size: int, record: np.dtype) -> None:
        if record.itemsize % 8:
            raise ValueError("records are padded to 8 bytes: the dtype must be, too")
        self._slot = np.dtype([("length", "u4"), ("page", "u4"), ("record", record)])
        self._expected = np.uint32(record.itemsize)
        self.size, self._mask = size, size - 1
        self._consumer_page = mmap.mmap(descriptor, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_pages = mmap.mmap(descriptor, PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE)
        self._consumer = np.frombuffer(self._consumer_page, "u8", 1)
        self._producer = np.frombuffer(self._producer_pages, "u8", 1)
        self.malformed = 0  # records whose length is not ours: never written by our program, so something else did

    def pending_bytes(self) -> int:
        """How much of `size` is used."""
        return int(self._producer[0]) - int(self._consumer[0])

    @property
    def position(self) -> int:
        """Where the reader stands: bytes since the ring was made."""
        return int(self._consumer[0])

    def batch(self) -> np.ndarray:
        """`peek` and `release` in one."""
        records, position = self.peek()
        self.release(position)
        return records

    def release(self, position: int) -> None:
        """The records before `position` are read for good: their space is free again. One store, so a kill falls before or behind it."""
        self._consumer[0] = position

    def peek(self) -> tuple[np.ndarray, int]:
        """Records that are there, PIECE bytes at most, their own copy, and the position behind them. Stops at one still being written."""
        start, stop = int(self._consumer[0]), int(self._producer[0])
        _acquire()
        count = min(stop - start, PIECE) // self._slot.itemsize
        slots = np.frombuffer(self._producer_pages, self._slot, count, PAGE + (start & self._mask))
        lengths = slots["length"].copy()
        ready = int(np.argmax(lengths & BUSY != 0)) if (lengths & BUSY).any() else count
        _acquire()
        whole = lengths[:ready] & ~np.uint32(DISCARDED)
        good = lengths[:ready] == self._expected
        records = slots["record"][:ready][good] if not good.all() else slots["record"][:ready].copy()
        if (whole != self._expected).any():
            # The grid of slots is lost from the first wrong length on: give up all that is there, and count it.
            first = int(np.argmax(whole != self._expected))
            self.malformed += (stop - start) // self._slot.itemsize - first
            records = records[: int(good[:first].sum())]
            return records, stop
        return records, start + ready * self._slot.itemsize
