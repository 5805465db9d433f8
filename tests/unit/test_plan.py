"""The plan at the boundary between planner and supervisor: what comes from a less trusted process is whole and in range, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_usdt import plan
from otel_usdt.elf.locations import Location
from otel_usdt.errors import UsageError
from otel_usdt.ladder import BOUNDS_NS
from otel_usdt.layout import layout_of
from otel_usdt.plan import (
    Argument,
    Attribute,
    Binary,
    Console,
    ErrorWhen,
    Export,
    Key,
    Lease,
    Limits,
    OtlpExport,
    OtlpSignal,
    Plan,
    Refusal,
    Site,
    Span,
    Target,
    Traceparent,
)
from otel_usdt.probes.rows import REGISTERS, SITE_BYTES, site_row

REGISTER_NAMES = {machine: tuple(names) for machine, names in REGISTERS.items()}

BASE = Plan(
    targets=(Target("orders", "pid", (7,), {"service.name": "orders", "process.pid": 7}),),
    binaries=(Binary("/proc/7/exe", "/usr/bin/orders", "abcd", 1, 2, "x86_64"),),
    spans=(Span("query", 0, "spans", "function", "func:f", "f", 5, (Attribute("n", 0),), ErrorWhen(1, "<", -1)),),
    sites=(
        Site(0, 0, "enter", "func:f", 0x1139, 0x1139, arguments=(Argument(Location("register", 8, True, "di"), 0),)),
        Site(0, 0, "return", "func:f", 0x1139, 0x1139, uretprobe=True),
    ),
)

words = st.text(st.characters(codec="utf-8"), max_size=8)
addresses = st.integers(0, (1 << 62) - 1)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)


def locations(machine: str) -> st.SearchStrategy[Location]:
    register = st.sampled_from(REGISTER_NAMES[machine])
    sizes = st.sampled_from((1, 2, 4, 8))
    return st.one_of(
        st.builds(Location, st.just("register"), sizes, st.booleans(), register, byte=st.integers(0, 1)),
        st.builds(Location, st.just("memory"), sizes, st.booleans(), register, st.one_of(st.just(""), register), sizes, i64),
        st.builds(Location, st.just("constant"), sizes, st.booleans(), offset=i64),
    )


def an_argument(machine: str) -> st.SearchStrategy[Argument]:
    integers = st.builds(Argument, locations(machine), st.integers(0, plan.ARGUMENT_SLOTS - 1))
    texts = st.builds(Argument, locations(machine), st.integers(0, plan.TEXT_SLOTS - 1), st.just(True), st.integers(2, plan.TEXT_BYTES))
    return st.one_of(integers, texts)


attributes = st.one_of(
    st.builds(Attribute, words, st.integers(0, plan.ARGUMENT_SLOTS - 1)),
    st.builds(Attribute, words, st.integers(0, plan.TEXT_SLOTS - 1), st.just(True)),
)
targets = st.builds(
    Target,
    words,
    st.sampled_from(get_args(plan.Scope)),
    st.lists(st.integers(1, (1 << 22) - 1), max_size=3).map(tuple),
    st.dictionaries(words, st.one_of(words, i64), max_size=3),
    st.integers(0, 9),
    st.integers(0, 9),
    st.floats(0, 1),
    st.lists(st.sampled_from(plan.JOINS), unique=True).map(tuple),
)
binaries = st.builds(
    Binary,
    words.filter(lambda path: path != "" and "\0" not in path),
    words,
    words,
    addresses,
    addresses,
    st.sampled_from(("x86_64", "aarch64")),
)
keys = st.none() | st.builds(
    Key,
    st.booleans(),
    st.sampled_from(("process", "any")),
    st.sampled_from(("fifo", "last")),
    st.integers(1, 1 << 61),
    st.integers(1, plan.MAX_PENDING),
)
seconds = st.floats(0, 1e6)
exports = st.builds(
    Export,
    st.none()
    | st.builds(
        OtlpExport,
        words,
        st.sampled_from(("grpc", "http/protobuf")),
        headers=st.dictionaries(words, words, max_size=2),
        timeout_s=st.floats(0.001, 100),
        metrics=st.builds(OtlpSignal, st.none() | words, headers=st.none() | st.dictionaries(words, words, max_size=2)),
        queue_bytes=st.integers(1 << 16, 1 << 34),
        concurrency=st.integers(1, 64),
    ),
    st.just("") | st.just("/tmp/spans.jsonl"),
    st.none() | st.builds(Console, st.sampled_from(("spans", "counts", "histograms", "all")), seconds),
    st.floats(0.001, 1e6),
)


def powers(exponents: list[int]) -> tuple[int, ...]:
    """Bounds that rise by a third and more."""
    return tuple(int(1.5**exponent * 1000) for exponent in sorted(exponents))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan that a planner may make."""
    some_targets = draw(st.lists(targets, min_size=1, max_size=3))
    some_binaries = draw(st.lists(binaries, min_size=1, max_size=2))
    bounds = draw(st.just(BOUNDS_NS) | st.none() | st.lists(st.integers(1, 40), min_size=1, max_size=9, unique=True).map(powers))
    some_spans = [
        Span(
            name,
            draw(st.integers(0, len(some_targets) - 1)),
            draw(st.sampled_from(get_args(plan.Mode))),
            draw(st.sampled_from(("function", "pair", "point"))),
            draw(words),
            draw(words),
            draw(st.integers(0, (1 << 63) - 1)),
            (),
            draw(st.none() | st.builds(ErrorWhen, st.integers(0, 3), st.sampled_from(("<", "<=", "==", "!=", ">=", ">")), i64, words)),
            draw(keys),
            bounds,
        )
        for name in draw(st.lists(words, min_size=1, max_size=3, unique=True))
    ]
    some_spans = [span if span.key else replace(span, attributes=tuple(draw(st.lists(attributes, max_size=3)))) for span in some_spans]
    some_sites = []
    for _ in range(draw(st.integers(0, 4))):
        span, binary = draw(st.integers(0, len(some_spans) - 1)), draw(st.integers(0, len(some_binaries) - 1))
        some_sites.append(
            Site(
                span,
                binary,
                draw(st.sampled_from(get_args(plan.Role))),
                draw(words),
                draw(addresses),
                draw(addresses),
                draw(st.booleans()),
                draw(st.integers(0, (1 << 32) - 1)),
                draw(st.sampled_from(("activation", "body", "loose"))),
                tuple(draw(st.lists(an_argument(some_binaries[binary].machine), max_size=6))),
                draw(st.none() | st.builds(Traceparent, locations(some_binaries[binary].machine), st.booleans())),
                draw(locations(some_binaries[binary].machine)) if some_spans[span].key else None,
                draw(words),
                draw(st.sampled_from(get_args(plan.Cost))),
            )
        )
    return Plan(
        tuple(some_targets),
        tuple(some_binaries),
        tuple(some_spans),
        tuple(some_sites),
        tuple(draw(st.lists(st.builds(Refusal, words, words, words), max_size=2))),
        tuple(draw(st.lists(words, max_size=2))),
        draw(st.builds(Lease, words, words, seconds)),
        draw(exports),
        Limits(draw(st.integers(0, (1 << 31) - 1)), 1 << draw(st.integers(12, 30)), 1 << draw(st.integers(12, 30))),
        draw(words),
        max_buckets=draw(st.integers(2, 1024)),
    )


