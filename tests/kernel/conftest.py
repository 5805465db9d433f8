"""What the kernel tests stand on: a workload of known truth, the command attached to it, and a guard against leftovers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.fixtures import nothing_left_behind, otel_usdt, stack
from tests.kernel.program import Workload, compile_workload, running

__all__ = ["nothing_left_behind", "otel_usdt", "program", "stack", "start", "workload"]

Start = Callable[..., Workload]


@pytest.fixture(autouse=True)
def guarded(nothing_left_behind: None) -> None:
    """Every test here is looked after."""


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled workload program."""
    return compile_workload(tmp_path_factory.mktemp("workload"))


@pytest.fixture
def start(program: Path, stack: ExitStack) -> Start:
    """Starts workloads: `start()`."""
    return lambda path=program, **how: stack.enter_context(running(path, **how))


@pytest.fixture
def workload(start: Start) -> Workload:
    """One running workload."""
    return start()
