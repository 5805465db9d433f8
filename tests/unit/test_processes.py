"""Batches wait until it is known whose spans they are, and never for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from otel_usdt import processes
from otel_usdt.channel import Channel
from otel_usdt.plan import Plan, Target
from otel_usdt.processes import ASK_AT_ONCE, PATIENCE_S, Processes
from tests.samples import batch, call

Resource = dict[str, str | int]
ORDERS: Resource = {"service.name": "orders", "process.pid": 7, "host.name": "h"}


class Supervisor:
    """The other side: remembers what it was asked, and answers when the test says."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.gone = False

    def send(self, message: dict[str, Any]) -> bool:
        if self.gone:
            return False
        [(key, pids)] = message.items()
        assert key == "who"
        self.asked.append(pids)
        return True


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(processes, "time", made)
    return made


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor()


def plan(*targets: Target) -> Plan:
    return Plan(targets or (Target("orders", "tree", (7,), ORDERS),), (), (), ())


Make = Callable[..., Processes]


@pytest.fixture
def make(supervisor: Supervisor, time: Time) -> Make:
    return lambda *targets: Processes(plan(*targets), cast(Channel, supervisor))


def ready(held: Processes) -> list[dict[int, Any]]:
    """The resources of every batch that comes out now."""
    return [dict(resources) for _, resources in held.ready()]


def test_a_process_of_the_plan_is_known_without_asking(make: Make, supervisor: Supervisor) -> None:
    """Its batch comes out at once, under the resource that the planner found."""
    held = make()
    held.hold(batch([call(tgid=7), call(tgid=7, tid=9)]))
    assert ready(held) == [{7: ORDERS}]
    assert (supervisor.asked, ready(held)) == ([], [])


def test_a_new_process_is_asked_for_and_its_batch_waits(make: Make, supervisor: Supervisor, time: Time) -> None:
    """One question however many batches wait; the answer lets all of them go, in order, with every process in them."""
    held = make()
    held.hold(batch([call(tgid=8), call(tgid=7), call(tgid=8, probe=1)]))
    held.hold(batch([call(tgid=8, probe=2)]))
    assert supervisor.asked == [[8]]
    time.now += PATIENCE_S / 2
    assert ready(held) == []
    assert held.waiting() == {0: 2, 1: 1, 2: 1}
    backend: Resource = {"service.name": "orders", "process.pid": 8}
    held.learn({"8": backend})
    out = list(held.ready())
    assert [dict(resources) for _, resources in out] == [{7: ORDERS, 8: backend}, {8: backend}]
    assert [one.calls["probe"].tolist() for one, _ in out] == [[0, 0, 1], [2]]
    assert held.waiting() == {}
    held.hold(batch([call(tgid=8)]))
    assert (ready(held), supervisor.asked) == ([{8: backend}], [[8]])


def test_batches_of_known_processes_overtake_those_that_wait(make: Make) -> None:
    """One unknown process holds up only the batches that it is in."""
    held = make()
    held.hold(batch([call(tgid=8)]))
    held.hold(batch([call(tgid=7)]))
    assert ready(held) == [{7: ORDERS}]
    assert held.waiting() == {0: 1}


def test_patience_ends(make: Make, time: Time) -> None:
    """A busy supervisor does not hold spans for ever: they go out under their target's name, with their own pid."""
    held = make()
    held.hold(batch([call(tgid=8)]))
    time.now += PATIENCE_S + 0.01
    [resources] = ready(held)
    assert resources[8]["service.name"] == "orders"
    assert resources[8]["process.pid"] == 8
    assert resources[8]["service.instance.id"].endswith(":8")
    assert resources[8]["host.name"] == "h"


def test_a_late_answer_still_counts_for_what_comes_after(make: Make, time: Time) -> None:
    """What was guessed when patience ended is replaced by what is known."""
    held = make()
    held.hold(batch([call(tgid=8)]))
    time.now += PATIENCE_S + 0.01
    assert len(ready(held)) == 1
    held.learn({"8": {"service.name": "billing"}})
    held.hold(batch([call(tgid=8)]))
    assert ready(held) == [{8: {"service.name": "billing"}}]


def test_a_process_that_is_gone_goes_by_its_target(make: Make) -> None:
    """The supervisor could not look at it any more: null is an answer too, and ends the wait."""
    held = make()
    held.hold(batch([call(tgid=8)]))
    held.learn({"8": None})
    assert ready(held)[0][8]["service.name"] == "orders"


