"""Whole sessions whose pipeline is killed: another takes over, nothing is told twice, and what is lost is counted to the last span."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.processes import pipeline
from tests.kernel.program import Workload
from tests.kernel.session import Session, wait_until
from tests.pipeline.decoded import points
from tests.pipeline.receivers import accept, grpc_receiver

pytestmark = pytest.mark.kernel

LEAF = {"name": "leaf", "function": "leaf"}
TAKES_OVER = "the pipeline ended (SIGKILL); another takes over"
PIECE = 4096  # bytes of whole lines that a pipe takes at once: what a kill may leave uncounted


@pytest.fixture
def port() -> int:
    """One where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free: int = server.getsockname()[1]
        return free


def traced(otel_usdt: Commands, workload: Workload, port: int, *more: dict[str, Any], **export: Any) -> Session:
    """A session on leaf that exports to this port."""
    export = {"otlp": {"endpoint": f"http://127.0.0.1:{port}"}, "console": {"view": "all"}, **export}
    return otel_usdt.spans(workload.pid, LEAF, *more, export=export)


def kill(session: Session) -> None:
    """SIGKILL for the pipeline that there is now; the next one is awaited."""
    before = pipeline(session)
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: not before.alive() and others(session, before.pid), "another pipeline")


def others(session: Session, pid: int) -> bool:
    try:
        return pipeline(session).pid != pid
    except (ValueError, FileNotFoundError):  # none at the moment
        return False


def has_shown(session: Session, lines: int, what: str) -> bool:
    """On standard output, in so many lines or more."""
    return sum(what in line for line in list(session.out)) >= lines


def said(session: Session, what: str) -> int:
    """How often."""
    return "".join(list(session.err)).count(what)


def test_under_load_every_span_arrives_once_or_is_counted(workload: Workload, otel_usdt: Commands, stack: ExitStack) -> None:
    """Killed three times while spans stream: none arrives twice, and what the receiver has not got is dropped, to the last one.

    A kill between the receiver's answer and the note of it leaves spans that have arrived, and are counted as dropped: those under way.
    """
    port, received = stack.enter_context(grpc_receiver())
    session = traced(otel_usdt, workload, port, interval="200ms")
    for n in range(3):
        workload.send("leaf 20011")
        wait_until(lambda n=n: len(received.span_ids()) > 20011 * n + 100, "spans of this round")  # type: ignore[misc]
        kill(session)
        workload.answer()
    workload.run("leaf 101")
    told = session.stop()
    check_closed(told.ledger)
    counts, arrived = nonzero(told.ledger["leaf"]), received.span_ids()
    assert counts["calls"] == 3 * 20011 + 101
    assert counts["recorded"] == counts["exported"] + counts.get("dropped", 0)
    assert len(set(arrived)) == len(arrived)
    assert counts["exported"] <= len(arrived) <= counts["recorded"]
    assert (said(session, TAKES_OVER), told.exit_code) == (3, 0)
    recorded = points(received, "otel_usdt.calls.recorded")
    values = [point.own.as_int for point in sorted(recorded, key=lambda point: point.own.time_unix_nano)]
    assert values == sorted(values), "a counter went back"
    assert values[-1] == counts["recorded"]
    assert [point.own.as_int for point in points(received, "otel_usdt.pipeline.restarts")][-1] == 3
    assert len({(point.resource["service.instance.id"], point.own.start_time_unix_nano) for point in recorded}) == 1


def test_what_is_on_disk_is_lost_by_no_kill(workload: Workload, otel_usdt: Commands, stack: ExitStack, port: int, tmp_path: Path) -> None:
    """The receiver is away and the pipeline killed, again and again; when it comes it gets all, each once, and the ledger says exported."""
    session = traced(otel_usdt, workload, port, spool={"path": str(tmp_path / "spool")})

    def spooled() -> int:
        (status,) = otel_usdt.start("spool", "status", "--json", tmp_path / "spool").wait().lines
        return int(status["spans"].get("leaf", 0))

    for n in range(1, 3):
        workload.run("leaf 1009")
        wait_until(lambda n=n: spooled() == 1009 * n, "the spans on disk")  # type: ignore[misc]
        kill(session)
    _, received = stack.enter_context(grpc_receiver(port=port))
    workload.run("leaf 11")
    wait_until(lambda: len(received.span_ids()) == 2029, "all spans")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"]) == all_exported(2029)
    assert len(set(received.span_ids())) == 2029


