"""What the supervisor answers a pipeline that asks who processes are: the pipeline may be hostile, and so may the targets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import pytest

from otel_usdt import session
from otel_usdt.channel import Channel, pair
from otel_usdt.layout import layout_of
from otel_usdt.plan import Attribute, Limits, Span
from otel_usdt.probes.scope import Watch
from otel_usdt.session import ANSWER_BYTES, MOST_ASKED, answer


class Everyone:
    """A scope that covers every process but those named."""

    def __init__(self, *outside: int) -> None:
        self._outside = outside

    def covers(self, pid: int) -> bool:
        assert 0 < pid < 1 << 32, "the kernel's map has keys of 32 bits"
        return pid not in self._outside

    def service_of(self, pid: int) -> str | None:
        return None


def answered(asked: Any, scope: Everyone) -> list[dict[str, Any]]:
    """The answers to one question, read as they come."""
    pipe, theirs = pair()
    other = Channel(theirs)
    with ThreadPoolExecutor() as pool:
        found = pool.submit(read_all, other)
        try:
            answer({"who": asked}, cast(Watch, scope), pipe)
        finally:
            pipe.close()  # else the reader never ends
        return found.result()


def read_all(end: Channel) -> list[dict[str, Any]]:
    found = []
    while (received := end.receive()) is not None:
        found.append(received[0]["resources"])
    end.close()
    return found


@contextmanager
def service(**environment: str) -> Iterator[int]:
    """A process with that environment; its pid."""
    with subprocess.Popen(["/bin/sleep", "60"], env=environment) as process:
        yield process.pid
        process.kill()


def test_only_processes_in_scope_are_told() -> None:
    """One's resource is told; another's is null, as is that of a pid that nobody has."""
    with service(OTEL_SERVICE_NAME="orders") as pid:
        [told] = answered([pid, os.getpid(), (1 << 22) - 1], Everyone(os.getpid()))
    assert told[str(pid)]["service.name"] == "orders"
    assert told[str(pid)]["process.pid"] == pid
    assert (told[str(os.getpid())], told[str((1 << 22) - 1)]) == (None, None)


@pytest.mark.parametrize(
    "asked", [None, 7, "12", {"1": 2}, [], [True, "7", 1.5, None, [1]], [0, -1, 1 << 22, 1 << 32, 1 << 64, -(1 << 70)], list(range(9999))]
)
def test_no_question_raises(asked: Any) -> None:
    """What makes no sense is passed over or answered by null, and a question of thousands is cut."""
    told = [pid for one in answered(asked, Everyone(*range(1, 10_000))) for pid in one]
    numbers = [str(pid) for pid in asked if type(pid) is int] if isinstance(asked, list) else []
    assert told == numbers[:MOST_ASKED]


def test_large_resources_are_told_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What targets put into their resources may be more than a message holds: everyone's still arrives."""
    monkeypatch.setattr(session, "resource_of", lambda pid, _: {"service.name": "x" * 3_000, "process.pid": pid})
    told = answered(list(range(1, 101)), Everyone())
    assert len(told) > 3
    assert {pid: one["process.pid"] for message in told for pid, one in message.items()} == {str(pid): pid for pid in range(1, 101)}


def test_a_resource_that_no_message_holds_is_told_as_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one process goes out under its target's name; the others are not held up by it."""
    monkeypatch.setattr(session, "resource_of", lambda pid, _: {"service.name": "\u20ac" * (ANSWER_BYTES // 6 if pid == 2 else 1)})
    [told] = answered([1, 2, 3], Everyone())
    assert told == {"1": {"service.name": "\u20ac"}, "2": None, "3": {"service.name": "\u20ac"}}


def test_a_pipeline_that_never_reads_does_not_hold_up_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions without end: the answers that find no room are left out, and SIGTERM would still be seen."""
    monkeypatch.setattr(session, "resource_of", lambda pid, _: {"service.name": "x" * 3_000})
    monkeypatch.setattr(session, "ANSWER_PATIENCE_S", 0.01)
    pipe, theirs = pair()
    for _ in range(50):
        answer({"who": list(range(1, 101))}, cast(Watch, Everyone()), pipe)
    theirs.close()
    answer({"who": [1]}, cast(Watch, Everyone()), pipe)
    pipe.close()


@pytest.mark.parametrize("key", ["dimensions", "error"])
def test_a_likely_configuration_with_series_needs_no_second_load(key: str) -> None:
    """What programs are verified with while the planner works has room for the series of a span probe, where the words ask for some."""
    span = Span("query", 0, "spans", "function", "func:query", dimensions=(Attribute("lock", 0),))
    wanted = session.map_sizes(layout_of([span]), Limits(), 2, 2)
    likely, plain = (session.likely_sizes(config, 2) for config in (f"{key}: ...", "function: query"))
    assert not [name for name, size in wanted.items() if size > likely[name]]
    assert plain["series"] < wanted["series"]
