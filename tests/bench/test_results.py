"""Floors, ratios and their spread, and what is kept of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench.latency import middle_ns, upper_ns
from tests.bench.results import Curve, Floor, Row, Spread, at_least, at_most, from_json, to_json, told

OURS, PEER = Spread((2.0, 1.0, 3.0)), Spread((4.0, 4.0, 3.0))
ROW = Row("a call", "ns", OURS, PEER, "bpftrace", Spread((0.5,)), at_most(0.5))


def test_a_ratio_is_of_the_medians_and_its_spread_of_single_rounds() -> None:
    """Both of a round ran one after the other; the medians are what a reader can check."""
    assert ROW.ratio == 0.5
    assert ROW.ratios == (0.25, 1.0)


@pytest.mark.parametrize(
    ("floor", "figure", "whole", "quick"),
    [
        (at_most(1.1), 1.1, True, True),
        (at_most(1.1), 1.2, False, True),
        (at_most(1.1), 3.4, False, False),
        (at_least(50), 49, False, True),
        (at_least(50), 16, False, False),
        (at_least(8e6, margin=None), 1.0, False, None),
        (at_most(0, margin=1), 1, False, False),
    ],
)
def test_a_floor_has_margins_in_a_quick_run(floor: Floor, figure: float, whole: bool, quick: bool | None) -> None:
    """A quick run on a busy machine judges with a wide margin, and not at all what is so much a second."""
    assert floor.reached(figure, quick=False) is whole
    assert floor.reached(figure, quick=True) is quick


def test_a_row_without_a_peer_is_judged_by_its_own_figure() -> None:
    """And one with a peer by the ratio."""
    assert Row("x", "s", OURS, floor=at_most(2)).verdict(quick=False) is True
    assert Row("x", "s", OURS, PEER, floor=at_most(0.4)).verdict(quick=False) is False
    assert Row("x", "s", OURS, PEER).verdict(quick=False) is None


def test_a_missed_floor_is_told() -> None:
    """By its figure; what is reached, or has no floor, is not."""
    measured = {"one": [ROW, Row("slow", "s", OURS, floor=at_most(1))]}
    assert [line.partition(":")[0] for line in bench.missed(measured, quick=False)] == ["slow"]


def test_figures_are_kept_beside_those_of_other_suites(tmp_path: Path) -> None:
    """One suite can be measured anew; what is read again is what was written."""
    curve = Curve("loss against rate", "spans", (1.0, 2.0), (0.0, 0.5))
    path = tmp_path / "results.json"
    bench.keep(path, {"calls": [ROW, curve]}, 0.1)
    bench.keep(path, {"encode": [Row("read", "/CPU s", OURS)]}, 0.1)
    kept = json.loads(path.read_text())["suites"]
    assert list(kept) == ["calls", "encode"]
    assert from_json(kept["calls"]["results"]) == [ROW, curve] == from_json(to_json([ROW, curve]))


def test_the_median_of_buckets() -> None:
    """8 to 9 ns is the first bucket above single nanoseconds; within a bucket calls are spread evenly."""
    assert [upper_ns(bucket) for bucket in (0, 7, 8, 15, 16, 23, 24)] == [1, 8, 9, 16, 18, 32, 36]
    assert middle_ns([0] * 16 + [10]) == 17.0
    assert middle_ns([0] * 16 + [5, 0, 5]) == 18.0


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (17_123.4, "17,123"), (7.0, "7"), (1.3, "1.3"), (0.4567, "0.46"), (12.345, "12.3"), (1e6, "1,000,000")]
)
def test_numbers_for_people(value: float, text: str) -> None:
    """Three digits are enough; whole numbers stay whole."""
    assert told(value) == text