def test_keyed_calls_that_waited_are_let_go(workload: Workload, otel_usdt: Commands) -> None:
    """Seven beginnings were in memory: expired, and their ends orphans; what begins later is paired as ever, and counted on."""
    job = {"name": "job", "enter": "func:put", "return": "func:got", "key": {"arg": 1}}
    session = otel_usdt.spans(workload.pid, LEAF, job)
    workload.run("same 3 3")
    workload.run("same 7 0")
    for n in range(1, 3):  # when the second is out, all of before the first has been counted, too
        workload.run("leaf 1")
        wait_until(partial(has_shown, session, n, '"leaf"'), "the span behind them in the ring")
    kill(session)
    workload.run("same 0 5")
    wait_until(lambda: said(session, "lost: job: expired 7 (+7)") == 1, "the loss of seven")
    workload.run("backlog 11")
    told = session.stop()
    check_closed(told.ledger)
    lost = {"entries": 21, "returns": 19, "expired": 7, "orphaned": 5}
    assert nonzero(told.ledger["job"]) == {**all_exported(14), **lost}
    assert len(told.named("job")) == told.histograms["job"]["count"] == 14


def test_lines_on_the_console_go_on_whole(workload: Workload, otel_usdt: Commands) -> None:
    """Every line is JSON and no span is told twice; but for a piece at the kill, the ledger knows which were told."""
    session = otel_usdt.trace(workload.pid, "func:leaf")
    for n in range(2):
        workload.send("leaf 10007")
        wait_until(lambda n=n: len(session.out) > 10007 * n + 50, "lines")  # type: ignore[misc]
        kill(session)
        workload.answer()
    told = session.stop()
    check_closed(told.ledger)
    ids = [span["span_id"] for span in told.spans]
    counts = nonzero(next(iter(told.ledger.values())))
    assert len(set(ids)) == len(ids)
    assert counts["recorded"] == counts["exported"] + counts.get("dropped", 0) == 2 * 10007
    shortest = min(len(line) for line in session.out)
    assert 0 <= len(ids) - counts["exported"] <= 2 * PIECE // shortest


def test_a_kill_while_all_is_flushed_is_made_good(workload: Workload, otel_usdt: Commands, stack: ExitStack) -> None:
    """Detached, with a receiver that takes its time: the last ledger is told all the same, and closes."""
    killed = threading.Event()

    def thinks(n: int) -> Any:
        if n == 0:
            killed.wait(60)
        return accept(n)

    port, _ = stack.enter_context(grpc_receiver(thinks))
    session = traced(otel_usdt, workload, port)
    workload.run("leaf 1009")
    flushing = pipeline(session)
    session.process.send_signal(signal.SIGTERM)
    wait_until(lambda: workload.breakpoints("leaf") == 0, "the end of the probe")
    os.kill(flushing.pid, signal.SIGKILL)
    killed.set()
    told = session.wait()
    check_closed(told.ledger)
    counts = nonzero(told.ledger["leaf"])
    assert (told.exit_code, counts["recorded"], counts.get("exported", 0) + counts.get("dropped", 0)) == (0, 1009, 1009)


def test_one_that_does_not_live_ends_the_session(workload: Workload, otel_usdt: Commands) -> None:
    """Five successors within a minute, and no sixth: all is detached, and the exit code says that it did not go well."""
    session = otel_usdt.trace(workload.pid, "func:leaf")
    for _ in range(5):
        kill(session)
    os.kill(pipeline(session).pid, signal.SIGKILL)
    told = session.wait()
    assert told.exit_code == 1
    assert "the pipeline ended (SIGKILL), as 5 before it within 60 s: there is no other" in told.stderr
    assert workload.breakpoints("leaf") == 0


def test_one_that_ends_by_an_error_of_its_own_has_no_successor(workload: Workload, otel_usdt: Commands, port: int) -> None:
    """The next would meet it too: said once, with its remedy and its exit code."""
    with socket.create_server(("127.0.0.1", port)):
        document = {"targets": [{"select": {"pid": workload.pid}, "spans": [LEAF]}], "telemetry": {"listen": f"127.0.0.1:{port}"}}
        session = otel_usdt.start("run", otel_usdt.write({**document, "export": {"console": {"view": "all"}}}))
        told = session.wait()
    assert (told.exit_code, said(session, "choose another telemetry.listen"), said(session, "takes over")) == (2, 1, 0)