@settings(deadline=None)
@given(plans())
def test_any_plan_crosses_as_json_and_can_be_attached(made: Plan) -> None:
    """What comes out of the JSON equals what went in, and every site of it has a row."""
    crossed = Plan.from_dict(json.loads(json.dumps(made.to_dict())))
    assert crossed == made
    assert all(len(site_row(crossed, site, layout_of(crossed.spans), 1)) == SITE_BYTES for site in crossed.sites)


def at(told: dict[str, Any], path: str) -> tuple[Any, Any]:
    """The container and the last step of a dotted path."""
    *way, last = (int(step) if step.isdigit() else step for step in path.split("."))
    here: Any = told
    for step in way:
        here = here[step]
    return here, last


def changed(path: str, value: Any) -> dict[str, Any]:
    """BASE as JSON with one value replaced."""
    told: dict[str, Any] = json.loads(json.dumps(BASE.to_dict()))
    here, last = at(told, path)
    here[last] = value
    return told


def refused(told: Any) -> str:
    with pytest.raises(UsageError) as caught:
        Plan.from_dict(told)
    return str(caught.value)


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


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("targets", {}, "plan.targets: a list is wanted"),
        ("targets.0", [], "plan.targets[0]: an object is wanted"),
        ("targets.0.name", 7, "plan.targets[0].name: 7 is no str"),
        ("targets.0.scope", "cgroup", "plan.targets[0].scope: 'cgroup' is none of pid, tree, binary"),
        ("targets.0.scope", [], "plan.targets[0].scope: [] is none of"),
        ("targets.0.pids", [True], "plan.targets[0].pids[0]: True is no int"),
        ("targets.0.pids", ["7"], "plan.targets[0].pids[0]: '7' is no int"),
        ("targets.0.sample", "1", "plan.targets[0].sample: '1' is no float"),
        ("targets.0.sample", True, "plan.targets[0].sample: True is no float"),
        ("targets.0.resource", [], "plan.targets[0].resource: an object is wanted"),
        ("targets.0.resource", {"a": 1.5}, "plan.targets[0].resource.a: 1.5 does not fit"),
        ("spans.0.error", "x", "plan.spans[0].error: 'x' does not fit"),
        ("spans.0.attributes.0.string", 1, "plan.spans[0].attributes[0].string: 1 is no bool"),
        ("sites.0.uretprobe", None, "plan.sites[0].uretprobe: None is no bool"),
        ("sites.0.file_offset", 1.0, "plan.sites[0].file_offset: 1.0 is no int"),
        ("sites.0.role", None, "plan.sites[0].role: None is none of"),
        ("sites.0.colour", 1, "plan.sites[0]: unknown 'colour'"),
        ("more", 1, "plan: unknown 'more'"),
        ("export.otlp", {"endpoint": 1}, "plan.export.otlp: {'endpoint': 1} does not fit"),
    ],
)
def test_wrong_types_and_unknown_keys_are_refused_by_their_place(path: str, value: Any, message: str) -> None:
    """The message has the path to the fault, and the value."""
    assert message in refused(changed(path, value))


