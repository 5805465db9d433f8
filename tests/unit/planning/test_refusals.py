"""What could harm a target is refused, with the reason and the remedy; the rest goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otel_usdt.errors import ProbeRefused
from tests.unit.planning.configured import fault, of, planned, sites
from tests.unit.planning.sources import Programs


def test_cxx_functions_have_probes_on_their_return_instructions(programs: Programs) -> None:
    """No return probe of the kernel, which an exception would meet: each ret and tail jump has a site; only rets have the value."""
    plan = planned(of(programs.cxx, {"function": "tail", "attributes": {"r": {"return": True}}}))
    assert not any(site.uretprobe for site in plan.sites)
    ends = [site for site in sites(plan, "tail") if site.role == "return"]
    assert {site.instruction.split()[0] for site in ends} == {"ret", "jmp"}
    assert all(bool(site.arguments) == site.instruction.startswith("ret") for site in ends)
    assert {site.binding for site in plan.sites} == {"activation"}


def test_a_ret_with_a_prefix_has_the_value_too(programs: Programs) -> None:
    """Compilers wrote rep before ret for old processors: it returns all the same."""
    plan = planned(of(programs.cxx, {"function": "padded", "attributes": {"r": {"return": True}}}))
    [end] = [site for site in sites(plan, "padded") if site.role == "return"]
    assert end.instruction.endswith(" ret")
    assert end.arguments


def test_a_cxx_function_whose_returns_cannot_be_told_is_refused_and_counted(programs: Programs) -> None:
    """The others of the plan are attached; the refusal has the reason and the remedy; counting it is safe."""
    plan = planned(of(programs.cxx, {"function": "jump"}, {"function": "risky"}))
    assert {made.name for made in plan.spans} == {"risky"}
    [refusal] = plan.refused
    assert refusal.probe == "func:jump"
    assert "C++ exception" in refusal.reason
    assert "cannot all be told" in refusal.reason
    assert "mode: count" in refusal.remedy
    assert len(planned(of(programs.cxx, {"function": "jump", "mode": "count"})).sites) == 1


def test_when_all_is_refused_the_plan_is_an_error(programs: Programs) -> None:
    """Nothing would be attached: exit 5, with the reason and the remedy."""
    error = fault(ProbeRefused, of(programs.cxx, {"function": "jump"}))
    assert str(error).startswith("func:jump: ")
    assert "mode: count" in error.hint


def test_go_functions_are_refused_for_spans_and_counted(go_program: Path) -> None:
    """A return probe would crash Go; the remedy is to count, which works, without a note of the stack check's jump back."""
    error = fault(ProbeRefused, of(go_program, {"function": "main.work"}))
    assert "Go moves its stacks" in str(error)
    assert "mode: count" in error.hint
    plan = planned(of(go_program, {"function": "main.work", "mode": "count"}))
    assert [(site.role, site.uretprobe) for site in plan.sites] == [("point", False)]
    assert plan.notes == ()


@pytest.mark.parametrize(
    ("how", "probe"),
    [
        ({"probe": "usdt:app:nop5"}, "usdt:app:nop5"),
        ({"name": "p", "enter": "usdt:app:nop5", "return": "usdt:app:inside"}, "usdt:app:nop5 ~~ usdt:app:inside"),
    ],
)
def test_a_nop5_within_a_function_is_refused(programs: Programs, how: dict[str, Any], probe: str) -> None:
    """It would corrupt the red zone on 6.18: refused alone and as an end of a pair, and the others go on."""
    plan = planned(of(programs.c, how, {"function": "work"}))
    [refusal] = plan.refused
    assert refusal.probe == probe
    assert "5-byte nop" in refusal.reason
    assert "func:" in refusal.remedy
    assert [made.name for made in plan.spans] == ["work"]
    assert "5-byte nop" in str(fault(ProbeRefused, of(programs.c, how)))


def test_a_place_that_cannot_be_probed_is_refused(programs: Programs) -> None:
    """An int3 that is there already."""
    for how in ({"function": "breakpoint"}, {"probe": "func:breakpoint"}, {"function": "breakpoint", "mode": "count"}):
        plan = planned(of(programs.c, how, {"function": "work"}))
        assert [(one.probe, "int3" in one.reason) for one in plan.refused] == [("func:breakpoint", True)]
