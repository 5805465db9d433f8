"""Which entry belongs to which return, and to which parent: exact numbers on a program of known truth."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.program import Workload

pytestmark = pytest.mark.kernel

Span = dict[str, Any]


def parent_names(spans: list[Span]) -> Counter[tuple[str, str]]:
    """(span's name, its parent's name or "") -> how often. A parent that never came is a fault."""
    by_id = {span["span_id"]: span for span in spans}
    return Counter((span["name"], by_id[span["parent_span_id"]]["name"] if span["parent_span_id"] else "") for span in spans)


def check_tree(spans: list[Span]) -> None:
    """Ids are unique, and each child lies in its parent: in its trace, its thread and its time."""
    by_id = {span["span_id"]: span for span in spans}
    assert len(by_id) == len(spans)
    for span in spans:
        assert span["start_time_unix_nano"] <= span["end_time_unix_nano"]
        if span["parent_span_id"]:
            parent = by_id[span["parent_span_id"]]
            assert span["trace_id"] == parent["trace_id"]
            assert (span["pid"], span["tid"]) == (parent["pid"], parent["tid"])
            assert parent["start_time_unix_nano"] <= span["start_time_unix_nano"]
            assert span["end_time_unix_nano"] <= parent["end_time_unix_nano"]
    roots = [span for span in spans if not span["parent_span_id"]]
    assert len({span["trace_id"] for span in roots}) == len(roots)


def depths(spans: list[Span]) -> Counter[int]:
    """Length of the way to the root -> how many spans. A root is at 1."""
    by_id = {span["span_id"]: span for span in spans}

    def depth(span: Span) -> int:
        steps = 1
        while span["parent_span_id"]:
            span, steps = by_id[span["parent_span_id"]], steps + 1
        return steps

    return Counter(depth(span) for span in spans)


def test_nested_calls_make_a_tree(workload: Workload, otel_usdt: Commands) -> None:
    """Each of 101 outer calls is a trace of its own with a middle and four leaves in their places."""
    session = otel_usdt.trace(workload.pid, "func:outer", "func:middle", "func:leaf")
    workload.run("outer 101")
    told = session.stop()
    assert told.exit_code == 0
    check_closed(told.ledger)
    check_tree(told.spans)
    assert parent_names(told.spans) == {("outer", ""): 101, ("middle", "outer"): 101, ("leaf", "middle"): 303, ("leaf", "outer"): 101}
    assert {name: nonzero(c) for name, c in told.ledger.items()} == {
        "outer": all_exported(101),
        "middle": all_exported(101),
        "leaf": all_exported(404),
    }
    assert {(span["pid"], span["tid"]) for span in told.spans} == {(workload.pid, workload.pid)}


def test_a_call_that_nobody_probes_is_left_out_of_the_tree(workload: Workload, otel_usdt: Commands) -> None:
    """With middle unprobed its three leaves hang from outer."""
    session = otel_usdt.trace(workload.pid, "func:outer", "func:leaf")
    workload.run("outer 13")
    told = session.stop()
    assert parent_names(told.spans) == {("outer", ""): 13, ("leaf", "outer"): 52}


def test_recursion_keeps_every_level(workload: Workload, otel_usdt: Commands) -> None:
    """Seven recursions of 61 levels are seven chains of 61 spans."""
    session = otel_usdt.trace(workload.pid, "func:descend")
    workload.run("descend 7 61")
    told = session.stop()
    check_closed(told.ledger)
    check_tree(told.spans)
    assert depths(told.spans) == dict.fromkeys(range(1, 62), 7)
    assert nonzero(told.ledger["descend"]) == all_exported(7 * 61)


def test_recursion_past_the_kernels_limit_is_counted_too_deep(workload: Workload, otel_usdt: Commands) -> None:
    """Of 70 levels the kernel reports 64 returns; the other six entries are too_deep, and the chain of 64 is right."""
    session = otel_usdt.trace(workload.pid, "func:descend")
    workload.run("descend 11 70")
    told = session.stop()
    check_closed(told.ledger)
    check_tree(told.spans)
    assert depths(told.spans) == dict.fromkeys(range(1, 65), 11)
    assert nonzero(told.ledger["descend"]) == {**all_exported(11 * 64), "entries": 11 * 70, "too_deep": 11 * 6}


def test_longjmp_out_of_calls_is_counted_unwound(workload: Workload, otel_usdt: Commands) -> None:
    """13 times 11 calls that longjmp leaves: none becomes a span, and the leaf called next is a root."""
    session = otel_usdt.trace(workload.pid, "func:thrower", "func:leaf")
    workload.run("thrower 13 11")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["thrower"]) == {"entries": 143, "unwound": 143}
    assert nonzero(told.ledger["leaf"]) == all_exported(1)
    assert parent_names(told.spans) == {("leaf", ""): 1}


def test_longjmp_leaves_the_calls_around_it_alone(workload: Workload, otel_usdt: Commands) -> None:
    """The command that longjmps is a probed call itself: it stays open, and the next leaf is its child."""
    session = otel_usdt.trace(workload.pid, "func:run_thrower", "func:thrower", "func:leaf")
    workload.run("thrower 5 61")
    workload.run("thrower 2 3")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["thrower"]) == {"entries": 311, "unwound": 311}
    assert parent_names(told.spans) == {("run_thrower", ""): 2, ("leaf", "run_thrower"): 2}


def test_tail_calls_are_children_of_the_function_that_jumped(workload: Workload, otel_usdt: Commands) -> None:
    """Three functions that share one return each have it: leaf in middle in outer."""
    session = otel_usdt.trace(workload.pid, "func:tail_outer", "func:tail_middle", "func:tail_leaf")
    workload.run("tail 17")
    told = session.stop()
    check_closed(told.ledger)
    check_tree(told.spans)
    assert parent_names(told.spans) == {("tail_outer", ""): 17, ("tail_middle", "tail_outer"): 17, ("tail_leaf", "tail_middle"): 17}
    assert all(nonzero(c) == all_exported(17) for c in told.ledger.values())


def test_a_tail_call_through_an_unprobed_function_keeps_its_parent(workload: Workload, otel_usdt: Commands) -> None:
    """With the middle of the chain unprobed the last is the first one's child."""
    session = otel_usdt.trace(workload.pid, "func:tail_outer", "func:tail_leaf")
    workload.run("tail 19")
    told = session.stop()
    check_closed(told.ledger)
    assert parent_names(told.spans) == {("tail_outer", ""): 19, ("tail_leaf", "tail_outer"): 19}


