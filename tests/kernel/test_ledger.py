"""The account of every call: it closes at the end, and whenever it is read while calls go on."""

from __future__ import annotations

import threading

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.program import Workload
from tests.kernel.session import wait_until

pytestmark = pytest.mark.kernel


def test_point_counts_hits(workload: Workload, otel_usdt: Commands) -> None:
    """A USDT probe alone has no duration: it is counted, and makes no span."""
    session = otel_usdt.count(workload.pid, "usdt:workload:around__start", "usdt:workload:within__start")
    workload.run("pairs 101")
    told = session.stop()
    assert {probe: count["entries"] for probe, count in told.counts.items()} == {
        "workload:around__start": 101,
        "workload:within__start": 202,
    }
    assert told.spans == []


def test_call_that_is_open_at_the_end_is_in_flight(workload: Workload, otel_usdt: Commands) -> None:
    """Calls that began under the probe and have not returned at the detach are in flight, and no spans."""
    session = otel_usdt.trace(workload.pid, "func:run_hang", "func:sleeper", "func:leaf")
    workload.run("leaf 3")
    workload.hang()
    told = session.stop()
    check_closed(told.ledger)
    assert {name: nonzero(c) for name, c in told.ledger.items()} == {
        "run_hang": {"entries": 1, "in_flight": 1},
        "sleeper": {"entries": 1, "in_flight": 1},
        "leaf": all_exported(3),
    }


def test_call_that_was_open_before_the_attach_is_not_counted(workload: Workload, otel_usdt: Commands) -> None:
    """A return without its entry is nobody's call: the probe's counts stay those of what began under it."""
    workload.send("sleeper 1 2500000")
    session = otel_usdt.trace(workload.pid, "func:sleeper", "func:run_sleeper")
    workload.answer()
    workload.run("sleeper 5 0")
    told = session.stop()
    check_closed(told.ledger)
    assert {name: nonzero(c) for name, c in told.ledger.items()} == {"sleeper": all_exported(5), "run_sleeper": all_exported(1)}


def test_pair_that_was_begun_before_the_attach_is_orphaned(workload: Workload, otel_usdt: Commands) -> None:
    """An end of a pair whose start was not probed (another probe's ends here) is counted orphaned and pairs with nothing."""
    session = otel_usdt.spans(
        workload.pid, {"name": "never begun", "enter": "usdt:workload:within__start", "return": "usdt:workload:split__commit"}
    )
    workload.run("split 53")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["never begun"]) == {"returns": 35, "orphaned": 35}


def test_ledger_closes_at_every_look(workload: Workload, otel_usdt: Commands) -> None:
    """Read twenty times a second while five threads call as fast as they can: each time every call is in exactly one count."""
    session = otel_usdt.attached("trace", "-p", workload.pid, "--json", "--interval", "50ms", "func:call_leaf", "func:leaf")
    rounds = 0

    def looked_while_they_called() -> bool:
        nonlocal rounds
        workload.run("threads 5 20011")
        rounds += 1
        return len([look for look in session.ledgers() if look["call_leaf"]["in_flight"]]) >= 5

    wait_until(looked_while_they_called, "five looks into the midst of calls")
    told = session.stop()
    for ledger in told.ledgers:
        check_closed(ledger)
    entries = [ledger["leaf"]["entries"] for ledger in told.ledgers]
    assert entries == sorted(entries)
    assert entries[-1] == rounds * 5 * 20011


def test_attach_and_detach_under_load_invent_no_losses(workload: Workload, otel_usdt: Commands) -> None:
    """Both ends of a call are heard or neither, however long attaching and detaching take: no call seems unwound, and only the call
    that each of the five threads was in at the attach is orphaned, the one at the detach in flight."""
    workload.send("threads 5 1000000000000")  # they are at it before the attach, and after the detach
    session = otel_usdt.trace(workload.pid, "func:leaf")
    wait_until(lambda: len(session.out) > 500, "500 spans")
    told = session.stop()
    check_closed(told.ledger)
    leaf = told.ledger["leaf"]
    assert leaf["unwound"] == 0
    assert leaf["orphaned"] <= 5
    assert leaf["in_flight"] <= 5


def test_ledger_closes_while_calls_go_on(workload: Workload, otel_usdt: Commands) -> None:
    """Short sessions end in the midst of the calls of five threads: whenever that is, each entry is in one count."""
    for _ in range(3):
        session = otel_usdt.trace(workload.pid, "func:run_threads", "func:call_leaf", "func:leaf")
        driver = threading.Thread(target=workload.run, args=("threads 5 20011",))
        driver.start()
        try:
            wait_until(lambda session=session: len(session.out) > 500, "500 spans")  # type: ignore[misc]
            told = session.stop()
        finally:
            driver.join()
        check_closed(told.ledger)
        leaf = told.ledger["leaf"]
        assert leaf["exported"] == len(told.named("leaf"))
        assert leaf["calls"] <= 5 * 20011


def test_every_exported_span_is_on_a_line(workload: Workload, otel_usdt: Commands) -> None:
    """What the ledger calls exported has been written: as many lines as exported spans, for each probe."""
    session = otel_usdt.trace(workload.pid, "func:outer", "func:middle", "func:leaf")
    workload.run("outer 5003")
    told = session.stop()
    check_closed(told.ledger)
    assert {name: c["exported"] for name, c in told.ledger.items()} == {name: len(told.named(name)) for name in told.ledger}
    assert {name: c["entries"] for name, c in told.ledger.items()} == {"outer": 5003, "middle": 5003, "leaf": 20012}


def test_target_that_ends_has_its_spans_flushed(workload: Workload, otel_usdt: Commands) -> None:
    """When the one process in scope exits in the midst of the session, the session ends by itself with all it saw."""
    session = otel_usdt.trace(workload.pid, "func:outer", "func:leaf")
    workload.run("outer 7")
    workload.send("vanish")
    told = session.wait()
    assert told.exit_code == 0
    check_closed(told.ledger)
    assert nonzero(told.ledger["outer"]) == all_exported(8)
    assert nonzero(told.ledger["leaf"]) == all_exported(32)


def test_target_that_is_killed_has_its_open_call_unwound(workload: Workload, otel_usdt: Commands) -> None:
    """SIGKILL in the midst of a call: the call is unwound, what was before it is exported, the session ends by itself."""
    session = otel_usdt.trace(workload.pid, "func:sleeper", "func:leaf")
    workload.run("leaf 11")
    workload.hang()
    workload.kill()
    told = session.wait()
    assert told.exit_code == 0
    check_closed(told.ledger)
    assert nonzero(told.ledger["sleeper"]) == {"entries": 1, "unwound": 1}
    assert nonzero(told.ledger["leaf"]) == all_exported(11)
