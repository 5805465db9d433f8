"""Who is traced: one process, a tree of processes, or all that run a binary; and who is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_usdt.probes import attach
from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.program import Workload

pytestmark = pytest.mark.kernel

Start = Callable[..., Workload]


def test_scope_pid_does_not_touch_a_twin(workload: Workload, start: Start, otel_usdt: Commands) -> None:
    """Another process of the same program is neither traced nor trapped: its code has no breakpoint."""
    twin = start()
    session = otel_usdt.trace(workload.pid, "func:leaf")
    assert workload.breakpoints("leaf") == 1
    assert twin.breakpoints("leaf") == 0
    workload.run("leaf 13")
    twin.run("leaf 31")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"]) == all_exported(13)
    assert {span["pid"] for span in told.spans} == {workload.pid}


def test_scope_pid_leaves_children_out(workload: Workload, otel_usdt: Commands) -> None:
    """Children of the process are not in its scope, before or after they exec."""
    session = otel_usdt.trace(workload.pid, "func:leaf")
    workload.run("forks 3 7")
    workload.run("spawn 3 7")
    workload.run("leaf 5")
    told = session.stop()
    check_closed(told.ledger)
    counts = nonzero(told.ledger["leaf"])
    counts.pop("filtered", None)  # a forked child inherits the breakpoints, and the kernel may let it pay for them
    assert counts == all_exported(5)


def test_scope_tree_has_children_from_their_first_call(workload: Workload, otel_usdt: Commands) -> None:
    """Each of 17 children that fork after the attach calls leaf 7 times at once: 119 calls, 7 of each."""
    session = otel_usdt.trace(workload.pid, "func:leaf", scope="tree")
    assert workload.run("forks 17 7")["well"]
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"]) == all_exported(119)
    by_process = Counter(span["pid"] for span in told.spans)
    assert sorted(by_process.values()) == [7] * 17
    assert workload.pid not in by_process


def test_scope_tree_follows_vfork_and_exec(workload: Workload, otel_usdt: Commands) -> None:
    """Children that vfork and exec make are in scope from the new program's first call."""
    session = otel_usdt.trace(workload.pid, "func:leaf", scope="tree")
    assert workload.run("spawn 11 13")["well"]
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"]) == all_exported(143)
    assert sorted(Counter(span["pid"] for span in told.spans).values()) == [13] * 11


def test_scope_tree_follows_grandchildren(workload: Workload, otel_usdt: Commands) -> None:
    """Five generations below the process are in its tree."""
    session = otel_usdt.trace(workload.pid, "func:leaf", scope="tree")
    assert workload.run("generations 5 19")["well"]
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"]) == all_exported(95)
    assert sorted(Counter(span["pid"] for span in told.spans).values()) == [19] * 5


def test_scope_tree_counts_a_twin_as_filtered(workload: Workload, start: Start, otel_usdt: Commands) -> None:
    """A tree's breakpoints are in every process of the file; hits outside the tree are `filtered` and in no other count."""
    twin = start()
    session = otel_usdt.trace(workload.pid, "func:leaf", scope="tree")
    workload.run("leaf 23")
    twin.run("leaf 29")
    twin.run("forks 1 3")
    told = session.stop()
    check_closed(told.ledger)
    hits = 1 if attach.way().session else 2  # the entry, and where the kernel cannot let it decide, the return
    assert nonzero(told.ledger["leaf"]) == {**all_exported(23), "filtered": hits * (29 + 3)}
    assert {span["pid"] for span in told.spans} == {workload.pid}


def test_scope_tree_has_children_that_were_there_before(workload: Workload, otel_usdt: Commands) -> None:
    """Five children that run already when their parent is attached are in the tree, and so are the children that they fork."""
    workload.run("nursery 5 31")
    session = otel_usdt.trace(workload.pid, "func:leaf", scope="tree")
    assert workload.run("wake 5")["well"]
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"]) == all_exported(310)
    assert sorted(Counter(span["pid"] for span in told.spans).values()) == [31] * 10


def test_scope_binary_has_processes_that_start_later(program: Path, start: Start, otel_usdt: Commands) -> None:
    """With no process there at the attach, two that start later are traced from their first call."""
    session = otel_usdt.attached("trace", "--binary", program, "--scope", "binary", "--json", "func:leaf")
    first, second = start(), start()
    first.run("leaf 37")
    second.run("leaf 41")
    first.run("spawn 2 3")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"]) == all_exported(84)
    by_process = Counter(span["pid"] for span in told.spans)
    assert (by_process[first.pid], by_process[second.pid], len(by_process)) == (37, 41, 4)


def test_semaphores_of_later_children_are_raised(workload: Workload, start: Start, otel_usdt: Commands) -> None:
    """A program that asks whether anybody listens finds a listener, in every process of the file, and none once detached."""
    session = otel_usdt.trace(workload.pid, "usdt:workload:guarded__start ~~ usdt:workload:guarded__done", scope="tree")
    later = start()
    assert workload.run("guarded 43")["heard"] == 43
    assert later.run("semaphores") == {"command": "semaphores", "start": 1, "done": 1}
    told = session.stop()
    check_closed(told.ledger)
    (counts,) = told.ledger.values()
    assert nonzero(counts) == all_exported(43)
    assert workload.run("semaphores") == {"command": "semaphores", "start": 0, "done": 0}
    assert workload.run("guarded 3")["heard"] == 0


def test_two_sessions_do_not_disturb_each_other(workload: Workload, otel_usdt: Commands) -> None:
    """Two commands on one process count the same calls; the end of one leaves the other on."""
    first, second = otel_usdt.trace(workload.pid, "func:outer"), otel_usdt.trace(workload.pid, "func:outer", "func:leaf")
    workload.run("outer 47")
    assert nonzero(first.stop().ledger["outer"]) == all_exported(47)
    workload.run("outer 53")
    told = second.stop()
    check_closed(told.ledger)
    assert {name: nonzero(c) for name, c in told.ledger.items()} == {"outer": all_exported(100), "leaf": all_exported(400)}