def test_mutual_tail_calls_pile_up_on_one_stack_frame(workload: Workload, otel_usdt: Commands) -> None:
    """ping and pong hop 12 times without using the stack: 13 spans, each the child of the one before."""
    session = otel_usdt.trace(workload.pid, "func:ping", "func:pong")
    workload.run("pingpong 7 12")
    told = session.stop()
    check_closed(told.ledger)
    check_tree(told.spans)
    assert depths(told.spans) == dict.fromkeys(range(1, 14), 7)
    assert parent_names(told.spans) == {("ping", ""): 7, ("pong", "ping"): 42, ("ping", "pong"): 42}


def test_signal_on_another_stack_is_a_child_of_what_it_interrupts(workload: Workload, otel_usdt: Commands) -> None:
    """The handler's leaf runs on a stack below the thread's own: the interrupted call lives on."""
    session = otel_usdt.trace(workload.pid, "func:interrupted", "func:leaf")
    workload.run("signals 23")
    told = session.stop()
    check_closed(told.ledger)
    check_tree(told.spans)
    assert parent_names(told.spans) == {("interrupted", ""): 23, ("leaf", "interrupted"): 23}


def test_threads_do_not_mix(workload: Workload, otel_usdt: Commands) -> None:
    """Seven threads at once with 1009 calls each: 7063 roots, 1009 of each thread."""
    session = otel_usdt.trace(workload.pid, "func:leaf")
    workload.run("threads 7 1009")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"]) == all_exported(7063)
    assert parent_names(told.spans) == {("leaf", ""): 7063}
    assert sorted(Counter(span["tid"] for span in told.spans).values()) == [1009] * 7


@pytest.mark.parametrize("how", [0, 1], ids=["system call", "pthread_exit"])
def test_thread_that_ends_in_a_call_leaves_it_unwound(workload: Workload, otel_usdt: Commands, how: int) -> None:
    """The calls of 29 threads that end inside are unwound, not in flight."""
    session = otel_usdt.trace(workload.pid, "func:last_call")
    workload.run(f"thread_exits 29 {how}")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["last_call"]) == {"entries": 29, "unwound": 29}
    assert told.spans == []


def test_killed_process_leaves_its_call_unwound(workload: Workload, otel_usdt: Commands) -> None:
    """31 children that SIGKILL ends in a call: 31 unwound."""
    session = otel_usdt.trace(workload.pid, "func:doomed", scope="tree")
    workload.run("child_killed 31")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["doomed"]) == {"entries": 31, "unwound": 31}


def test_return_in_a_forked_child_is_orphaned(workload: Workload, otel_usdt: Commands) -> None:
    """A function that forks returns twice: in the parent as a call, in the child without an entry."""
    session = otel_usdt.trace(workload.pid, "func:forker", scope="tree")
    workload.run("fork_inside 37")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["forker"]) == {**all_exported(37), "returns": 74, "orphaned": 37}


