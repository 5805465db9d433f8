"""A site of the plan becomes the bytes that the kernel side reads, field by field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from otel_usdt.elf.locations import Location
from otel_usdt.layout import layout_of
from otel_usdt.plan import Argument, Attribute, Binary, ErrorWhen, Key, Plan, Site, Span, Target, Traceparent
from otel_usdt.probes.rows import SITE_BYTES, WANTS, argument_row, dimensions_row, site_row, wanted
from tests.unit.layout import record_layout

SPAN = Span("query", 2, "spans", "function", "func:f", min_duration_ns=0x1122334455667788)
SITE = Site(1, 0, "enter", "func:f", 0x1139, 0x1139, binding="activation")
PLAN = Plan(
    targets=(
        Target("a", "pid", (1,), {}),
        Target("b", "binary", (), {}),
        Target("c", "tree", (7,), {}, sample=0.5),
    ),
    binaries=(Binary("/x", "x", "", 1, 2, "x86_64"), Binary("/y", "y", "", 1, 3, "aarch64")),
    spans=(Span("other", 0, "histogram", "pair", "p"), SPAN, Span("count", 1, "count", "point", "q")),
    sites=(SITE,),
)


LAYOUT = layout_of(PLAN.spans)


def read(row: bytes, struct: str = "site", at: int = 0) -> dict[str, int]:
    """The plain fields of a row, read where C has them."""
    fields = {name: where for name, where in record_layout().structs[struct].items() if where.kind != "V"}
    return {
        name: int.from_bytes(row[at + where.offset : at + where.offset + where.size], "little", signed=where.kind == "i")
        for name, where in fields.items()
    }


def arguments_of(row: bytes) -> list[dict[str, int]]:
    where = record_layout().structs["site"]["argument"]
    return [read(row, "argument", where.offset + i * where.element_size) for i in range(where.size // where.element_size)]


def outside_of(row: bytes, which: str = "traceparent") -> dict[str, int]:
    return read(row, "argument", record_layout().structs["site"][which].offset)


def test_every_field_of_a_site_is_in_its_place() -> None:
    """A known site has known values in the fields by their C names, and no argument is anything but zeros."""
    row = site_row(PLAN, SITE, replace(LAYOUT, spans=77), tgid=4321)
    assert len(row) == SITE_BYTES
    assert read(row) == {
        "probe": 1, "role": 1, "scope": 2, "binding": 2, "mode": 2, "tgid": 4321, "sp_bias": 0, "target": 1 << 2,
        "min_duration_ns": 0x1122334455667788, "sample_below": 0x80000000, "stride": 77, "reads": 0, "has_text": 0,
        "join": 15, "in_comment": 0, "keyed": 0, "rows": 3, "cells": 280, "ladder": 0, "apart": 0, "moved": 0,
        "words": 0, "before": 0,
    }  # fmt: skip
    assert all(set(argument.values()) == {0} for argument in (*arguments_of(row), outside_of(row), outside_of(row, "key")))


def test_a_moved_entry_tells_how_far_and_over_what() -> None:
    """Bytes from the function's first one, and the number that their code has."""
    row = read(site_row(PLAN, replace(SITE, address=0x1150, entry=0x1139, before=0xFEDCBA98), LAYOUT))
    assert (row["moved"], row["before"]) == (0x17, 0xFEDCBA98)


def test_where_a_traceparent_is_follows_the_arguments() -> None:
    """It is read like a string, and the row says whether in a comment; which traces may be joined is a bit each."""
    site = replace(SITE, traceparent=Traceparent(Location("register", 8, False, "si"), in_comment=True))
    targets = (*PLAN.targets[:2], replace(PLAN.targets[2], join=("argument", "obi")))
    row = site_row(replace(PLAN, targets=targets), site, LAYOUT)
    found = outside_of(row)
    assert (found["how"], found["size"], found["is_string"], found["reg"]) == (1, 8, 1, 104)
    assert (read(row)["join"], read(row)["in_comment"], read(row)["reads"]) == (5, 1, 0)


