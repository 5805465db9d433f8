"""Numbers and foreign text as people read them."""

from __future__ import annotations

import pytest

from otel_usdt.cli.views.text import cells, duration, number, plural, printable, shorten, table


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (999.6, "1.00 µs"),
        (1_000, "1.00 µs"),
        (9_994, "9.99 µs"),
        (9_996, "10.0 µs"),
        (17_249, "17.2 µs"),
        (99_949, "99.9 µs"),
        (99_951, "100 µs"),
        (999_400, "999 µs"),
        (999_600, "1.00 ms"),
        (1_048_576, "1.05 ms"),
        (2_000_000_000, "2.00 s"),
        (59_900_000_000, "59.9 s"),
        (59_960_000_000, "1 min 0 s"),
        (3_725_000_000_000, "1 h 2 min"),
        (-1_500, "-1.50 µs"),
    ],
)
def test_duration_has_three_digits_and_its_unit(ns: float, text: str) -> None:
    """Never "1000 µs", never more digits than were measured."""
    assert duration(ns) == text
    assert duration(ns, ascii_only=True) == text.replace("µ", "u")


def test_numbers_are_as_long_as_useful() -> None:
    """Counts with separators; small rates with digits."""
    assert [number(n) for n in (0, 12345, 0.0, 12345.6, 99.94, 1.26, 0.0421)] == ["0", "12,345", "0", "12,346", "99.9", "1.3", "0.042"]
    assert [plural(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


def test_printable_folds_lines_and_disarms_controls() -> None:
    """A statement becomes one line; an escape sequence becomes visible rubbish."""
    assert printable("SELECT\n\t1") == "SELECT 1"
    assert printable("\x1b]0;title\x07") == "�]0;title�"


def test_shorten_and_table_count_columns_not_characters() -> None:
    """A wide character takes two columns, a combining one none."""
    assert cells("解析e\u0301") == 5
    assert shorten("解析する", 5) == "解析…"
    assert shorten("short", 5) == "short"
    assert table([("a", "1"), ("解", "22")], "<>") == ["a    1", "解  22"]
