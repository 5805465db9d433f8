"""However a receiver answers, or does not: each span is there once, or counted, but for those whose fate nobody could know."""

from __future__ import annotations

import http
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTracePartialSuccess, ExportTraceServiceResponse

from otel_usdt.otlp import spilling
from otel_usdt.otlp.client import Accepted, Retry, TooLarge
from otel_usdt.plan import OtlpExport
from tests.delivery.load import Load
from tests.delivery.receivers import How
from tests.delivery.truth import Sink, reconcile
from tests.delivery.wire import Cut, wire
from tests.kernel.session import wait_until
from tests.pipeline.exporting import retry_info, rpc_status
from tests.pipeline.receivers import Abort, Answer, accept, grpc_receiver, http_receiver

Make = Callable[..., Load]
REQUESTS, SPANS = 12, 10
both = pytest.mark.parametrize("how", ["grpc", "http/protobuf"])


@contextmanager
def sink_on(how: How, script: Callable[[int], Any] | None = None, timeout_s: float = 10.0) -> Iterator[tuple[OtlpExport, Sink]]:
    """A server of the tests with this script; without one it takes everything."""
    sink = Sink()
    receiver = grpc_receiver(script or accept, into=sink) if how == "grpc" else http_receiver(script or (lambda _: Answer()), into=sink)
    with receiver as (port, _):
        yield OtlpExport(f"http://127.0.0.1:{port}", how, timeout_s=timeout_s), sink


def sent(fed: Load) -> None:
    """REQUESTS requests of SPANS spans each, and nothing waits any more."""
    for _ in range(REQUESTS):
        fed.feed(SPANS)
    wait_until(fed.settled, "all spans")


# https://opentelemetry.io/docs/specs/otlp/#failures and #failures-1
RETRIED = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
RETRIED_HTTP = {429, 502, 503, 504}
ASKED = (("grpc-status-details-bin", rpc_status(retry_info(0))),)
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
ABORTS = [*((Abort(code), code.name in RETRIED) for code in CODES), (Abort(grpc.StatusCode.RESOURCE_EXHAUSTED, trailers=ASKED), True)]
STATUSES = sorted({int(status) for status in http.HTTPStatus if status >= 300} | {499, 520, 599})


@pytest.mark.parametrize(
    ("answer", "retried"), ABORTS, ids=[f"{abort.code.name}{'-with-RetryInfo' * bool(abort.trailers)}" for abort, _ in ABORTS]
)
def test_each_grpc_status_is_retried_or_counted(load: Make, answer: Abort, retried: bool) -> None:
    """Three requests get it: when it is one to be retried they arrive all the same, else these and no others are dropped."""
    with sink_on("grpc", lambda n: answer if n < 3 else accept(n)) as (config, sink):
        fed = load(config)
        sent(fed)
    reconcile(fed.made, sink, fed.witness, fed.totals(), unknown_requests=0)
    assert sink.spans.total() == (REQUESTS - (0 if retried else 3)) * SPANS


@pytest.mark.parametrize("status", STATUSES)
def test_each_http_status_is_retried_or_counted(load: Make, status: int) -> None:
    """The same; a request that is too large (413) is cut, and arrives."""
    with sink_on("http/protobuf", lambda n: Answer(status if n < 3 else 200)) as (config, sink):
        fed = load(config)
        sent(fed)
    reconcile(fed.made, sink, fed.witness, fed.totals(), unknown_requests=0)
    assert (fed.witness.times(TooLarge).sum() > 0) == (status == 413)
    assert sink.spans.total() == (REQUESTS - (0 if status in RETRIED_HTTP | {413} else 3)) * SPANS


@both
def test_a_partial_success_of_every_size_is_counted_and_never_sent_again(load: Make, how: How) -> None:
    """From none to all of a request's spans, and sizes that cannot be: the account believes what it can, and closes."""
    sizes = [*range(-1, SPANS + 2), 1 << 62, -(1 << 62)]

    def lie(n: int) -> Any:
        told = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(rejected_spans=sizes[n], error_message="so it says"))
        return told if how == "grpc" else Answer(body=told.SerializeToString())

    with sink_on(how, lie) as (config, sink):
        fed = load(config)
        for _ in sizes:
            fed.feed(SPANS)
        wait_until(fed.settled, "all spans")
    assert (sink.spans.times[1 : fed.made + 1] == 1).all()
    assert (fed.witness.times(Accepted)[1 : fed.made + 1] == 1).all()
    rejected = sum(min(max(size, 0), SPANS) for size in sizes)
    assert sum(fed.totals().dropped.values()) == rejected
    assert sum(fed.totals().exported.values()) == fed.made - rejected
    fed.closes()


@both
def test_a_slow_receiver_gets_each_span_once(load: Make, how: How) -> None:
    """It takes its time for each request, and calls go on meanwhile."""

    def slowly(n: int) -> Any:
        time.sleep(0.05)
        return accept(n) if how == "grpc" else Answer()

    with sink_on(how, slowly) as (config, sink):
        fed = load(config)
        sent(fed)
    reconcile(fed.made, sink, fed.witness, fed.totals(), unknown_requests=0)


