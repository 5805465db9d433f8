"""A good plan, that plan as JSON with one value replaced, and what a refused one is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from otel_usdt.elf.locations import Location
from otel_usdt.errors import UsageError
from otel_usdt.plan import Argument, Attribute, Binary, ErrorWhen, Plan, Site, Span, Target

BASE = Plan(
    targets=(Target("orders", "pid", (7,), {"service.name": "orders", "process.pid": 7}),),
    binaries=(Binary("/proc/7/exe", "/usr/bin/orders", "abcd", 1, 2, "x86_64"),),
    spans=(Span("query", 0, "spans", "function", "func:f", "f", 5, (Attribute("n", 0),), ErrorWhen(1, "<", -1)),),
    sites=(
        Site(0, 0, "enter", "func:f", 0x1139, 0x1139, arguments=(Argument(Location("register", 8, True, "di"), 0),)),
        Site(0, 0, "return", "func:f", 0x1139, 0x1139, uretprobe=True),
    ),
)


def at(told: dict[str, Any], path: str) -> tuple[Any, Any]:
    """The container and the last step of a dotted path."""
    *way, last = (int(step) if step.isdigit() else step for step in path.split("."))
    here: Any = told
    for step in way:
        here = here[step]
    return here, last


def changed(path: str, value: Any) -> dict[str, Any]:
    """BASE as JSON with one value replaced."""
    told: dict[str, Any] = json.loads(json.dumps(BASE.to_dict()))
    here, last = at(told, path)
    here[last] = value
    return told


def refused(told: Any) -> str:
    with pytest.raises(UsageError) as caught:
        Plan.from_dict(told)
    return str(caught.value)
