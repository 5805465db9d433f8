"""The kernel's counters and histograms as numpy views: no system call, no rights. Laid out [cpu][span probe] in mmapable arrays."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from otel_usdt.layout import Layout
from otel_usdt.stream.records import COUNTER_NAMES, COUNTERS, EXTENT, SERIES


def _map(descriptor: int, dtype: np.dtype, count: int) -> np.ndarray:
    size = -(-count * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
    return np.frombuffer(mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ), dtype, count)


def _extremes(now: np.ndarray) -> dict[str, np.ndarray]:
    lowest = ~now["min_ns_inverted"].max(axis=0)
    return {"max_ns": now["max_ns"].max(axis=0), "min_ns": np.where(lowest == np.uint64(0xFFFFFFFFFFFFFFFF), 0, lowest)}


@dataclass(frozen=True, slots=True)
class KernelCounters:
    """Views into the kernel."""

    layout: Layout
    _counters: np.ndarray  # [cpu, span] of COUNTERS
    _histogram: np.ndarray  # [cpu, row, cell] of u8
    _extents: np.ndarray  # [cpu, row] of EXTENT
    _series: np.ndarray  # [row - span probes] of SERIES
    _losses: np.ndarray

    @classmethod
    def open(cls, maps: Mapping[str, int], cpus: int, layout: Layout) -> KernelCounters:
        """From map descriptors by their names; the maps may be larger than the layout."""
        return cls(
            layout,
            _map(maps["counters"], COUNTERS, cpus * layout.spans).reshape(cpus, layout.spans),
            _map(maps["histogram"], np.dtype("u8"), cpus * layout.rows * layout.cells).reshape(cpus, layout.rows, layout.cells),
            _map(maps["extents"], EXTENT, cpus * layout.rows).reshape(cpus, layout.rows),
            _map(maps["series"], SERIES, layout.rows - layout.spans + 1)[:-1],
            _map(maps["losses"], np.dtype("u8"), 1),
        )

    def read(self) -> dict[str, np.ndarray]:
        """Every counter as an array over span probes, summed over CPUs (max_ns and min_ns the extremes; min_ns 0 when there is none)."""
        now = self._counters.copy()
        sums = {name: now[name].sum(axis=0).astype(np.int64) for name in COUNTER_NAMES if not name.startswith(("max_", "min_"))}
        return sums | _extremes(now)

    def cells(self) -> np.ndarray:
        """[row, cell] counts."""
        total: np.ndarray = self._histogram.sum(axis=0)
        return total

    def extents(self) -> dict[str, np.ndarray]:
        """Of each row whose calls are counted apart: sum_ns, max_ns, min_ns (0 when there is none)."""
        now = self._extents.copy()
        return {"sum_ns": now["sum_ns"].sum(axis=0), **_extremes(now)}

    def series(self) -> np.ndarray:
        """[row - span probes] of SERIES: whose each row is, once anything is counted there."""
        return self._series.copy()

    def scope_full(self) -> int:
        """Child processes that found no place in the scope map."""
        return int(self._losses[0])
