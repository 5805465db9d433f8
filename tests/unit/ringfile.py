"""A BPF ring buffer made of an ordinary file in memory: written here as kernel/bpf/ringbuf.c does, read by stream/ring.py."""

from __future__ import annotations

import mmap
import os
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_usdt.stream.ring import BUSY, DISCARDED, PAGE


class RingFile:
    """The kernel's side. The data lies twice in the file, where the kernel maps one memory twice."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.descriptor = os.memfd_create("ring", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, 2 * PAGE + 2 * size)
        self._memory = mmap.mmap(self.descriptor, 2 * PAGE + 2 * size)

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)

    @property
    def consumed(self) -> int:
        return int(struct.unpack_from("<Q", self._memory, 0)[0])

    @property
    def produced(self) -> int:
        return int(struct.unpack_from("<Q", self._memory, PAGE)[0])

    def start_at(self, position: int) -> None:
        """An empty ring that has been in use: both positions are there."""
        struct.pack_into("<Q", self._memory, 0, position)
        struct.pack_into("<Q", self._memory, PAGE, position)

    def reserve(self, length: int) -> int | None:
        """Room for a record of `length` bytes, still being written; its position, None when the ring is full."""
        at, step = self.produced, (length + 8 + 7) & ~7
        if at + step - self.consumed > self.size:
            return None
        self._header(at, length | BUSY)
        struct.pack_into("<Q", self._memory, PAGE, at + step)
        return at

    def commit(self, at: int, payload: bytes, *, discard: bool = False) -> None:
        """The record that was reserved at `at` is whole."""
        for i, byte in enumerate(payload):
            self._byte(at + 8 + i, byte)
        self._header(at, len(payload) | (DISCARDED if discard else 0))

    def put(self, payload: bytes, *, discard: bool = False) -> bool:
        """Reserve and commit at once; False when the ring is full."""
        at = self.reserve(len(payload))
        if at is None:
            return False
        self.commit(at, payload, discard=discard)
        return True

    def put_many(self, records: npt.NDArray[Any]) -> int:
        """As many of these records as there is room for, all at once; how many that were."""
        size = records.dtype.itemsize
        step = (size + 8 + 7) & ~7
        count = min(len(records), (self.size - (self.produced - self.consumed)) // step)
        whole = np.zeros((count, step), np.uint8)
        whole[:, :8] = np.frombuffer(struct.pack("<II", size, 0), np.uint8)
        whole[:, 8 : 8 + size] = records[:count].view(np.uint8).reshape(count, size)
        data, at = whole.tobytes(), self.produced % self.size
        first = data[: self.size - at]
        for copy in (2 * PAGE, 2 * PAGE + self.size):
            self._memory[copy + at : copy + at + len(first)] = first
            self._memory[copy : copy + len(data) - len(first)] = data[len(first) :]
        struct.pack_into("<Q", self._memory, PAGE, self.produced + len(data))
        return count

    def write(self, at: int, data: bytes) -> None:
        """Any bytes anywhere, as something else than our program may write them."""
        for i, byte in enumerate(data):
            self._byte(at + i, byte)

    def _header(self, at: int, length: int) -> None:
        self.write(at, struct.pack("<II", length, 0))

    def _byte(self, position: int, byte: int) -> None:
        at = 2 * PAGE + position % self.size
        self._memory[at] = self._memory[at + self.size] = byte
