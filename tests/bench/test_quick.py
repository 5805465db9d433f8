"""The benchmark's quick run: every suite works, and no floor is missed by a factor of three. `make bench` has the figures."""

from __future__ import annotations

import pytest

from tests.bench import __main__ as bench
from tests.bench.results import Row


@pytest.mark.kernel
@pytest.mark.timeout(300)
@pytest.mark.parametrize("suite", bench.SUITES)
def test_no_floor_is_missed_by_far(suite: str, nothing_left_behind: None) -> None:
    """Ratios of one run, with wide margins; nothing that depends on how fast or busy this machine is."""
    measured = bench.run([suite], quick=True)
    assert any(isinstance(one, Row) for one in measured[suite])
    assert not bench.missed(measured, quick=True)
