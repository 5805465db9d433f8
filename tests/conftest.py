"""What every test shares: who needs root, and a last line that says loudly what did not run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Modules whose asserts are to tell what they saw. Here, before any folder of tests imports another's.
pytest.register_assert_rewrite(
    "tests.delivery.load",
    "tests.delivery.truth",
    "tests.docker.daemon",
    "tests.kernel.ledger",
    "tests.peers.seen",
    "tests.peers.servers",
    "tests.pipeline.decoded",
)

# How fast hypothesis draws is the machine's business: beside other work a second is soon over.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Before gRPC is imported. What the tests fork runs a program at once and makes no calls; gRPC's care for children that would, in a process
# that forks while calls are under way, has left channels that never connected again.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of tests/kernel attaches real probes; nothing that does can run without root."""
    for item in items:
        if TESTS / "kernel" in item.path.parents:
            item.add_marker(pytest.mark.kernel)
        if os.geteuid() != 0 and _marked(item):
            item.add_marker(pytest.mark.skip(reason="needs root: sudo make test"))


def _marked(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("kernel", "postgres"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skip is a hole in what was proved: say so where nobody overlooks it."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        reasons = sorted({str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr) for report in skipped})
        terminalreporter.write_line(f"NOT RUN ON THIS MACHINE: {len(skipped)} tests ({'; '.join(reasons)})", red=True, bold=True)