def test_usdt_pairs_nest(workload: Workload, otel_usdt: Commands) -> None:
    """Two within in each around, a function's call in each within: pairs and functions share one tree."""
    around = "usdt:workload:around__start ~~ usdt:workload:around__done"
    within = "usdt:workload:within__start ~~ usdt:workload:within__done"
    session = otel_usdt.spans(
        workload.pid,
        {"name": "around", "enter": around.split(" ~~ ")[0], "return": around.split(" ~~ ")[1]},
        {"name": "within", "enter": within.split(" ~~ ")[0], "return": within.split(" ~~ ")[1]},
        {"name": "leaf", "function": "leaf"},
    )
    workload.run("pairs 41")
    told = session.stop()
    check_closed(told.ledger)
    check_tree(told.spans)
    assert parent_names(told.spans) == {("around", ""): 41, ("within", "around"): 82, ("leaf", "within"): 82}


def test_pair_started_twice_abandons_the_first(workload: Workload, otel_usdt: Commands) -> None:
    """Of two starts and one end in one body the last start is the call, the first is unwound."""
    session = otel_usdt.trace(workload.pid, "usdt:workload:again__start ~~ usdt:workload:again__done")
    workload.run("abandoned 43")
    told = session.stop()
    check_closed(told.ledger)
    (counts,) = told.ledger.values()
    assert nonzero(counts) == {**all_exported(43), "entries": 86, "unwound": 43}


def test_crossing_pairs_both_end(workload: Workload, otel_usdt: Commands) -> None:
    """left starts, right starts, left ends, right ends: right is left's child, and outlives it."""
    session = otel_usdt.spans(
        workload.pid,
        {"name": "left", "enter": "usdt:workload:left__start", "return": "usdt:workload:left__done"},
        {"name": "right", "enter": "usdt:workload:right__start", "return": "usdt:workload:right__done"},
    )
    workload.run("crossing 47")
    told = session.stop()
    check_closed(told.ledger)
    assert parent_names(told.spans) == {("left", ""): 47, ("right", "left"): 47}
    by_id = {span["span_id"]: span for span in told.spans}
    for right in told.named("right"):
        left = by_id[right["parent_span_id"]]
        assert left["start_time_unix_nano"] < right["start_time_unix_nano"] < left["end_time_unix_nano"] < right["end_time_unix_nano"]


def test_pair_over_two_functions_has_two_ways_to_end(workload: Workload, otel_usdt: Commands) -> None:
    """A transaction begins in one function and ends by commit or abort in others; what runs between is its child."""
    session = otel_usdt.spans(
        workload.pid,
        {
            "name": "transaction",
            "enter": "usdt:workload:split__start",
            "return": ["usdt:workload:split__commit", "usdt:workload:split__abort"],
        },
        {"name": "leaf", "function": "leaf"},
    )
    told_by_workload = workload.run("split 53")
    told = session.stop()
    assert told_by_workload["aborted"] == 18
    check_closed(told.ledger)
    check_tree(told.spans)
    assert parent_names(told.spans) == {("transaction", ""): 53, ("leaf", "transaction"): 53}


def test_children_that_were_written_seconds_before_their_parent_lie_inside_it(workload: Workload, otel_usdt: Commands) -> None:
    """A call of 2.6 s with 131 calls in it: its children are out long before it returns, and still lie in its time."""
    session = otel_usdt.trace(workload.pid, "func:run_mixed", "func:sleeper")
    workload.run("mixed 131 1")
    told = session.stop()
    check_closed(told.ledger)
    check_tree(told.spans)
    assert parent_names(told.spans) == {("run_mixed", ""): 1, ("sleeper", "run_mixed"): 131}


def test_durations_lie_between_the_programs_own(workload: Workload, otel_usdt: Commands) -> None:
    """Each duration is at least what the function measured inside itself and at most what its caller measured around it.

    Our clock is read after the entry's trap and before the return's work, and the caller's measure holds both traps: so
    the bounds are exact, whatever a trap costs.
    """
    session = otel_usdt.trace(workload.pid, "func:timed")
    truth = workload.run("timed 211 1000")
    told = session.stop()
    spans = sorted(told.named("timed"), key=lambda span: int(span["start_time_unix_nano"]))
    took = [span["end_time_unix_nano"] - span["start_time_unix_nano"] for span in spans]
    assert len(took) == 211
    for inside, ours, around in zip(truth["inside_ns"], took, truth["around_ns"], strict=True):
        assert inside <= ours <= around
