"""Every published figure of a duration, against what the program's own clock says of the same calls.

A call is timed by the program within (`inside`) and by its caller around it (`around`). Ours begins after the entry's trap and ends before
the return's work, so it lies between the two; whatever a trap costs, no figure needs a tolerance.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed
from tests.kernel.program import Workload
from tests.kernel.session import Told

pytestmark = pytest.mark.kernel

Published = dict[str, Any]  # count, sum_ns, and maybe min_ns and max_ns; `below`: (upper bound in ns, calls of at most that)


def on_the_console(told: Told, name: str) -> Published:
    """As `otel-usdt hist --json` has it."""
    line = told.histograms[name]
    bounds = [float("inf") if bucket["le_ns"] is None else bucket["le_ns"] for bucket in line["buckets"]]
    return {**line, "below": list(zip(bounds, accumulate(bucket["count"] for bucket in line["buckets"]), strict=True))}


def by_otlp(path: Path, name: str) -> Published:
    """As the last metrics that were exported have it, in seconds."""
    (last,) = [json.loads(line) for line in path.read_text().splitlines() if "resourceMetrics" in line][-1:]
    (point,) = [
        point
        for of in last["resourceMetrics"]
        for scope in of["scopeMetrics"]
        for metric in scope["metrics"]
        if metric["name"] == "otel_usdt.call.duration"
        for point in metric["histogram"]["dataPoints"]
        if {"key": "otel_usdt.span.name", "value": {"stringValue": name}} in point["attributes"]
    ]
    bounds = [*(round(bound * 1e9) for bound in point["explicitBounds"]), float("inf")]
    extent = {f"{end}_ns": round(point[end] * 1e9) for end in ("sum", "min", "max")}
    return {"count": int(point["count"]), **extent, "below": list(zip(bounds, accumulate(map(int, point["bucketCounts"])), strict=True))}


def check_between(published: Published, inside: list[int], around: list[int]) -> None:
    """Count, sum, extremes and each bucket are those of durations that lie between the two, call by call."""
    assert published["count"] == len(inside) == len(around)
    assert sum(inside) <= published["sum_ns"] <= sum(around)
    for extreme, of in ((published["min_ns"], min), (published["max_ns"], max)):
        assert of(inside) <= extreme <= of(around)
    for bound, calls in published["below"]:
        assert sum(took <= bound for took in around) <= calls <= sum(took <= bound for took in inside)
    assert published["below"][-1][1] == len(inside)


@pytest.mark.parametrize("mode", ["histogram", "spans"])
@pytest.mark.parametrize("command", ["timed 1009 200", "timed_threads 7 307"])
def test_sums_extremes_and_buckets_are_of_the_programs_own_durations(
    workload: Workload, otel_usdt: Commands, tmp_path: Path, mode: str, command: str
) -> None:
    """Of one thread, and of seven at once on fewer processors: what the console shows and what OTLP carries."""
    out = tmp_path / "out"
    span = {"name": "timed", "function": "timed", "mode": mode}
    session = otel_usdt.spans(workload.pid, span, export={"console": {"view": "all"}, "file": {"path": str(out)}})
    truth = workload.run(command)
    told = session.stop()
    check_closed(told.ledger, mode=mode)
    ways: list[Callable[[], Published]] = [lambda: on_the_console(told, "timed"), lambda: by_otlp(out, "timed")]
    for way in ways:
        check_between(way(), truth["inside_ns"], truth["around_ns"])
    assert len(told.named("timed")) == (len(truth["inside_ns"]) if mode == "spans" else 0)


def test_a_sum_is_that_of_the_spans(workload: Workload, otel_usdt: Commands) -> None:
    """To the nanosecond, in every bucket; and what is called within takes no longer than what calls it."""
    session = otel_usdt.spans(workload.pid, *({"name": name, "function": name} for name in ("outer", "middle", "leaf")))
    elapsed_ns = workload.run("outer 2003")["elapsed_ns"]
    told = session.stop()
    check_closed(told.ledger)
    took = {name: [span["end_time_unix_nano"] - span["start_time_unix_nano"] for span in told.named(name)] for name in told.histograms}
    for name in took:
        published = on_the_console(told, name)
        assert (published["count"], published["sum_ns"]) == (len(took[name]), sum(took[name]))
        assert (published["min_ns"], published["max_ns"]) == (min(took[name]), max(took[name]))
        assert all(calls == sum(one <= bound for one in took[name]) for bound, calls in published["below"])
    within_outer = {span["span_id"] for span in told.named("outer")}
    direct = [span for span in told.named("leaf") if span["parent_span_id"] in within_outer]
    of_leaves = sum(span["end_time_unix_nano"] - span["start_time_unix_nano"] for span in direct)
    assert sum(took["middle"]) + of_leaves <= sum(took["outer"]) <= elapsed_ns
