"""Whole sessions need what the kernel tests stand on; the tests of the client and its queue alone need none of it."""

from __future__ import annotations

from tests.kernel.conftest import program, start, workload
from tests.kernel.fixtures import nothing_left_behind, otel_usdt, stack

__all__ = ["nothing_left_behind", "otel_usdt", "program", "stack", "start", "workload"]
