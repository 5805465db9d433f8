"""Attributes and errors: where they are read, as what type, into which slot."""

from __future__ import annotations

from typing import Any

import pytest

from otel_usdt.elf.binary import open_binary
from otel_usdt.elf.locations import Location
from otel_usdt.errors import ProbeNotFound
from otel_usdt.plan import Plan
from tests.unit.planning.configured import fault, of, planned, sites, span
from tests.unit.planning.sources import Programs


def arguments(plan: Plan, name: str, role: str = "enter") -> list[Any]:
    return [(one.slot, one.string, one.max, one.location) for site in sites(plan, name) if site.role == role for one in site.arguments]


def test_usdt_arguments_are_read_as_the_probe_says(programs: Programs) -> None:
    """Size and sign come from the note; a string is a pointer, with a slot of its own kind."""
    read = {"n": {"arg": 1}, "small": {"arg": 2}, "sql": {"arg": 3, "as": "string", "max": 99}}
    pair = {"name": "q", "enter": "usdt:app:query__start", "return": "usdt:app:query__done", "attributes": read}
    plan = planned(of(programs.c, pair, capture={"text": True}))
    n, small, sql = arguments(plan, "q")
    assert (n[0], n[1], n[3].size, n[3].signed) == (0, False, 4, True)
    assert (small[0], small[3].size, small[3].signed) == (1, 1, False)
    assert (sql[:3], sql[3].size, sql[3].signed) == ((0, True, 99), 8, False)
    assert [(a.key, a.slot, a.string) for a in span(plan, "q").attributes] == [("n", 0, False), ("small", 1, False), ("sql", 0, True)]
    assert arguments(plan, "q", "return") == []


def test_each_site_of_a_probe_has_its_own_locations(programs: Programs) -> None:
    """query__done has two sites; the argument is read where each says, at the end only."""
    read = {"rows": {"arg": 1, "at": "return"}}
    plan = planned(of(programs.c, {"name": "q", "enter": "usdt:app:query__start", "return": "usdt:app:query__done", "attributes": read}))
    with open_binary(str(programs.c)) as binary:
        noted = {note.address: note.arguments[0] for note in binary.notes() if note.name == "query__done"}
    assert {site.address: site.arguments[0].location for site in plan.sites if site.role == "return"} == noted
    assert arguments(plan, "q") == []


def test_captured_text_is_off_until_it_is_asked_for(programs: Programs) -> None:
    """Without capture.text a string attribute is neither read nor sent, and a note says so."""
    read = {"sql": {"arg": 3, "as": "string"}, "n": {"arg": 1}}
    plan = planned(of(programs.c, {"name": "q", "enter": "usdt:app:query__start", "return": "usdt:app:query__done", "attributes": read}))
    assert [attribute.key for attribute in span(plan, "q").attributes] == ["n"]
    assert [one[1] for one in arguments(plan, "q")] == [False]
    assert "text is not captured; capture: {text: true} turns it on" in plan.notes[0]


ABI = [*(Location("register", 8, True, name) for name in ("di", "si", "dx", "cx", "r8", "r9"))]
ABI += [Location("memory", 8, True, "sp", offset=8), Location("memory", 8, True, "sp", offset=16)]


@pytest.mark.parametrize("number", range(1, 9))
def test_a_functions_arguments_are_where_the_calling_convention_puts_them(programs: Programs, number: int) -> None:
    """Six in registers, then the stack behind the return address."""
    plan = planned(of(programs.c, {"function": "nine", "attributes": {"x": {"arg": number}}}))
    assert arguments(plan, "nine") == [(0, False, 256, ABI[number - 1])]


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("sign", ["", "u"])
def test_an_arguments_type_is_the_configurations(programs: Programs, bits: int, sign: str) -> None:
    """`as: uint8` and the others decide size and sign, of arguments and of the return value."""
    as_ = f"{sign}int{bits}"
    plan = planned(of(programs.c, {"function": "work", "attributes": {"a": {"arg": 2, "as": as_}, "r": {"return": True, "as": as_}}}))
    assert arguments(plan, "work") == [(0, False, 256, Location("register", bits // 8, not sign, "si"))]
    assert arguments(plan, "work", "return") == [(1, False, 256, Location("register", bits // 8, not sign, "ax"))]


def test_an_argument_that_a_probe_does_not_have_is_refused(programs: Programs) -> None:
    """The message says how many there are."""
    pair = {"name": "q", "enter": "usdt:app:query__start", "return": "usdt:app:query__done"}
    error = fault(ProbeNotFound, of(programs.c, pair | {"attributes": {"x": {"arg": 4}}}))
    assert str(error) == "usdt:app:query__start has 3 arguments; 4 is wanted"


def test_an_error_by_return_value_has_a_slot_of_its_own(programs: Programs) -> None:
    """It is read as C's int unless said otherwise, beside an attribute that reads the same value."""
    spans = [{"function": "work", "error": {"return": "< 0"}, "attributes": {"r": {"return": True}}}]
    spans += [{"function": "nine", "error": {"return": ">= 0x10", "as": "int64", "type": "EIO"}}]
    plan = planned(of(programs.c, *spans))
    error = span(plan, "work").error
    assert error is not None
    assert (error.slot, error.operator, error.value, error.type) == (1, "<", 0, "")
    assert [one[0] for one in arguments(plan, "work", "return")] == [0, 1]
    assert [one[3].size for one in arguments(plan, "work", "return")] == [8, 4]
    other = span(plan, "nine").error
    assert other is not None
    assert (other.slot, other.operator, other.value, other.type) == (0, ">=", 16, "EIO")
    assert [one[3].size for one in arguments(plan, "nine", "return")] == [8]
