"""The kernel's counters as the pipeline reads them: summed over CPUs, by span probe, out of maps with room for more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from otel_usdt.ladder import BOUNDS_NS, uppers
from otel_usdt.plan import Plan
from tests.samples import PARSE, QUERY
from tests.unit.kernelside import CPUS, Kernel

U64 = (1 << 64) - 1


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel(Plan((), (), (replace(QUERY, error=None), PARSE), ()))
    yield made
    made.close()


def test_counters_are_summed_over_cpus_for_each_span_probe(kernel: Kernel) -> None:
    """A span probe's counts on different CPUs are one count; another's are not in it."""
    for cpu in range(CPUS):
        kernel.views["counters"]["entries"][cpu] = [1 + cpu, 10]
    assert kernel.counters().read()["entries"].tolist() == [6, 30]


def test_reading_sees_what_was_written_since(kernel: Kernel) -> None:
    """It is the kernel's memory, not a copy of it."""
    counters = kernel.counters()
    assert counters.read()["calls"].tolist() == [0, 0]
    kernel.count(1, calls=7)
    assert counters.read()["calls"].tolist() == [0, 7]


def test_a_gauge_may_go_down_on_another_cpu(kernel: Kernel) -> None:
    """in_flight rises where a call begins and falls where it ends: one CPU's count alone may be negative."""
    kernel.views["counters"]["in_flight"][:, 0] = [5, np.uint64(U64 - 2), 0]
    assert kernel.counters().read()["in_flight"].tolist() == [2, 0]


def test_extremes_are_the_extremes_of_all_cpus(kernel: Kernel) -> None:
    """The longest and the shortest of any CPU; 0 where there was no call."""
    kernel.views["counters"]["max_ns"][:, 0] = [5, 900, 0]
    kernel.views["counters"]["min_ns_inverted"][:, 0] = [np.uint64(U64 - 5), np.uint64(U64 - 3), 0]
    told = kernel.counters().read()
    assert (told["max_ns"].tolist(), told["min_ns"].tolist()) == ([900, 0], [3, 0])


def test_cells_are_summed_over_cpus(kernel: Kernel) -> None:
    """Cell by cell."""
    kernel.views["histogram"][0, 0, 40] = 2
    kernel.views["histogram"][2, 0, 40] = 3
    kernel.views["histogram"][1, 1, 255] = 7
    cells = kernel.counters().cells()
    assert (cells.shape, int(cells[0, 40]), int(cells[1, 255]), int(cells.sum())) == ((2, len(uppers(BOUNDS_NS))), 5, 7, 12)


def test_processes_without_a_place_are_counted(kernel: Kernel) -> None:
    """The one loss that belongs to no span probe."""
    kernel.views["losses"][0] = 3
    assert kernel.counters().scope_full() == 3


def test_extents_are_those_of_each_row(kernel: Kernel) -> None:
    """Summed over CPUs, or the extremes of all."""
    kernel.views["extents"]["sum_ns"][:, 1] = [5, 7, 0]
    kernel.views["extents"]["max_ns"][:, 1] = [5, 7, 0]
    kernel.views["extents"]["min_ns_inverted"][:, 1] = [np.uint64(U64 - 5), np.uint64(U64 - 7), 0]
    told = kernel.counters().extents()
    assert {name: extent.tolist() for name, extent in told.items()} == {"sum_ns": [0, 12], "max_ns": [0, 7], "min_ns": [0, 5]}
