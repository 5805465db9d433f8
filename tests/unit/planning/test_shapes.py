"""What a span probe becomes: sites, roles, bindings, names."""

from __future__ import annotations

import json

import pytest

from otel_usdt.children import Planner
from otel_usdt.elf.binary import open_binary
from otel_usdt.errors import UsageError
from otel_usdt.ladder import BOUNDS_NS
from otel_usdt.plan import Attribute, Plan, Span
from otel_usdt.planner import DISASSEMBLED
from otel_usdt.request import request_for
from tests.unit.planning.configured import address, fault, of, planned, sites, span
from tests.unit.planning.sources import Programs


def test_a_function_has_its_entry_and_the_kernels_return_probe_at_one_place(programs: Programs) -> None:
    """Both are bound to the activation, in the right binary, at the offset of the symbol's first instruction."""
    plan = planned(of(programs.c, {"function": "work"}))
    entry, leave = sites(plan, "work")
    where = address(programs.c, "work")
    with open_binary(str(programs.c)) as binary:
        offset = binary.file_offset(where)
    assert (entry.role, entry.uretprobe, leave.role, leave.uretprobe) == ("enter", False, "return", True)
    for site in (entry, leave):
        assert (site.address, site.file_offset, site.binding, site.probe) == (where, offset, "activation", "func:work")
        assert site.instruction
    assert span(plan, "work") == Span("work", 0, "spans", "function", "func:work", "work")
    [binary_of] = plan.binaries
    status = programs.c.stat()
    assert (binary_of.path, binary_of.device, binary_of.inode, binary_of.machine) == (
        str(programs.c), status.st_dev, status.st_ino, "x86_64",
    )  # fmt: skip
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_counting_a_function_takes_its_entry_alone(programs: Programs) -> None:
    """mode: count makes points: no return probe is paid for."""
    plan = planned(of(programs.c, {"function": "work", "mode": "count"}))
    assert [(site.role, site.uretprobe) for site in sites(plan, "work")] == [("point", False)]
    assert (span(plan, "work").kind, span(plan, "work").mode) == ("point", "count")


def test_one_probe_alone_is_a_point(programs: Programs) -> None:
    """Of several sites of one USDT probe each is a site of the one span probe."""
    plan = planned(of(programs.c, {"probe": "usdt:app:query__done"}))
    assert [site.role for site in sites(plan, "app:query__done")] == ["point", "point"]
    assert (span(plan, "app:query__done").kind, span(plan, "app:query__done").mode) == ("point", "count")


def test_a_pair_within_one_function_is_bound_to_its_body(programs: Programs) -> None:
    """Both ends lie in query(): the stack tells when it is gone, and code.function.name is known."""
    plan = planned(of(programs.c, {"enter": "usdt:app:query__start", "return": "usdt:app:query__done"}))
    [made] = plan.spans
    assert (made.kind, made.function, made.name) == ("pair", "query", "usdt:app:query__start ~~ usdt:app:query__done")
    assert [(site.role, site.binding) for site in plan.sites] == [("enter", "body"), ("return", "body"), ("return", "body")]
    assert {site.instruction for site in plan.sites} == {"nop"}
    assert {site.cost for site in plan.sites} == {"emulated"}


def test_a_pair_in_two_functions_is_loose(programs: Programs) -> None:
    """Begun in one function and ended in another: paired last in, first out, under no function's name."""
    plan = planned(of(programs.c, {"name": "tx", "enter": "usdt:app:tx__begin", "return": "usdt:app:tx__commit"}))
    assert span(plan, "tx").function == ""
    assert {site.binding for site in plan.sites} == {"loose"}


def test_one_end_elsewhere_makes_the_whole_pair_loose(programs: Programs) -> None:
    """Alternatives: a call may begin in a function in which none ends."""
    both = ["usdt:app:query__start", "usdt:app:tx__begin"]
    plan = planned(of(programs.c, {"name": "q", "enter": both, "return": "usdt:app:query__done"}))
    assert {site.binding for site in plan.sites} == {"loose"}
    plan = planned(
        of(programs.c, {"name": "q", "enter": "usdt:app:query__start", "return": ["usdt:app:query__done", "usdt:app:tx__commit"]})
    )
    assert {site.binding for site in plan.sites} == {"body"}  # wherever one begins, it may end there
    assert len(plan.sites) == 4