@pytest.mark.parametrize(("string", "keyed"), [(False, 1), (True, 2)])
def test_a_keyed_site_says_where_its_key_is(string: bool, keyed: int) -> None:
    """The last argument of the row, and whether it is a number or the address of a string."""
    spans = (PLAN.spans[0], replace(SPAN, key=Key(string)))
    row = site_row(replace(PLAN, spans=spans), replace(SITE, key=Location("register", 4, True, "di")), LAYOUT)
    found = outside_of(row, "key")
    assert (read(row)["keyed"], found["how"], found["size"], found["is_signed"], found["reg"]) == (keyed, 1, 4, 1, 112)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"role": "return"}, {"role": 2, "sp_bias": 0}),
        ({"role": "return", "uretprobe": True}, {"role": 2, "sp_bias": 8}),  # x86's ret has popped the return address
        ({"role": "return", "uretprobe": True, "binary": 1}, {"role": 2, "sp_bias": 0}),  # aarch64's pops nothing
        ({"role": "point", "binding": "loose", "span": 2}, {"role": 3, "binding": 0, "mode": 0, "scope": 0, "target": 2, "probe": 2}),
        ({"span": 0, "binding": "body"}, {"probe": 0, "mode": 1, "scope": 1, "target": 1, "binding": 1, "min_duration_ns": 0}),
    ],
)
def test_what_differs_between_sites_differs_in_their_rows(changes: dict[str, Any], expected: dict[str, int]) -> None:
    """Role, binding, mode, scope and the target's bit follow the site, its span probe and its target."""
    row = read(site_row(PLAN, replace(SITE, **changes), LAYOUT))
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize(("sample", "below"), [(0.0, 0), (1.0, 0xFFFFFFFF), (0.25, 0x40000000), (1e-12, 0)])
def test_the_share_of_traces_is_a_threshold_of_32_bits(sample: float, below: int) -> None:
    """0 records none, 1 all; the kernel compares a random u32 with it."""
    targets = (*PLAN.targets[:2], replace(PLAN.targets[2], sample=sample))
    assert read(site_row(replace(PLAN, targets=targets), SITE, LAYOUT))["sample_below"] == below


@pytest.mark.parametrize(
    ("argument", "machine", "expected"),
    [
        (
            Argument(Location("register", 4, True, "si"), 3),
            "x86_64",
            {"how": 1, "size": 4, "is_signed": 1, "is_string": 0, "slot": 3, "scale": 0, "max": 256, "reg": 104, "index": 0, "offset": 0},
        ),
        (
            Argument(Location("register", 1, False, "ax", byte=1), 0),
            "x86_64",
            {"how": 1, "size": 1, "is_signed": 0, "reg": 81, "scale": 0},
        ),
        (
            Argument(Location("memory", 8, False, "bp", "r15", 4, -0x1234567890), 1, True, 77),
            "x86_64",
            {"how": 2, "size": 8, "is_string": 1, "slot": 1, "scale": 4, "max": 77, "reg": 32, "index": 0, "offset": -0x1234567890},
        ),
        (Argument(Location("memory", 2, False, "sp", "bx", 8), 2), "x86_64", {"how": 2, "scale": 8, "reg": 152, "index": 40, "slot": 2}),
        (Argument(Location("memory", 8, True, "x29", scale=8), 0), "aarch64", {"how": 2, "reg": 232, "scale": 0, "index": 0}),
        (Argument(Location("constant", 8, True, offset=-(1 << 63)), 0), "x86_64", {"how": 3, "reg": 0, "offset": -(1 << 63)}),
    ],
)
def test_an_argument_is_in_its_place(argument: Argument, machine: str, expected: dict[str, int]) -> None:
    """Registers by their offsets (ah one byte further), an index only with its scale, offsets signed."""
    row = read(argument_row(argument, machine), "argument")
    assert {name: row[name] for name in expected} == expected


def test_all_arguments_follow_each_other() -> None:
    """Six fit, in the plan's order, and `reads` counts them; a span probe with a string attribute says so."""
    locations = [Location("constant", 8, True, offset=i) for i in range(10, 16)]
    site = replace(SITE, arguments=tuple(Argument(one, i % 4, i > 3) for i, one in enumerate(locations)))
    spans = (PLAN.spans[0], replace(SPAN, attributes=(Attribute("n", 0), Attribute("text", 1, True))))
    row = site_row(replace(PLAN, spans=spans), site, LAYOUT)
    assert [argument["offset"] for argument in arguments_of(row)] == list(range(10, 16))
    assert (read(row)["reads"], read(row)["has_text"]) == (6, 1)
    assert len(row) == SITE_BYTES


