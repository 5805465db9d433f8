"""Durations, sizes and shares as people write them. Standard library only."""

from __future__ import annotations

import re

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ%]*)\s*", re.ASCII)
_LONGEST_S = 10 * 365 * 86400.0  # ten years: beyond any lease, and well within 63 bits of nanoseconds


def seconds(value: str | float) -> float:
    """A duration in seconds: "500us", "10ms", "1.5s", "5m", "1h", or a bare number, which is seconds. ValueError says what is wanted."""
    amount, unit = _split(value)
    if unit not in _SECONDS and unit != "":
        raise ValueError(f"{value!r} is no duration: a number with ns, us, ms, s, m, h or d is wanted, as in 500us or 30s")
    duration = amount * _SECONDS.get(unit, 1.0)
    if not 0 <= duration <= _LONGEST_S:
        raise ValueError(f"{value!r} is out of range: 0 to ten years is wanted")
    return duration


def nanoseconds(value: str | float) -> int:
    """A duration in whole nanoseconds; written as `seconds` reads it."""
    return round(seconds(value) * 1e9)


def size_bytes(value: str | float) -> int:
    """A size in bytes: "64KiB", "4MiB", "1GiB", or a bare number of bytes. ValueError says what is wanted."""
    amount, unit = _split(value)
    if unit not in _BYTES:
        near = " (KiB, MiB and GiB, of 1024, are known)" if unit.lower() in ("k", "m", "g", "kb", "mb", "gb", "kib", "mib", "gib") else ""
        raise ValueError(f"{value!r} is no size: bytes, or a number with KiB, MiB or GiB is wanted{near}")
    bytes_ = amount * _BYTES[unit]
    if bytes_ != int(bytes_) or bytes_ >= 1 << 62:
        raise ValueError(f"{value!r} is no whole number of bytes in range")
    return int(bytes_)


def share(value: str | float) -> float:
    """A share from 0 to 1: "10%", "0.1" or 0.1. ValueError says what is wanted."""
    amount, unit = _split(value)
    if unit not in ("", "%"):
        raise ValueError(f"{value!r} is no share: 0 to 1, or a percentage such as 10%, is wanted")
    part = amount / 100 if unit == "%" else amount
    if part > 1:
        raise ValueError(f"{value!r} is more than the whole: 0 to 1, or 0% to 100%, is wanted")
    return part


def _split(value: str | float) -> tuple[float, str]:
    text = f"{value:.9f}" if isinstance(value, int | float) and not isinstance(value, bool) else value
    found = _AMOUNT.fullmatch(text) if isinstance(text, str) else None  # YAML may have anything here, nothing too
    if found is None or len(found[1]) > 30:  # 30 digits: more is no quantity of anything
        return 0.0, "?"  # a unit that nobody knows: the caller says what it wants
    return float(found[1]), found[2]
