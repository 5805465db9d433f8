"""When a pipeline that was killed has a successor, and when it has none."""

from __future__ import annotations

import pytest

from otel_usdt.succession import DELAYS_S, WINDOW_S, delay_s, told


def test_the_first_successor_comes_at_once_and_the_sixth_never() -> None:
    """Each within a minute waits longer, for what kills them may pass."""
    ends = list[float]()
    delays = [delay_s(ends := [*ends, 100.0 + n], 100.0 + n) for n in range(7)]
    assert delays == [*DELAYS_S, None, None]
    assert delays[0] == 0


def test_ends_of_long_ago_are_forgotten() -> None:
    """One kill in a while is no crash loop."""
    assert [delay_s([n * (WINDOW_S + 1) for n in range(at + 1)], at * (WINDOW_S + 1)) for at in range(9)] == [0.0] * 9


@pytest.mark.parametrize(
    ("status", "expected"), [(-9, "SIGKILL"), (-11, "SIGSEGV"), (1, "status 1"), (-64, "SIGRTMAX"), (-99, "signal 99")]
)
def test_how_it_ended_is_said(status: int, expected: str) -> None:
    """By the signal's name where it has one."""
    assert told(status) == expected
