"""Any plan that a planner may make, for hypothesis to draw."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from hypothesis import strategies as st

from otel_usdt import plan
from otel_usdt.elf.locations import Location
from otel_usdt.ladder import BOUNDS_NS
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
from otel_usdt.probes.rows import REGISTERS

REGISTER_NAMES = {machine: tuple(names) for machine, names in REGISTERS.items()}
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
