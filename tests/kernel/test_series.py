"""Calls counted apart, by arguments and by failure: from several threads at once, up to a number of series, and none lost past it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed
from tests.kernel.program import Workload
from tests.kernel.session import Told, wait_until
from tests.kernel.test_histograms import attributes_of, intervals, points_in

pytestmark = pytest.mark.kernel

ATTRIBUTES = {"operation": {"arg": 1, "as": "string"}, "tenant": {"arg": 2}}
TEXT = {"capture": {"text": True}}


def step(name: str, **more: Any) -> dict[str, Any]:
    """A span probe of the workload's step."""
    return {"name": name, "function": "step", "attributes": ATTRIBUTES, **more}


def series_of(told: Told, name: str) -> dict[tuple[tuple[str, Any], ...], int]:
    """Calls by attributes. That the series together are the whole histogram, in every part, is looked at for all."""
    whole = told.histograms[name]
    series = whole["series"]
    for part in ("count", "sum_ns"):
        assert sum(one[part] for one in series) == whole[part]
    assert min(one["min_ns"] for one in series) == whole["min_ns"]
    assert max(one["max_ns"] for one in series) == whole["max_ns"]
    buckets = Counter[int | None]()
    for one in series:
        buckets.update({bucket["le_ns"]: bucket["count"] for bucket in one["buckets"]})
        assert sum(bucket["count"] for bucket in one["buckets"]) == one["count"]
    assert buckets == Counter({bucket["le_ns"]: bucket["count"] for bucket in whole["buckets"]})
    found = {tuple(sorted(one["attributes"].items())): one["count"] for one in series}
    assert len(found) == len(series), "a series twice"
    return found


