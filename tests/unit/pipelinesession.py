"""A pipeline's session without a kernel: its plan, what makes kernels for it, and the lines that it shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from otel_usdt.pipeline import Session
from otel_usdt.plan import Console, Export, Plan, Target
from tests.samples import PARSE, QUERY
from tests.unit.kernelside import Kernel

TARGET = Target("orders", "tree", (100,), {"service.name": "orders", "process.pid": 100})
PLAN = Plan((TARGET,), (), (QUERY, PARSE), (), export=Export(console=Console("all")))
Make = Callable[..., Kernel]
Lines = list[dict[str, Any]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes kernels: make(plan)."""
    made: list[Kernel] = []

    def kernel(plan: Plan = PLAN, **export: Any) -> Kernel:
        made.append(Kernel(replace(plan, export=replace(plan.export, **export))))
        return made[-1]

    yield kernel
    for one in made:
        one.close()


def shown(capfd: pytest.CaptureFixture[str]) -> Lines:
    """The lines on standard output."""
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def drained(session: Session) -> int:
    """All that the rings hold, moved."""
    total = 0
    while some := session.drain():
        total += some
    return total
