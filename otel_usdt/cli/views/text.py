"""Numbers, durations and foreign text as people read them. Standard library only."""

from __future__ import annotations

import unicodedata

_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))


def duration(ns: int | float, *, ascii_only: bool = False) -> str:
    """A duration given in nanoseconds, with three digits that count and its unit: "1.05 ms", "17.2 µs" ("us" when `ascii_only`)."""
    if ns < 0:
        return "-" + duration(-ns, ascii_only=ascii_only)
    if ns >= 59_950_000_000:
        minutes, seconds = divmod(round(ns / 1e9), 60)
        return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"
    # 0.9995: what would be printed as 1000 of a unit is 1.00 of the next one.
    size, unit = next(((s, u) for s, u in _UNITS if ns >= 0.9995 * s), (1, "ns"))
    amount = ns / size
    if unit == "ns":
        written = f"{amount:.0f}"
    else:
        written = f"{amount:.2f}" if amount < 9.995 else f"{amount:.1f}" if amount < 99.95 else f"{amount:.0f}"
    return f"{written} {'us' if ascii_only and unit == 'µs' else unit}"


def number(value: int | float) -> str:
    """A count with separators, or a rate with as many digits as help: "12,345", "0.4"."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def printable(text: str) -> str:
    """Text that a traced program chose, on one line and harmless to a terminal: white space folded, control characters shown as U+FFFD."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def cells(text: str) -> int:
    """Columns that `text` takes in a terminal: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` columns; what is cut is marked by an ellipsis."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for c in text:
        used += cells(c)
        if used > width - 1:
            break
        kept.append(c)
    return "".join(kept) + "…" if width > 0 else ""


def left(text: str, width: int) -> str:
    """`text` padded on its right to `width` columns."""
    return text + " " * (width - cells(text))


def right(text: str, width: int) -> str:
    """`text` padded on its left to `width` columns."""
    return " " * (width - cells(text)) + text


def table(rows: list[tuple[str, ...]], align: str) -> list[str]:
    """Lines with the columns of `rows` aligned: `align` has one of "<" and ">" a column. Two spaces between columns, none at the end."""
    widths = [max(cells(row[i]) for row in rows) for i in range(len(align))] if rows else []
    pad = {"<": left, ">": right}
    return ["  ".join(pad[a](cell, w) for cell, a, w in zip(row, align, widths, strict=True)).rstrip() for row in rows]


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 span", "2 spans"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