@pytest.mark.parametrize("key", ["targets", "binaries", "spans", "sites"])
def test_a_missing_key_is_refused(key: str) -> None:
    """What has no default must be there; the message names it."""
    told = BASE.to_dict()
    del told[key]
    assert key in refused(told)


def test_a_huge_value_makes_no_huge_message() -> None:
    """What a hostile planner sends does not fill the operator's terminal, nor does a number that Python will not print raise."""
    for value in ("x" * 100_000, 10**5000, list(range(100_000))):
        assert len(refused(changed("targets.0.scope", value))) < 500
        assert len(refused(changed("sites.0.uretprobe", value))) < 500
        assert len(refused(changed("spans.0.error", value))) < 500


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**400) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(anything)
def test_any_json_is_a_plan_or_a_usage_error(told: Any) -> None:
    """Nothing that JSON can say makes the supervisor fail in another way."""
    try:
        Plan.from_dict(told)
    except UsageError:
        return


def paths(told: Any, here: str = "") -> list[str]:
    """Every place in a JSON value."""
    steps = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    return (
        [here, *(path for step, inner in steps for path in paths(inner, f"{here}.{step}".lstrip(".")))]
        if here
        else [path for step, inner in steps for path in paths(inner, str(step))]
    )


PLACES = [path for path in paths(json.loads(json.dumps(BASE.to_dict()))) if "service.name" not in path and "process.pid" not in path]


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(PLACES), anything)
def test_any_json_in_any_place_is_refused_or_can_be_attached(path: str, value: Any) -> None:
    """A plan with one value replaced by anything is refused as a whole, or every row of it can be made."""
    try:
        made = Plan.from_dict(changed(path, value))
    except UsageError:
        return
    for site in made.sites:
        assert len(site_row(made, site, layout_of(made.spans), 1)) == SITE_BYTES
