"""Fixtures that the tests of other folders use as well: import them into a conftest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.commands import Commands
from tests.kernel.leaks import left_behind, traces


@pytest.fixture
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that leaves processes, mounts, BPF programs, links or temporary files behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("left")))
    before = traces()
    yield
    faults = left_behind(before)
    assert not faults, "left behind: " + "; ".join(faults)


@pytest.fixture
def stack(nothing_left_behind: None) -> Iterator[ExitStack]:
    """What a test has started ends before the guard looks."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def otel_usdt(stack: ExitStack, tmp_path: Path) -> Commands:
    """Starts otel-usdt commands."""
    return Commands(stack, tmp_path)
