"""Histograms of real calls, against the durations of the same calls' spans: what goes to a collector is exact, bucket by bucket."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed
from tests.kernel.program import Workload

pytestmark = pytest.mark.kernel

KINDS = {"histogram", "exponentialHistogram"}
TIMED = {"name": "timed", "function": "timed"}
JOB = {"name": "job", "enter": "func:put", "return": "func:got", "key": {"arg": 1}}
CLOSE = tuple(
    accumulate(range(45), lambda bound, _: -(-bound * 9 // 8), initial=300)
)  # as near to each other as bounds may be: 300 ns to 60 us


def intervals(path: Path) -> list[list[dict[str, Any]]]:
    """The data points of the calls' histogram in each interval's metrics, with their metric's type as `type`."""
    found = []
    for line in path.read_text().split("\n")[:-1]:  # what is behind the last is being written
        metrics = [m for of in json.loads(line).get("resourceMetrics", ()) for scope in of["scopeMetrics"] for m in scope["metrics"]]
        mine = [metric for metric in metrics if metric["name"] == "otel_usdt.call.duration"]
        found.append([{**point, "type": kind} for m in mine for kind in m.keys() & KINDS for point in m[kind]["dataPoints"]])
    return [points for points in found if points]


def points_in(path: Path) -> list[dict[str, Any]]:
    """Those of the last interval."""
    return intervals(path)[-1]


def attributes_of(point: dict[str, Any]) -> dict[str, Any]:
    """Plain values by their keys."""
    return {one["key"]: int(value) if kind == "intValue" else value for one in point["attributes"] for kind, value in one["value"].items()}


def durations(spans: Iterable[dict[str, Any]]) -> list[int]:
    return [span["end_time_unix_nano"] - span["start_time_unix_nano"] for span in spans]


def exponent(duration_ns: int) -> int:
    """The bucket of an exponential histogram at scale 2, by whole numbers: the i for which 2^i < seconds^4 <= 2^(i + 1)."""
    ratio = Fraction(duration_ns, 10**9) ** 4
    near = ratio.numerator.bit_length() - ratio.denominator.bit_length()
    return next(i for i in range(near - 2, near + 2) if ratio <= Fraction(2) ** (i + 1))


def test_explicit_counts_are_those_of_the_spans(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """1009 calls of very different lengths, and 503 that are paired outside the kernel, between bounds that differ by an eighth."""
    spans = [{**one, "histogram": {"buckets": [f"{bound}ns" for bound in CLOSE]}} for one in (TIMED, JOB)]
    export = {"file": {"path": str(tmp_path / "out")}, "console": {"view": "all"}}
    session = otel_usdt.spans(workload.pid, *spans, export=export)
    workload.run("timed 1009 300")
    workload.run("pool 503 3")
    told = session.stop()
    check_closed(told.ledger)
    found = {attributes_of(point)["otel_usdt.span.name"]: point for point in points_in(tmp_path / "out")}
    for name, calls in (("timed", 1009), ("job", 503)):
        point, took = found[name], durations(told.named(name))
        assert len(took) == calls
        expected = Counter(bisect_left(CLOSE, duration) for duration in took)
        assert [int(count) for count in point["bucketCounts"]] == [expected[i] for i in range(len(CLOSE) + 1)]
        assert [round(bound * 1e9) for bound in point["explicitBounds"]] == list(CLOSE)
        assert (int(point["count"]), round(point["sum"] * 1e9)) == (calls, sum(took))


def test_exponential_counts_are_those_of_the_spans(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """The same in exponential buckets, at the finest scale at which six are enough."""
    export = {"file": {"path": str(tmp_path / "out")}, "console": {"view": "all"}}
    session = otel_usdt.spans(workload.pid, TIMED, JOB, export=export, histogram={"type": "exponential", "max_size": 6})
    workload.run("timed 1009 300")
    workload.run("pool 503 3")
    told = session.stop()
    for point in points_in(tmp_path / "out"):
        exponents = [exponent(one) for one in durations(told.named(str(attributes_of(point)["otel_usdt.span.name"])))]
        scale = next(scale for scale in range(2, -9, -1) if (max(exponents) >> 2 - scale) - (min(exponents) >> 2 - scale) < 6)
        positive = point["positive"]
        counts = {int(positive.get("offset", 0)) + i: int(count) for i, count in enumerate(positive["bucketCounts"]) if int(count)}
        assert (point["type"], point.get("scale", 0)) == ("exponentialHistogram", scale)
        assert counts == Counter(one >> 2 - scale for one in exponents)
        assert int(point["count"]) == len(exponents) > 500
