"""The plan at the boundary between planner and supervisor: what comes from a less trusted process is whole and in range, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from otel_usdt import plan
from otel_usdt.layout import layout_of
from otel_usdt.plan import Plan
from otel_usdt.probes.rows import SITE_BYTES, site_row
from tests.unit.anyplan import plans
from tests.unit.goodplan import BASE, at, changed, refused


@settings(deadline=None)
@given(plans())
def test_any_plan_crosses_as_json_and_can_be_attached(made: Plan) -> None:
    """What comes out of the JSON equals what went in, and every site of it has a row."""
    crossed = Plan.from_dict(json.loads(json.dumps(made.to_dict())))
    assert crossed == made
    assert all(len(site_row(crossed, site, layout_of(crossed.spans), 1)) == SITE_BYTES for site in crossed.sites)


def test_the_base_of_these_tests_is_a_good_plan() -> None:
    """Else every refusal below would mean nothing."""
    assert Plan.from_dict(BASE.to_dict()) == BASE


RANGES: list[tuple[str, list[Any], list[Any], str]] = [
    # path, values that are in range, values that are not, what is said of those
    ("targets.0.sample", [0, 1, 0.5], [-0.1, 1.1, math.nan, math.inf, 10**400], "sample"),
    ("targets.0.pids", [[1], [(1 << 22) - 1], []], [[0], [-1], [1 << 22], [1, 10**400]], "pid"),
    ("targets.0.resource", [{"a": (1 << 63) - 1}], [{"a": 1 << 63}, {"a": -(10**400)}, {"a": "\ud800"}, {"\ud800": 1}], "resource"),
    (
        "telemetry.listen",
        ["", "127.0.0.1:0", "[::1]:65535"],
        ["x", "127.0.0.1", "127.0.0.1:65536", "300.0.0.1:1", "[::x]:1"],
        "ADDRESS:PORT",
    ),
    ("spans.0.target", [0], [-1, 1, 10**400], "no such target"),
    ("spans.0.min_duration_ns", [0, (1 << 63) - 1], [-1, 1 << 63], "min_duration"),
    ("spans.0.attributes.0.slot", [0, 3], [-1, 4], "slot"),
    ("spans.0.attributes.0", [{"key": "t", "slot": 1, "string": True}], [{"key": "t", "slot": 2, "string": True}], "slot"),
    ("spans.0.attributes.0.key", ["n"], ["\udfff"], "text"),
    ("spans.0.name", ["q"], ["\ud800"], "text"),
    ("spans.0.function", [""], ["\ud800"], "text"),
    ("spans.0.error.slot", [0, 3], [-1, 4], "slot"),
    ("spans.0.error.type", ["EIO"], ["\ud800"], "text"),
    ("sites.0.span", [0], [-1, 1], "no such span probe"),
    ("sites.0.binary", [0], [-1, 1], "no such binary"),
    ("sites.0.file_offset", [0, (1 << 62) - 1], [-1, 1 << 62], "offset"),
    ("sites.0.semaphore_offset", [0, (1 << 32) - 1], [-1, 1 << 32], "offset"),
    ("sites.0.arguments.0.slot", [0, 3], [-1, 4], "slot"),
    ("sites.0.arguments.0.max", [2, 256], [-1, 0, 1, 257], "text of"),
    ("sites.0.arguments.0.location.size", [1, 2, 4, 8], [-1, 0, 3, 16], "argument of"),
    ("sites.0.arguments.0.location.offset", [-(1 << 63), (1 << 63) - 1], [-(1 << 63) - 1, 1 << 63], "offset"),
    ("sites.0.arguments.0.location.register", ["ax", "sp", "r15"], ["", "rax", "x0", "zz"], "register"),
    ("sites.0.arguments.0.location.index", ["", "bx"], ["x0", "nowhere"], "register"),
    ("sites.0.arguments.0.location.scale", [1, 2, 4, 8], [0, -1, 3, 256], "scale"),
    ("sites.0.arguments.0.location.byte", [0, 1], [-1, 2, 1 << 20], "byte"),
    ("binaries.0.machine", ["x86_64"], ["", "riscv64", "X86_64"], "machine"),
    ("binaries.0.path", ["/proc/7/exe", "/odd\udcff"], ["/a\0b", "/\ud800", ""], "path"),
    ("limits.ring_bytes", [4096, 1 << 30], [0, -4096, 4095, 4097, 12288, 1 << 31], "power of two"),
    ("limits.text_ring_bytes", [4096, 1 << 30], [2048, 12288, 1 << 31], "power of two"),
    ("limits.records_per_second", [0, (1 << 31) - 1], [-1, 1 << 31], "records_per_second"),
    ("lease.ttl_s", [0, 0.5, 86400], [-1, math.nan, math.inf, 10**400], "ttl"),
    ("export.interval_s", [0.1, 60], [0, -1, math.nan, math.inf], "interval"),
    ("export.console", [None, {"view": "all", "interval_s": 1}], [{"interval_s": -1}, {"interval_s": math.inf}], "interval"),
    ("export.otlp", [None, {"endpoint": "http://a:1"}], [{"endpoint": "http://a:1", "timeout_s": 0}], "timeout"),
    ("export.otlp", [None], [{"endpoint": "http://a:1", "metrics": {"timeout_s": -1.0}}], "timeout"),
    (
        "export.otlp",
        [{"endpoint": "", "queue_bytes": 1}],
        [{"endpoint": "", "queue_bytes": -1}, {"endpoint": "", "queue_bytes": 0}],
        "queue",
    ),
    (
        "export.otlp",
        [{"endpoint": "", "concurrency": 1}, {"endpoint": "", "concurrency": 64}],
        [{"endpoint": "", "concurrency": 0}, {"endpoint": "", "concurrency": 65}],
        "concurrency",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "what"), [(path, value, what) for path, _, bad, what in RANGES for value in bad], ids=lambda one: str(one)[:30]
)
def test_a_value_out_of_range_is_refused(path: str, value: Any, what: str) -> None:
    """Each range that the kernel, the system or an encoder relies on is checked here, and the message says which."""
    message = refused(changed(path, value))
    assert what in message
    assert len(message) < 500


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, good, _, _ in RANGES for value in good], ids=lambda one: str(one)[:30])
def test_the_ends_of_a_range_are_in_it(path: str, value: Any) -> None:
    """The smallest and the largest that are allowed pass."""
    here, last = at(Plan.from_dict(changed(path, value)).to_dict(), path)
    assert here[last] == value or isinstance(value, dict | list)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (lambda p: replace(p, targets=p.targets * (plan.MAX_TARGETS + 1)), "64 targets"),
        (lambda p: replace(p, spans=tuple(replace(p.spans[0], name=str(i)) for i in range(plan.MAX_SPANS + 1))), "1024 span probes"),
        (lambda p: replace(p, sites=p.sites * (plan.MAX_SITES // 2) + p.sites[:1]), "4096 probe sites"),
        (lambda p: replace(p, binaries=p.binaries * (plan.MAX_SITES + 1)), "binaries"),
        (lambda p: replace(p, sites=(replace(p.sites[0], arguments=p.sites[0].arguments * 7),)), "too many arguments"),
        (lambda p: replace(p, spans=p.spans * 2), "two span probes"),
    ],
)
def test_too_many_of_anything_is_refused(more: Callable[[Plan], Plan], what: str) -> None:
    """Counts are bounded, and span probes are told apart by their names."""
    assert what in refused(more(BASE).to_dict())


def test_as_many_as_are_allowed_pass() -> None:
    """The bounds themselves are in range."""
    most = replace(
        BASE,
        targets=BASE.targets * plan.MAX_TARGETS,
        spans=tuple(replace(BASE.spans[0], name=str(i), max_series=63) for i in range(plan.MAX_SPANS)),
        sites=BASE.sites * (plan.MAX_SITES // 2),
    )
    assert Plan.from_dict(most.to_dict()) == most
