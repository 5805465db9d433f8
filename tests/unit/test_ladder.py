"""The bounds that durations are counted between, and the table by which the kernel finds them."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_usdt.ladder import BOUNDS_NS, EXPONENTIAL_NS, LONGEST_NS, MAX_CELLS, QUARTERS, STEPS, crowded, step_of, steps, uppers

LADDERS = [BOUNDS_NS, None, (1,), (LONGEST_NS // 3,)]


@pytest.mark.parametrize("bounds_ns", LADDERS)
@settings(deadline=None)
@given(st.data())
def test_the_table_leads_to_the_cell_that_holds_the_duration(bounds_ns: tuple[int, ...] | None, data: st.DataObject) -> None:
    """At every bound, beside it, and anywhere else."""
    cells = uppers(bounds_ns)
    near = st.builds(lambda bound, by: min(max(bound + by, 0), LONGEST_NS), st.sampled_from(cells), st.integers(-1, 1))
    duration = data.draw(near | st.integers(0, LONGEST_NS))
    bound, cell = steps(cells)[step_of(duration)]
    assert cell + (duration > bound) == bisect_left(cells, duration)


@pytest.mark.parametrize("bounds_ns", LADDERS)
def test_a_ladder_rises_and_fits(bounds_ns: tuple[int, ...] | None) -> None:
    """It has its own bounds and four an octave, ends at the longest duration, and is no longer than the kernel's rows may be."""
    cells = uppers(bounds_ns)
    assert all(low < high for low, high in pairwise(cells))
    assert {*QUARTERS, *(EXPONENTIAL_NS if bounds_ns is None else bounds_ns)} == set(cells)
    assert cells[-1] == LONGEST_NS
    assert len(cells) <= MAX_CELLS
    assert len(steps(cells)) == STEPS


def test_the_default_goes_on_from_opentelemetrys_advice() -> None:
    """Its bounds, in seconds, and below them the same rhythm down to a microsecond."""
    advice = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
    below = [1e-6, 2.5e-6, 5e-6, 7.5e-6, 1e-5, 2.5e-5, 5e-5, 7.5e-5, 1e-4, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 2.5e-3]
    assert [bound / 1e9 for bound in BOUNDS_NS] == below + advice


@pytest.mark.parametrize("bounds_ns", [BOUNDS_NS, EXPONENTIAL_NS, (1024, 1025, 1280), (5_000_000, 5_625_000)])
def test_bounds_that_the_kernel_can_tell_apart(bounds_ns: tuple[int, ...]) -> None:
    """The default, the exponential ones, those at the end of a step, and any that rise by an eighth."""
    assert crowded(bounds_ns) is None


@settings(deadline=None)
@given(st.integers(1, 1 << 60), st.integers(1, 20), st.integers(1, 20))
def test_bounds_an_eighth_apart_are_never_crowded(first: int, gap: int, more: int) -> None:
    """The promise of the documentation."""
    second = -(-first * (8 * gap + 1) // (8 * gap)) if gap == 1 else -(-first * 9 // 8) + gap
    assert crowded((first, second, -(-second * 9 // 8) + more)) is None


def test_crowded_bounds_are_named() -> None:
    """The first two that fall into one step."""
    assert crowded((1_000_000, 5_000_000, 5_100_000, 5_150_000)) == (5_000_000, 5_100_000)
