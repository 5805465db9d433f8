"""What names mean: globs, misses, collisions, and every fault at once."""

from __future__ import annotations

from pathlib import Path

from otel_usdt.errors import ProbeNotFound, UsageError
from otel_usdt.plan import MAX_SPANS
from tests.unit.planning.configured import fault, of, planned
from tests.unit.planning.sources import Programs


def test_a_glob_makes_a_span_probe_for_each_name(programs: Programs) -> None:
    """Every function that matches gets its own, by its own name; and so do USDT probes."""
    plan = planned(of(programs.c, {"function": "[bc]*mit"}, {"function": "b?gin"}, {"probe": "usdt:app:tx__*"}))
    assert {made.name for made in plan.spans} == {"commit", "begin", "app:tx__begin", "app:tx__commit"}


def test_a_glob_for_too_many_is_refused(programs: Programs) -> None:
    """The message has both numbers, the hint the way out."""
    error = fault(UsageError, of(programs.c, {"probe": "usdt:app:*"}), limits={"max_probes": 5})
    assert str(error) == "usdt:app:* stands for 6 probes, more than 5"
    assert "--max" in error.hint
    assert len(planned(of(programs.c, {"probe": "usdt:app:[qt]*"}), limits={"max_probes": 4}).spans) == 4


def test_a_pair_of_globs_needs_a_name(programs: Programs) -> None:
    """Its spans would be called by a pattern; with a name it is fine."""
    pair = {"enter": "usdt:app:tx__b*", "return": "usdt:app:tx__c*"}
    assert "needs a name" in str(fault(UsageError, of(programs.c, pair)))
    assert len(planned(of(programs.c, pair | {"name": "tx"})).sites) == 2


def test_a_missing_probe_leads_to_the_nearest_names(programs: Programs) -> None:
    """Functions and USDT probes alike."""
    assert "near: work" in str(fault(ProbeNotFound, of(programs.c, {"function": "works"})))
    error = fault(ProbeNotFound, of(programs.c, {"probe": "usdt:app:query_start"}))
    assert "has no USDT probe app:query_start; near: app:query__start" in str(error)
    assert "has no address 0xdead0000" in str(fault(ProbeNotFound, of(programs.c, {"probe": "addr:0xdead0000"})))
    assert "it has no USDT probes at all" in str(fault(ProbeNotFound, of(programs.cxx, {"probe": "usdt:app:x"})))


def test_a_stripped_program_says_that_it_is(programs: Programs) -> None:
    """Its functions have no names any more; its USDT probes are still there, bound loosely, for no function is known."""
    error = fault(ProbeNotFound, of(programs.stripped, {"function": "work"}))
    assert "it is stripped, so only exported functions have names" in str(error)
    assert "addr:" in error.hint
    plan = planned(of(programs.stripped, {"enter": "usdt:app:query__start", "return": "usdt:app:query__done"}))
    assert {site.binding for site in plan.sites} == {"loose"}


def test_two_span_probes_of_one_name_are_refused(programs: Programs) -> None:
    """Told apart by nothing, they could not have a ledger each; both probes are named."""
    error = fault(UsageError, of(programs.c, {"function": "work"}, {"name": "work", "function": "query"}))
    assert "two span probes are named 'work': func:work and func:query" in str(error)
    assert "two span probes are named 'x'" in str(
        fault(UsageError, of(programs.c, {"name": "x", "function": "[bc]o*mit"}), of(programs.c, {"name": "x", "function": "begin"}))
    )


def test_every_fault_is_told_at_once(programs: Programs) -> None:
    """Several missing probes of several targets are one error of the first's kind, with every hint."""
    error = fault(
        ProbeNotFound,
        of(programs.c, {"function": "nothere"}, {"probe": "usdt:app:*"}),
        of(Path("/no/such/file"), {"function": "x"}),
        limits={"max_probes": 2},
    )
    lines = str(error).splitlines()
    assert ["no function nothere" in lines[0], "6 probes" in lines[1], "/no/such/file: No such file" in lines[2]] == [True] * 3
    assert "limits.max_probes" in error.hint


def test_more_than_a_session_holds_is_told_with_both_numbers(programs: Programs) -> None:
    """One span probe too many, each of them sound."""
    spans = [{"name": f"{i}", "probe": "usdt:app:inside"} for i in range(MAX_SPANS + 1)]
    error = fault(UsageError, of(programs.c, *spans))
    assert f"{MAX_SPANS + 1} span probes at" in str(error)
    assert f"at most {MAX_SPANS}" in str(error)
    assert "several sessions" in error.hint