def test_a_functions_entry_is_not_in_its_body(programs: Programs) -> None:
    """The stack pointer differs there, so a pair with such an end is loose."""
    plan = planned(of(programs.c, {"name": "q", "enter": "func:query", "return": "usdt:app:query__done"}))
    assert {site.binding for site in plan.sites} == {"loose"}


def test_an_address_is_probed_where_it_says(programs: Programs) -> None:
    """addr: pairs two places by hand; in one function they are in its body."""
    begin, end = address(programs.c, "leaf"), address(programs.c, "leaf") + 1
    plan = planned(of(programs.c, {"name": "a", "enter": f"addr:{begin:#x}", "return": f"addr:{end:#x}"}))
    assert [(site.address, site.instruction) for site in plan.sites] == [(begin, "nop"), (end, "ret")]
    assert span(plan, "a").function == "leaf"


def test_an_entry_that_is_a_loop_is_noted(programs: Programs) -> None:
    """A jump back to the entry makes one call several hits: the plan says so, and is made all the same."""
    for how in ({"function": "rounds"}, {"function": "rounds", "mode": "count"}, {"probe": "func:rounds"}):
        plan = planned(of(programs.c, how))
        [note] = plan.notes
        assert note.startswith("func:rounds: the jump at ")
        assert "one call enters more than once" in note
    assert planned(of(programs.c, {"function": "work"})).notes == ()


def test_buckets_are_the_span_probes_own_or_the_configurations(programs: Programs) -> None:
    """Its own, those for all, the default; none at all where histograms are exponential."""
    both = of(programs.c, {"function": "work", "histogram": {"buckets": ["1ms", "2ms"]}}, {"probe": "usdt:app:query__done"})
    assert span(planned(both), "work").bounds_ns == (1_000_000, 2_000_000)
    other = of(programs.c, {"function": "work"})
    assert span(planned(other, histogram={"buckets": [0.5, 1, "2s"]}), "work").bounds_ns == (500_000_000, 10**9, 2 * 10**9)
    assert span(planned(other), "work").bounds_ns == BOUNDS_NS
    plan = planned(other, histogram={"type": "exponential", "max_size": 20})
    assert (span(plan, "work").bounds_ns, plan.max_buckets) == (None, 20)


def test_a_string_that_is_a_dimension_has_a_slot_of_its_own(programs: Programs) -> None:
    """For its hash, beside the text that the span carries; a number shares the attribute's. Without captured text it is none."""
    attributes = {"n": {"arg": 2}, "text": {"arg": 1, "as": "string"}, "result": {"return": True}}
    probe = {"function": "work", "attributes": attributes, "histogram": {"dimensions": ["text", "result"], "max_series": 7}}
    plan = planned(of(programs.c, {**probe, "error": {"return": "< 0"}}, capture={"text": True}))
    work = span(plan, "work")
    assert (work.dimensions, work.max_series) == ((Attribute("text", 2, True), Attribute("result", 1)), 7)
    assert work.error is not None
    assert work.error.slot == 3
    entry, leave = sites(plan, "work")
    assert [(one.slot, one.string, one.word) for one in entry.arguments] == [(0, False, False), (0, True, False), (2, True, True)]
    assert [(one.slot, one.word) for one in leave.arguments] == [(1, False), (3, False)]
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert span(planned(of(programs.c, probe)), "work").dimensions == (Attribute("result", 1),)


def test_more_series_than_a_session_holds_are_refused(programs: Programs) -> None:
    """It says how many they are, and what to lower."""
    probes = [
        {"name": str(i), "function": "work", "attributes": {"n": {"arg": 1}}, "histogram": {"dimensions": ["n"], "max_series": 4096}}
        for i in range(17)
    ]
    told = fault(UsageError, of(programs.c, *probes))
    assert "69649 series of histograms: a session holds at most 65536" in str(told)
    assert "max_series" in told.hint


@pytest.mark.parametrize("options", [(), (DISASSEMBLED,)])
def test_only_a_plan_for_people_is_disassembled(programs: Programs, options: tuple[str, ...]) -> None:
    """A session's plan tells no instructions: the disassembler is a seventh of what its planner imports."""
    document = json.dumps({"targets": [of(programs.c, {"function": "work"})]})
    planner = Planner(*options)
    planner.ask(request_for(document, "test.yaml", "/"))
    plan = planner.plan()
    planner.dismiss()
    assert [site.instruction != "" for site in plan.sites] == [bool(options)] * 2
