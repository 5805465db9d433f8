"""Whole sessions need what the kernel tests stand on; the tests of the client and its queue alone need none of it."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.kernel.ledger", "tests.pipeline.decoded")

from tests.kernel.conftest import program, start, workload  # noqa: E402 - after the rewrite is asked for
from tests.kernel.fixtures import nothing_left_behind, otel_usdt, stack  # noqa: E402

__all__ = ["nothing_left_behind", "otel_usdt", "program", "stack", "start", "workload"]