@both
def test_what_is_answered_too_late_is_there_twice_and_nothing_else(load: Make, how: How) -> None:
    """Three requests are kept, and answered after the sender's patience: it cannot know, and sends just these again.

    And any that a busy machine was so late with: as often as the sender was told nothing.
    """
    given_up = threading.Event()

    def late(n: int) -> Any:
        if n < 3:
            given_up.wait(20)
        return accept(n) if how == "grpc" else Answer()

    def untold(fed: Load) -> int:
        return sum(isinstance(outcome, Retry) for _, outcome in list(fed.witness.attempts))

    with sink_on(how, late, timeout_s=0.3) as (config, sink):
        fed = load(config)
        for _ in range(REQUESTS):
            fed.feed(SPANS)
        wait_until(lambda: untold(fed) >= 3, "the end of the sender's patience")
        given_up.set()
        wait_until(fed.settled, "all spans")
        wait_until(lambda: sink.spans.total() >= (REQUESTS + 3) * SPANS, "the late ones")
    reconcile(fed.made, sink, fed.witness, fed.totals(), unknown_requests=untold(fed))


def test_a_receiver_that_hangs_does_not_keep_the_ring_from_being_drained(load: Make) -> None:
    """It takes connections and says nothing: the ring is empty after each look, all waits, and at the end all is counted."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fed = load(OtlpExport(f"http://127.0.0.1:{silent.getsockname()[1]}"))
        for _ in range(20):
            fed.feed(1_009)
        assert sum(fed.totals().queued.values()) == fed.made == 20 * 1_009
        fed.session.outlets.close()
        assert sum(fed.totals().dropped.values()) == fed.made
        fed.closes()


@both
def test_a_connection_that_is_cut_anywhere_costs_nothing(load: Make, how: How) -> None:
    """In the midst of a request, or of an answer. Doubled are requests whose answer was on its way, at most."""
    points = [0, 1, 9, 24, 100, 300, 1000]
    cuts = [*(Cut(up=at) for at in points), *(Cut(down=at) for at in points)]
    with sink_on(how) as (config, sink), wire(_port(config), lambda n: cuts[n] if n < len(cuts) else Cut()) as port:
        fed = load(OtlpExport(f"http://127.0.0.1:{port}", how))
        for _ in range(5 * REQUESTS):
            fed.feed(SPANS)
            time.sleep(0.01)
        wait_until(fed.settled, "all spans")
        reconcile(fed.made, sink, fed.witness, fed.totals(), unknown_requests=config.concurrency * len(cuts))


GARBAGE = [
    b"",
    bytes(range(256)),
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    b"HTTP/1.1 200\r\n",
    b"HTTP/9.9 banana\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort",
    b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18),  # HTTP/2 settings, and then no more
    b"\xff" * 10_000,
]


@both
def test_a_receiver_that_answers_garbage_costs_nothing(load: Make, how: How) -> None:
    """Whatever it is, it is no answer: the request goes again, and arrives once when a receiver is there."""
    with sink_on(how) as (config, sink), wire(_port(config), lambda n: Cut(says=GARBAGE[n]) if n < len(GARBAGE) else Cut()) as port:
        fed = load(OtlpExport(f"http://127.0.0.1:{port}", how))
        sent(fed)
        reconcile(fed.made, sink, fed.witness, fed.totals(), unknown_requests=0)
    assert (sink.spans.times[1 : fed.made + 1] == 1).all()


def _port(config: OtlpExport) -> int:
    return int(config.endpoint.rpartition(":")[2])


@pytest.mark.kernel
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_takes_nothing_meanwhile_costs_nothing(load: Make, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver is away, and the spool's file system of 64 KiB is soon full, or read-only: the rest waits in memory, and all arrive."""
    monkeypatch.setattr(spilling, "DISK_PAUSE_S", 0.05)
    (spool := tmp_path / "spool").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro" if fault == "read-only" else "size=64k", "tmpfs", spool], check=True)
    try:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        fed, sink = load(OtlpExport(f"http://127.0.0.1:{port}"), spool), Sink()
        for _ in range(REQUESTS):
            fed.feed(211)
        if fault == "full":
            wait_until(lambda: bool(fed.totals().spooled), "spans that find room")
        wait_until(lambda: bool(fed.totals().queued), "spans that find none")
        time.sleep(0.2)  # several attempts at the disk
        fed.closes()
        assert (sum(fed.totals().spooled.values()) > 0) == (fault == "full")
        with grpc_receiver(port=port, into=sink):
            wait_until(fed.settled, "all spans")
        reconcile(fed.made, sink, fed.witness, fed.totals(), unknown_requests=0)
        fed.session.outlets.close()
    finally:
        subprocess.run(["umount", "-l", spool], check=True)
