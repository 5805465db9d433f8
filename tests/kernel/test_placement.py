"""Probes that sit behind a function's entry see what a probe on the entry sees: counts, arguments, results, with other tracers about."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from otel_usdt.plan import Plan
from tests.kernel.bpftrace import bpftrace
from tests.kernel.commands import Commands
from tests.kernel.generated import FUNCTIONS, VARIANTS, Call, Generated, build, programs
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.program import Workload, running
from tests.kernel.session import Told
from tests.unit.planning.configured import of, planned

pytestmark = pytest.mark.kernel

Span = dict[str, Any]


def moved(plan: Plan) -> dict[str, int]:
    """Of a plan's span probes those whose place it has moved to an emulated instruction: name -> bytes into the function."""
    return {
        plan.spans[site.span].name: site.address - site.entry
        for site in plan.sites
        if not site.uretprobe and site.address > site.entry and site.cost == "emulated"
    }


def check_in_place(workload: Workload, places: dict[str, int]) -> None:
    """The breakpoint is where the plan says, and nowhere else in the function."""
    for name, offset in places.items():
        assert workload.function(name)[offset] == 0xCC
        assert workload.breakpoints(name) == 1


def both_ends(path: Path, name: str) -> str:
    """A bpftrace program: entry and return of one function, at its first instruction."""
    return f"uprobe:{path}:{name} {{ @{name}_entries = count(); }} uretprobe:{path}:{name} {{ @{name}_returns = count(); }}"


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside bpftrace"])
def test_recursion_and_tail_calls_pair_at_a_moved_place(workload: Workload, otel_usdt: Commands, beside: bool) -> None:
    """11 x 7 nested calls and 13 chains of three tail calls, each call the child of the one before; another tracer's return probes at the
    entries, in front of ours, change nothing."""
    names = ("descend", "first_hop", "next_hop", "last_hop")
    places = moved(planned(of(workload.path, *({"function": name} for name in names))))
    assert places.keys() >= {"descend", "first_hop", "next_hop"}

    def look() -> Told:
        session = otel_usdt.trace(workload.pid, *(f"func:{name}" for name in names))
        if not beside:
            check_in_place(workload, places)
        workload.run("descend 11 7")
        workload.run("hops 13")
        return session.stop()

    if beside:
        with bpftrace("\n".join(both_ends(workload.path, name) for name in names), workload) as peer:
            told, seen = look(), peer.stop()
        assert {name: (seen[f"{name}_entries"], seen[f"{name}_returns"]) for name in names} == {
            "descend": (77, 77), "first_hop": (13, 13), "next_hop": (13, 13), "last_hop": (13, 13),
        }  # fmt: skip
    else:
        told = look()
    check_closed(told.ledger)
    by_id = {span["span_id"]: span for span in told.spans}
    parents = Counter((span["name"], by_id[span["parent_span_id"]]["name"] if span["parent_span_id"] else "") for span in told.spans)
    assert parents == {
        ("descend", ""): 11, ("descend", "descend"): 66,
        ("first_hop", ""): 13, ("next_hop", "first_hop"): 13, ("last_hop", "next_hop"): 13,
    }  # fmt: skip
    assert {name: nonzero(counts) for name, counts in told.ledger.items()} == {
        "descend": all_exported(77), **{name: all_exported(13) for name in names[1:]}
    }  # fmt: skip


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside bpftrace"])
def test_calls_that_longjmp_leaves_are_unwound_at_a_moved_place(workload: Workload, otel_usdt: Commands, beside: bool) -> None:
    """Of 301 calls on one stack frame two of three are left by longjmp, up to two in a row. Another tracer's return probe makes each of
    them find a trampoline where its return address was: it is not taken for a tail call."""
    places = moved(planned(of(workload.path, {"function": "escaper"})))
    assert places.keys() == {"escaper"}

    def look() -> Told:
        session = otel_usdt.trace(workload.pid, "func:escaper", "func:leaf")
        if not beside:
            check_in_place(workload, places)
        workload.run("escaper 301")
        return session.stop()

    if beside:
        with bpftrace(both_ends(workload.path, "escaper"), workload):
            told = look()
    else:
        told = look()
    check_closed(told.ledger)
    assert nonzero(told.ledger["escaper"]) == {**all_exported(101), "entries": 301, "unwound": 200}
    assert {span["parent_span_id"] for span in told.spans} == {""}
    assert len(told.named("leaf")) == 1


def reads(k: int) -> list[int]:
    """Which arguments are read of function `k`: none, or some."""
    return [[], [1], [], [2], [1, 2, 3], [3], []][k % 7]


def generated_spans() -> list[Span]:
    """A span probe for each function in each variant."""
    return [
        {
            "name": f"f{k}_{variant}",
            "function": f"f{k}_{variant}",
            "attributes": {**{f"a{i}": {"arg": i} for i in reads(k)}, "r": {"return": True}},
        }
        for variant in VARIANTS
        for k in range(FUNCTIONS)
    ]


def truth_of(generated: Generated, k: int) -> Counter[tuple[int, ...]]:
    """The function's calls: the arguments that are read, and the result."""
    seen: Counter[tuple[int, ...]] = Counter()
    call: Call
    for call, times in generated.truth[k].items():
        seen[*(call[i - 1] for i in reads(k)), call[3]] += times
    return seen


@settings(max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(program=programs)
def test_generated_functions_have_every_call_argument_and_result(
    program: list[str], tmp_path_factory: pytest.TempPathFactory, otel_usdt: Commands
) -> None:
    """14 functions with loops, switches, jumps back, recursion and tail calls, by two compilers at four levels: each call as it was."""
    generated = build(tmp_path_factory.mktemp("generated"), program)
    spans = generated_spans()
    plan = planned(of(generated.path, *spans))
    places = moved(plan)
    # A loop that begins with the function's first instruction enters once a round, wherever the probe is; the plan says so.
    rounds = {note.partition(": ")[0].removeprefix("func:") for note in plan.notes}
    assert len(places.keys() - rounds) >= 10, "too few to prove anything"
    with running(generated.path) as workload:
        session = otel_usdt.spans(workload.pid, *spans)
        check_in_place(workload, places)
        workload.run("go")
        told = session.stop()
    check_closed(told.ledger)
    for variant in VARIANTS:
        for k in range(FUNCTIONS):
            name = f"f{k}_{variant}"
            if name in rounds:
                continue
            wanted = truth_of(generated, k)
            where = f"{name} (moved by {places.get(name)}): {program[k]}"
            assert nonzero(told.ledger[name]) == all_exported(wanted.total()), where
            keys = [*(f"a{i}" for i in reads(k)), "r"]
            assert Counter(tuple(span["attributes"][key] for key in keys) for span in told.named(name)) == wanted, where
