"""What the chaos program (workload/chaos.c) did, by its own account: the file that all its threads and children write."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("chaos_work", "chaos_nest", "chaos_jump", "chaos_signal", "pair")  # workload/chaos.c, enum kind
SLOTS = 16384
RUNNING = 1
HEAD_BYTES = 64
SLOT = np.dtype(
    [("state", "u4"), ("tid", "u4"), ("handling", "u4"), ("unused", "u4")] + [(name, "u8", len(KINDS)) for name in ("begun", "ended")]
)

SPANS: tuple[dict[str, Any], ...] = (
    *({"name": name, "function": name} for name in KINDS[:-1]),
    {"name": "pair", "enter": "usdt:workload:chaos__start", "return": "usdt:workload:chaos__done"},
)


@dataclass(frozen=True, slots=True)
class Account:
    """Calls by kind, as the threads counted them. `uncertain` is by how many a probe's count may differ from them, all kinds together."""

    begun: dict[str, int]
    ended: dict[str, int]
    running: int  # threads that run, or were killed
    uncertain: int
    broken: int  # children that did not end as they should have


@dataclass(frozen=True, slots=True)
class Truth:
    """The mapped file."""

    path: Path
    _slots: np.ndarray
    _broken: np.ndarray

    @classmethod
    def make(cls, path: Path) -> Truth:
        """An empty one."""
        size = HEAD_BYTES + SLOTS * SLOT.itemsize
        path.write_bytes(bytes(size))
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ)
        return cls(path, np.frombuffer(mapped, SLOT, SLOTS, HEAD_BYTES), np.frombuffer(mapped, "u8", 1))

    def read(self) -> Account:
        """Now. While threads run, each may be at most `uncertain` ahead of, or behind, what it does."""
        slots = self._slots.copy()
        running = slots[slots["state"] == RUNNING]
        sums = {name: dict(zip(KINDS, map(int, slots[name].sum(axis=0)), strict=True)) for name in ("begun", "ended")}
        uncertain = len(running) + int((running["handling"] != 0).sum())
        return Account(**sums, running=len(running), uncertain=uncertain, broken=int(self._broken[0]))