def test_golden_bytes() -> None:
    """The whole row of one site, so that no change goes unseen."""
    site = replace(SITE, role="return", uretprobe=True, arguments=(Argument(Location("register", 8, True, "ax"), 1),))
    golden = """
        01000000 02 02 02 02 09000000 08000000  0400000000000000 8877665544332211  00000080 03000000 01000000 00 0f 00 00
        03000000 1801 0000 0000 0000 00000000
        01 08 01 00 01 00 0001  5000 0000 00000000  0000000000000000
    """
    assert site_row(PLAN, site, LAYOUT, 9) == bytes.fromhex(golden).ljust(304, b"\0")


def test_a_row_that_is_switched_differs_in_its_role_alone() -> None:
    """Switching a site on or off rewrites its row while the kernel side reads it: no other byte may change."""
    rows = [site_row(PLAN, SITE, LAYOUT, 9, role=role) for role in (None, "off", "last")]
    assert [row[4] for row in rows] == [1, 0, 4]
    assert len({row[:4] + row[5:] for row in rows}) == 1


def test_a_program_is_asked_for_no_more_than_its_sites_want() -> None:
    """A point wants to be counted and no more; text, a traceparent and a key are wanted where they are read."""
    assert {f"WANT_{name.upper()}": bit for name, bit in WANTS.items()} == record_layout().enums["wanted"]
    assert wanted(PLAN, replace(SITE, role="point", span=2)) == 0
    assert wanted(PLAN, SITE) == WANTS["calls"]
    everything = replace(SPAN, attributes=(Attribute("text", 0, string=True),), dimensions=(Attribute("n", 0),), key=Key())
    with_text = replace(PLAN, spans=(everything,))
    joined = replace(SITE, span=0, traceparent=Traceparent(Location("register", 8, False, "di")))
    assert wanted(with_text, joined) == sum(WANTS.values())


APART = replace(
    SPAN,
    attributes=(Attribute("n", 0), Attribute("text", 1, True)),
    dimensions=(Attribute("n", 0), Attribute("text", 2, True)),
    error=ErrorWhen(3, ">=", -7),
    max_series=9,
)


def test_what_calls_are_told_apart_by_is_in_its_place() -> None:
    """Rows behind those of the span probes, slots as bits, and the failure: by value where its type has no name."""
    layout = layout_of([PLAN.spans[0], APART, replace(APART, dimensions=(), error=ErrorWhen(1, "<", 5, "lost"))])
    assert (layout.spans, layout.rows, layout.series) == (3, 14, (range(3, 3), range(3, 12), range(12, 14)))
    assert read(dimensions_row(APART, layout.series[1]), "dimensions") == {
        "first": 3, "room": 9, "used": 0, "slots": 0b101, "words": 0b100, "error_when": 5, "error_slot": 3, "error_by_value": 1,
        "unused": 0, "error_value": -7,
    }  # fmt: skip
    named = read(dimensions_row(replace(APART, error=ErrorWhen(1, "<", 5, "lost")), layout.series[2]), "dimensions")
    assert (named["first"], named["room"], named["error_when"], named["error_by_value"]) == (12, 2, 1, 0)


def test_strings_that_are_dimensions_follow_the_key() -> None:
    """They are read like a string, into a slot of a number; what else is read is counted without them."""
    text = Location("register", 8, False, "si")
    site = replace(
        SITE, arguments=(Argument(text, 1, True), Argument(text, 2, True, word=True), Argument(Location("constant", 8, True), 0))
    )
    plan = replace(PLAN, spans=(PLAN.spans[0], APART))
    row = site_row(plan, site, layout_of(plan.spans))
    word = outside_of(row, "word")
    assert (read(row)["apart"], read(row)["words"], read(row)["reads"], read(row)["has_text"]) == (1, 1, 2, 1)
    assert (word["how"], word["size"], word["slot"], word["reg"]) == (1, 8, 2, 104)
    assert len(row) == SITE_BYTES
