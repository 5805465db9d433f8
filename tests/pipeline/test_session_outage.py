"""Whole sessions whose receiver is away, late or slow, or whose own end is violent: every span arrives or is counted."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed, nonzero
from tests.kernel.processes import pipeline, supervisor
from tests.kernel.program import Workload
from tests.kernel.session import Session, wait_until
from tests.pipeline.decoded import spans
from tests.pipeline.receivers import Answer, Received, accept, grpc_receiver, http_receiver

pytestmark = pytest.mark.kernel

PROTOCOLS = ["grpc", "http/protobuf"]
AWAY, BACK = "the OTLP receiver is away", "the OTLP receiver is back"
LEAF = {"name": "leaf", "function": "leaf"}
PIPELINE_GRACE_S, SUPERVISOR_GRACE_S = 10.0, 15.0  # for what is queued at the end; for the pipeline's end


@pytest.fixture
def port() -> int:
    """One where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free: int = server.getsockname()[1]
        return free


def traced(otel_usdt: Commands, workload: Workload, port: int, protocol: str = "grpc", **otlp: Any) -> Session:
    """A session on leaf that exports to this port."""
    export = {"otlp": {"endpoint": f"http://127.0.0.1:{port}", "protocol": protocol, **otlp}, "console": {"view": "all"}}
    return otel_usdt.spans(workload.pid, LEAF, export=export)


def said(session: Session, what: str) -> int:
    """How often."""
    return "".join(list(session.err)).count(what)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_receiver_that_comes_later_gets_everything(
    workload: Workload, otel_usdt: Commands, stack: ExitStack, port: int, protocol: str
) -> None:
    """Spans from before wait in memory; that it is away and that it is back is said once each."""
    session = traced(otel_usdt, workload, port, protocol)
    workload.run("leaf 307")
    wait_until(lambda: said(session, AWAY) == 1, "the line that the receiver is away")
    workload.run("leaf 211")
    receiver = grpc_receiver(port=port) if protocol == "grpc" else http_receiver(port=port)
    _, received = stack.enter_context(receiver)
    wait_until(lambda: len(received.span_ids()) == 518, "all spans from before")
    workload.run("leaf 101")
    told = session.stop()
    check_closed(told.ledger)
    assert told.ledger["leaf"]["exported"] == told.ledger["leaf"]["calls"] == 619
    assert len(set(received.span_ids())) == len(received.span_ids()) == 619
    assert (said(session, AWAY), said(session, BACK), said(session, "lost:")) == (1, 1, 0)


def test_receiver_that_never_comes_costs_its_spans_and_no_more(workload: Workload, otel_usdt: Commands, port: int) -> None:
    """The target runs on, the end comes within the grace, and every span is counted dropped, on standard error too."""
    session = traced(otel_usdt, workload, port)
    before = workload.run("leaf 1009")["elapsed_ns"]
    wait_until(lambda: said(session, AWAY) == 1, "the line that the receiver is away")
    assert workload.run("leaf 1009")["elapsed_ns"] < 10 * before + 1e9
    asked = time.monotonic()
    told = session.stop(signal.SIGTERM)
    assert time.monotonic() - asked < SUPERVISOR_GRACE_S
    assert told.exit_code == 0
    check_closed(told.ledger)
    counts = nonzero(told.ledger["leaf"])
    assert counts == {"entries": 2018, "returns": 2018, "calls": 2018, "recorded": 2018, "dropped": 2018}
    assert (said(session, AWAY), said(session, BACK)) == (1, 0)
    assert "lost: leaf: dropped 2018" in told.stderr