def test_each_series_has_its_calls(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """Five operations by seven tenants in four threads: 35 series; what fails has its error.type. There is room for three more: a series
    that several threads begin in one instant takes a row each, until one of them has it."""
    by_both = step(
        "both",
        mode="histogram",
        histogram={"dimensions": ["operation", "tenant"], "max_series": 38},
        error={"return": "< 0", "type": "refused"},
    )
    by_result = step("result", error={"return": "!= 0"})
    export = {"file": {"path": str(tmp_path / "out")}, "console": {"view": "all"}}
    session = otel_usdt.spans(workload.pid, by_both, by_result, target=TEXT, export=export)
    workload.run("steps 4 1009")
    told = session.stop()
    check_closed(told.ledger | {"both": told.ledger["result"]})
    check_closed({"both": told.ledger["both"]}, mode="histogram")
    truth = Counter((f"operation {i % 5}", i % 7) for i in range(1009) for _ in range(4))
    expected = {
        (*((("error.type", "refused"),) if tenant == 3 else ()), ("operation", operation), ("tenant", tenant)): calls
        for (operation, tenant), calls in truth.items()
    }
    assert series_of(told, "both") == expected
    results = Counter(str(-3 if i % 7 == 3 else i % 7) for i in range(1009) for _ in range(4))
    assert series_of(told, "result") == {(("error.type", result),) if result != "0" else (): calls for result, calls in results.items()}
    points = points_in(tmp_path / "out")
    told_to_collectors = {
        tuple(sorted((key, value) for key, value in attributes_of(point).items() if key in ("error.type", "operation", "tenant"))): point
        for point in points
        if attributes_of(point)["otel_usdt.span.name"] == "both"
    }
    assert {key: int(point["count"]) for key, point in told_to_collectors.items()} == expected
    failed = {span["span_id"]: span["attributes"].get("error.type") for span in told.named("result")}
    for point in points:
        if (attributes := attributes_of(point))["otel_usdt.span.name"] == "result":
            assert {failed[one["spanId"]] for one in point["exemplars"]} == {attributes.get("error.type")}


def test_past_their_number_calls_are_counted_together(workload: Workload, otel_usdt: Commands) -> None:
    """Ten series have room of 35, in spans mode and past sampling too: the other calls are in one of overflow, and all are there."""
    dimensions = {"dimensions": ["tenant", "operation"], "max_series": 10}
    session = otel_usdt.spans(workload.pid, step("few", histogram=dimensions), target={**TEXT, "sample": 0})
    workload.run("steps 1 1009")
    workload.run("steps 4 503")
    told = session.stop()
    check_closed(told.ledger)
    found = series_of(told, "few")
    rest = found.pop((("otel.metric.overflow", True),))
    # In one thread first, so it is known which they are: those that were called first.
    truth = Counter((("operation", f"operation {i % 5}"), ("tenant", i % 7)) for i in (*range(1009), *[*range(503)] * 4))
    assert found == {key: calls for key, calls in truth.items() if key in [*truth][:10]}
    assert rest == 1009 + 4 * 503 - sum(found.values())


def test_names_that_are_none(workload: Workload, otel_usdt: Commands) -> None:
    """What cannot be read is no attribute, an empty text is one, and of a long one 63 bytes tell it apart."""
    session = otel_usdt.spans(workload.pid, step("odd", mode="histogram", histogram={"dimensions": ["operation"]}), target=TEXT)
    workload.run("odd_names 53")
    told = session.stop()
    assert series_of(told, "odd") == {(): 53, (("operation", ""),): 53, (("operation", "0" * 63),): 53}


def test_without_captured_text_it_tells_nothing_apart(workload: Workload, otel_usdt: Commands) -> None:
    """A text is captured nowhere unless the target says so; numbers are as before."""
    session = otel_usdt.spans(workload.pid, step("dark", mode="histogram", histogram={"dimensions": ["operation", "tenant"]}))
    workload.run("steps 2 707")
    told = session.stop()
    assert series_of(told, "dark") == {(("tenant", tenant),): 202 for tenant in range(7)}


def test_intervals_add_up_whoever_pairs_the_calls(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """Delta temporality and exponential histograms, of calls that are paired in the kernel and of ones that are not: 503 jobs with two
    numbers of their own, of which seven have a series each. Each interval begins where the last one ended."""
    path = tmp_path / "out"
    numbers = {"put": {"arg": 2}, "got": {"arg": 2, "at": "return"}}
    job = {"name": "job", "enter": "func:put", "return": "func:got", "key": {"arg": 1}, "attributes": numbers}
    by_numbers = {**job, "histogram": {"dimensions": ["put", "got"], "max_series": 7}}
    by_tenant = step("tenant", histogram={"dimensions": ["tenant"]})
    export = {"file": {"path": str(path)}, "console": {"view": "all"}, "temporality": "delta", "interval": 0.2}
    session = otel_usdt.spans(workload.pid, by_numbers, by_tenant, export=export, histogram={"type": "exponential"})
    workload.run("steps 2 707")
    workload.run("pool 503 5")
    wait_until(lambda: sum(len(points) for points in intervals(path)) > 30, "an interval that tells of the calls, and one more")
    workload.run("steps 1 707")
    told = session.stop()
    check_closed(told.ledger)
    jobs = series_of(told, "job")
    assert jobs.pop((("otel.metric.overflow", True),)) == 496
    assert len(jobs) == 7
    assert all(calls == 1 and dict(key)["put"] == dict(key)["got"] for key, calls in jobs.items())
    assert series_of(told, "tenant") == {(("tenant", tenant),): 303 for tenant in range(7)}
    sums, ends = Counter[tuple[str, int | None]](), set[str]()
    for points in intervals(path):
        for point in points:
            attributes = attributes_of(point)
            sums[attributes["otel_usdt.span.name"], attributes.get("tenant", attributes.get("put"))] += int(point.get("count", 0))
            zeros = int(point.get("zeroCount", 0))
            assert int(point.get("count", 0)) == zeros + sum(map(int, point.get("positive", {}).get("bucketCounts", ())))
        assert len({point["startTimeUnixNano"] for point in points}) == 1
        assert not ends or points[0]["startTimeUnixNano"] in ends
        ends |= {point["timeUnixNano"] for point in points}
    assert {tenant: calls for (name, tenant), calls in sums.items() if name == "tenant"} == dict.fromkeys(range(7), 303)
    assert sorted(calls for (name, _), calls in sums.items() if name == "job") == [1] * 7 + [496]