def test_of_several_targets_none_is_guessed(make: Make) -> None:
    """A dead process of a session with two targets has no name rather than a wrong one."""
    held = make(Target("a", "tree", (7,), ORDERS), Target("b", "pid", (9,), {"service.name": "b", "process.pid": 9}))
    held.hold(batch([call(tgid=8), call(tgid=7), call(tgid=9)]))
    held.learn({"8": None})
    [resources] = ready(held)
    assert resources[8]["service.name"] == "unknown_service"
    assert (resources[7]["service.name"], resources[9]["service.name"]) == ("orders", "b")


def test_only_the_process_that_a_resource_is_of_has_it_from_the_start(make: Make, supervisor: Supervisor) -> None:
    """A target of several processes has the first one's resource; the others are asked for."""
    held = make(Target("a", "pid", (7, 8), ORDERS))
    held.hold(batch([call(tgid=7), call(tgid=8)]))
    assert supervisor.asked == [[8]]


def test_without_a_supervisor_nothing_waits(make: Make, supervisor: Supervisor) -> None:
    """When it is gone nobody will answer: spans go out at once."""
    supervisor.gone = True
    held = make()
    held.hold(batch([call(tgid=8)]))
    assert ready(held)[0][8]["process.pid"] == 8


def test_at_the_end_nothing_waits(make: Make) -> None:
    """What was asked for is given up, and every held batch comes out."""
    held = make()
    for tgid in (8, 9, 10):
        held.hold(batch([call(tgid=tgid)]))
    assert ready(held) == []
    held.stop_waiting()
    assert [list(resources) for resources in ready(held)] == [[8], [9], [10]]
    assert held.waiting() == {}


def test_many_new_processes_are_asked_for_in_several_questions(make: Make, supervisor: Supervisor) -> None:
    """No question is larger than the supervisor answers, and each process is in one."""
    pids = list(range(1000, 1000 + 2 * ASK_AT_ONCE + 1))
    make().hold(batch([call(tgid=pid) for pid in pids]))
    assert [len(some) for some in supervisor.asked] == [ASK_AT_ONCE, ASK_AT_ONCE, 1]
    assert sorted(pid for some in supervisor.asked for pid in some) == pids


@pytest.mark.parametrize("tgid", [0, (1 << 22) + 1, (1 << 32) - 1])
def test_a_pid_that_no_process_has_makes_no_fault(make: Make, time: Time, tgid: int) -> None:
    """A hostile record's process is nobody: its spans go out like those of one that is gone."""
    held = make()
    held.hold(batch([call(tgid=tgid)]))
    time.now += PATIENCE_S + 0.01
    assert ready(held)[0][tgid]["process.pid"] == tgid


def test_memory_is_bounded_by_processes_not_by_time(make: Make, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unseen process is forgotten; when it is seen again it is asked for again, and one in use stays known."""
    monkeypatch.setattr(processes, "REMEMBERED", 10)
    held = make()
    for pid in range(100, 200):
        held.hold(batch([call(tgid=7), call(tgid=pid)]))
        held.learn({str(pid): {"process.pid": pid}})
        assert len(ready(held)) == 1
    assert len(held._known) == 10
    supervisor.asked.clear()
    for pid in (7, 199, 100):
        held.hold(batch([call(tgid=pid)]))
    assert supervisor.asked == [[100]]


def test_nothing_that_is_held_is_forgotten(make: Make, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with more processes than are remembered still comes out with every one of them."""
    monkeypatch.setattr(processes, "REMEMBERED", 3)
    held = make()
    pids = list(range(100, 120))
    held.hold(batch([call(tgid=pid) for pid in pids]))
    held.learn({str(pid): {"process.pid": pid} for pid in pids[:10]})
    assert ready(held) == []
    held.learn({str(pid): {"process.pid": pid} for pid in pids[10:]})
    assert ready(held) == [{pid: {"process.pid": pid} for pid in pids}]
    assert len(held._known) == 3


def test_memory_is_bounded_while_there_is_always_a_batch_that_waits(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that forks for every request never has a moment when all its processes are known."""
    monkeypatch.setattr(processes, "REMEMBERED", 10)
    held = make()
    held.hold(batch([call(tgid=99)]))
    for pid in range(100, 200):
        held.hold(batch([call(tgid=pid)]))
        held.learn({str(pid - 1): {"process.pid": pid - 1}})
        assert ready(held) == [{pid - 1: {"process.pid": pid - 1}}]
        assert held.waiting() == {0: 1}
    assert len(held._known) == 10