def test_full_queue_drops_the_oldest_and_counts_them(workload: Workload, otel_usdt: Commands, stack: ExitStack, port: int) -> None:
    """With 64 KiB for spans, what is over is dropped and said; the newest arrive when the receiver comes, and nothing is lost uncounted."""
    session = traced(otel_usdt, workload, port, queue="64KiB")
    for n in range(1, 11):
        workload.run("leaf 211")
        wait_until(lambda n=n: len(session.out) >= 211 * n, "the spans of this round: a request each")  # type: ignore[misc]
    wait_until(lambda: said(session, "lost: leaf: dropped") > 0, "the line that spans were dropped")
    _, received = stack.enter_context(grpc_receiver(port=port))
    wait_until(lambda: said(session, BACK) == 1, "the line that the receiver is back")
    told = session.stop()
    check_closed(told.ledger)
    counts = nonzero(told.ledger["leaf"])
    assert counts["recorded"] == counts["exported"] + counts["dropped"] == 2110
    assert len(set(received.span_ids())) == len(received.span_ids()) == counts["exported"] > 211
    lines = [line for line in told.lines if "span_id" in line]
    in_order = [line["span_id"] for line in sorted(lines, key=lambda line: int(line["start_time_unix_nano"]))]
    # The first request may have been under way when the last one came, and then an older one than the others was not dropped.
    behind = [span_id.hex() for span_id in received.span_ids()[len(Received(traces=received.traces[:1]).span_ids()) :]]
    assert set(behind) == set(in_order[-len(behind) :])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stop_detaches_at_once_and_a_slow_receiver_gets_all(
    workload: Workload, otel_usdt: Commands, stack: ExitStack, protocol: str
) -> None:
    """While the receiver still thinks about the first request, the probe is off already; then all that was recorded arrives."""

    seen = threading.Event()

    def thinks(n: int) -> Any:
        if n == 0:
            seen.wait(60)
        return accept(n) if protocol == "grpc" else Answer()

    slow = grpc_receiver(thinks) if protocol == "grpc" else http_receiver(thinks)
    port, received = stack.enter_context(slow)
    session = traced(otel_usdt, workload, port, protocol)
    workload.run("leaf 1009")
    flushing = pipeline(session)
    session.process.send_signal(signal.SIGTERM)
    wait_until(lambda: workload.breakpoints("leaf") == 0, "the end of the probe")
    assert flushing.alive()
    assert session.process.poll() is None
    assert received.traces == []
    seen.set()
    told = session.wait()
    assert (told.exit_code, told.ledger["leaf"]["exported"]) == (0, 1009)
    assert len(set(received.span_ids())) == 1009


@pytest.mark.parametrize("receiver_is_there", [True, False])
def test_sigkill_of_the_supervisor_leaves_a_pipeline_that_flushes_and_ends(
    workload: Workload, otel_usdt: Commands, stack: ExitStack, port: int, receiver_is_there: bool
) -> None:
    """What was in the ring arrives; with nobody to take it, the pipeline ends all the same, and says what was lost."""
    received = stack.enter_context(grpc_receiver(port=port))[1] if receiver_is_there else Received()
    session = traced(otel_usdt, workload, port)
    left = pipeline(session)
    workload.run("leaf 1009")
    os.kill(supervisor(session).pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: workload.breakpoints("leaf") == 0, "the end of the probe")
    wait_until(lambda: not left.alive(), "the end of the pipeline")
    assert time.monotonic() - killed < PIPELINE_GRACE_S + 5
    told = session.wait()
    assert len(set(received.span_ids())) == (1009 if receiver_is_there else 0)
    assert told.ledger["leaf"]["exported" if receiver_is_there else "dropped"] == told.ledger["leaf"]["recorded"] == 1009
    workload.run("leaf 3")


def test_refusing_receiver_is_said_once_and_counted(workload: Workload, otel_usdt: Commands, stack: ExitStack) -> None:
    """A receiver that answers 400 gets each request once; the spans are dropped, said and counted."""
    port, received = stack.enter_context(http_receiver(lambda _: Answer(status=400)))
    session = traced(otel_usdt, workload, port, "http/protobuf")

    def come(requests: int) -> bool:
        return received.paths.count("/v1/traces") >= requests

    for _ in range(3):
        refused = received.paths.count("/v1/traces") + 1
        workload.run("leaf 101")
        wait_until(partial(come, refused), "a request")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"])["dropped"] == told.ledger["leaf"]["recorded"] == 303
    assert 3 <= received.paths.count("/v1/traces") < 10
    assert said(session, "refuses spans") == 1
    assert spans(received.traces) == []
