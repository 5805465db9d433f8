"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]

NEEDS_ROOT = "not tried: needs root"


@dataclass(frozen=True, slots=True)
class Check:
    """`found` is what is so on this host; `remedy` what to do about it, "" when there is nothing to do."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def not_tried(name: str) -> Check:
    """A check that rights are missing for."""
    return Check(name, "warn", NEEDS_ROOT, "run otel-usdt doctor as root")
