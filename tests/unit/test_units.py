"""Durations, sizes and shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from otel_usdt import units


@pytest.mark.parametrize(
    ("text", "wanted"), [("500us", 500_000), ("10ms", 10_000_000), ("1.5s", 1_500_000_000), ("1h", 3600 * 10**9), (2, 2 * 10**9)]
)
def test_durations_are_read_to_the_nanosecond(text: str | float, wanted: int) -> None:
    """A duration with its unit; a bare number is seconds."""
    assert units.nanoseconds(text) == wanted


@pytest.mark.parametrize(("text", "wanted"), [("4MiB", 4 << 20), ("64KiB", 65536), ("1.5KiB", 1536), ("4096", 4096), (4096, 4096)])
def test_sizes_are_read_in_bytes(text: str | float, wanted: int) -> None:
    """A size with its unit of 1024; a bare number is bytes."""
    assert units.size_bytes(text) == wanted


@pytest.mark.parametrize(("text", "wanted"), [("10%", 0.1), ("0.25", 0.25), (1, 1.0), ("100%", 1.0), ("0", 0.0)])
def test_shares_are_read(text: str | float, wanted: float) -> None:
    """A share from 0 to 1, or as a percentage."""
    assert units.share(text) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (units.seconds, "5 parsecs"),
        (units.seconds, "-1s"),
        (units.seconds, "100000d"),
        (units.seconds, "nan"),
        (units.seconds, float("inf")),
        (units.seconds, ""),
        (units.size_bytes, "4MB"),
        (units.size_bytes, "0.3"),
        (units.size_bytes, "9" * 40),
        (units.share, "101%"),
        (units.share, "1.01"),
        (units.share, "10"),
        (units.share, "5s"),
    ],
)
def test_what_is_no_quantity_is_refused(read: Callable[[str | float], float], text: str | float) -> None:
    """A ValueError, and never a guess."""
    with pytest.raises(ValueError, match=r"wanted|range"):
        read(text)


@pytest.mark.parametrize("value", [None, True, [30], {"s": 30}, "", "30 parsecs"])
@pytest.mark.parametrize("read", [units.seconds, units.nanoseconds, units.size_bytes, units.share])
def test_what_is_no_quantity_is_a_value_error(read: Callable[[Any], object], value: object) -> None:
    """YAML may have anything where a quantity is wanted: a variable that is not set leaves nothing."""
    with pytest.raises(ValueError, match=r"is no (duration|size|share)"):
        read(value)
