"""What otel-usdt says of itself: counted right, written as Prometheus reads it, served whatever clients do."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from otel_usdt.errors import NotPermitted, UsageError
from otel_usdt.metrics.own import process_points, ring_points, usage
from otel_usdt.metrics.points import Distribution, Metric, Point, ledger_points
from otel_usdt.metrics.prometheus import exposition
from otel_usdt.otlp.measured import Measured
from otel_usdt.otlp.outcome import Accepted, Outcome, Refused, Retry, Signal, TooLarge
from otel_usdt.telemetry import UNWELL_S, Page, serve

SAMPLE = re.compile(r'[a-zA-Z_][a-zA-Z0-9_]*(\{([a-zA-Z_][a-zA-Z0-9_]*="([^"\\\n]|\\[\\"n])*",?)*\})? (-?[0-9.e+-]+|\+Inf)')


class Answers:
    """A sender that answers as it is told to, and raises what is no outcome."""

    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self.outcomes = list(outcomes)

    def send(self, signal: Signal, body: bytes) -> Outcome:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


# Attempts


def test_every_attempt_is_counted_by_signal_and_outcome() -> None:
    """Each outcome has its word; one of our own faults is passed on, and counted."""
    outcomes: list[Outcome] = [Accepted(), Accepted(), Accepted(3, "some"), Retry(None, "away"), Refused("no"), TooLarge("4 MiB")]
    sender = Measured(Answers(*outcomes, ValueError("ours"), Accepted()))
    for outcome in outcomes:
        assert sender.send("traces", b"body") is outcome
    with pytest.raises(ValueError, match="ours"):
        sender.send("traces", b"body")
    sender.send("metrics", b"body")
    words = {"accepted": 2, "partial": 1, "retry": 1, "refused": 1, "too_large": 1, "failed": 1}
    assert sender.read()[0] == {**{("traces", word): count for word, count in words.items()}, ("metrics", "accepted"): 1}


def test_lag_is_from_the_oldest_return_to_the_acceptance() -> None:
    """A request of an hour ago that is taken at the second attempt is one count of an hour; refused ones and strangers are none."""
    sender = Measured(Answers(Retry(None, "away"), Accepted(), Refused("no"), Accepted()))
    hour_ago = time.time_ns() - 3_600 * 10**9
    for body in (b"first", b"refused"):
        sender.expect(body, hour_ago)
    for body in (b"first", bytes(bytearray(b"first")), b"refused", b"stranger"):
        sender.send("traces", body)
    lag = sender.read()[1]
    assert sum(lag.counts) == lag.counts[lag.bounds.index(7200.0)] == 1
    assert 3_600 <= lag.sum < 7_200


def test_a_return_in_the_future_is_no_lag() -> None:
    """A hostile record may claim any time: the lag is never negative, and nothing raises."""
    sender = Measured(Answers(Accepted()))
    sender.expect(b"body", (1 << 64) - 1)
    sender.send("traces", b"body")
    lag = sender.read()[1]
    assert (lag.counts[0], lag.sum) == (1, 0.0)


# Ourselves


def test_our_own_processes_are_measured() -> None:
    """CPU time that grows with work, and memory; a process that is gone is left out."""
    before = usage(os.getpid())
    assert before is not None
    busy_until = time.process_time() + 0.1
    while time.process_time() < busy_until:
        pass
    after = usage(os.getpid())
    assert after is not None
    assert after[0] - before[0] > 0.05
    assert after[1] > 1 << 20
    points = process_points({"pipeline": os.getpid(), "supervisor": 1 << 30})
    assert {(point.metric.name, *point.attributes.values()) for point in points} == {
        ("otel_usdt.process.cpu.time", "pipeline"), ("otel_usdt.process.memory.usage", "pipeline"),
    }  # fmt: skip


# Prometheus


def test_points_are_written_as_prometheus_reads_them() -> None:
    """Names with unit and _total, each metric together under its HELP and TYPE, labels escaped, buckets cumulative."""
    lag = Metric("otel_usdt.lag", "s", "histogram", "Lag")
    name = 'a "b"\\\n'
    points = [*ledger_points({name: {"exported": 3, "in_flight": 1}}), *ring_points({"calls": (64, 4096)}),
              Point(lag, Distribution((0.5, 1.0), (2, 0, 5), 9.25))]  # fmt: skip
    lines = exposition(points).decode().splitlines()
    assert lines[:3] == [
        "# HELP otel_usdt_calls_total Calls by where they ended: exported, or lost or left out for the reason named",
        "# TYPE otel_usdt_calls_total counter",
        'otel_usdt_calls_total{otel_usdt_span_name="a \\"b\\"\\\\\\n",otel_usdt_outcome="exported"} 3',
    ]
    assert 'otel_usdt_ring_usage_bytes{otel_usdt_ring="calls"} 64' in lines
    assert lines[-6:] == [
        "# TYPE otel_usdt_lag_seconds histogram",
        'otel_usdt_lag_seconds_bucket{le="0.5"} 2', 'otel_usdt_lag_seconds_bucket{le="1.0"} 2',
        'otel_usdt_lag_seconds_bucket{le="+Inf"} 7', "otel_usdt_lag_seconds_sum 9.25", "otel_usdt_lag_seconds_count 7",
    ]  # fmt: skip
    assert all(SAMPLE.fullmatch(line) for line in lines if not line.startswith("#"))


# The endpoint


@pytest.fixture
def page() -> Page:
    made = Page()
    made.metrics = b"otel_usdt_x 1\n"
    return made


@pytest.fixture(params=["127.0.0.1:0", "[::1]:0"])
def address(request: pytest.FixtureRequest, page: Page) -> Iterator[tuple[str, int]]:
    url, server = serve(request.param, page)
    yield request.param.removesuffix(":0").strip("[]"), server.server_address[1]
    assert url == f"http://{request.param.removesuffix(':0')}:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ask(address: tuple[str, int], path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = HTTPConnection(*address, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_page_and_the_health_are_served(address: tuple[str, int], page: Page) -> None:
    """Whatever is the newest page; 503 once the pipeline has not looked for too long; 404 and 501 for all else."""
    assert ask(address, "/metrics") == (200, b"otel_usdt_x 1\n")
    page.metrics = b"otel_usdt_x 2\n"
    assert ask(address, "/metrics?name=x") == (200, b"otel_usdt_x 2\n")
    assert ask(address, "/metrics", "HEAD") == (200, b"")
    assert ask(address, "/healthz") == (200, b"ok\n")
    page.seen_s = time.monotonic() - UNWELL_S - 1
    assert ask(address, "/healthz")[0] == 503
    page.seen_s = time.monotonic()
    assert ask(address, "/healthz")[0] == 200
    assert ask(address, "/other")[0] == 404
    assert ask(address, "/metrics", "POST")[0] == 501


def test_silent_clients_are_bounded_and_let_go(page: Page) -> None:
    """Many connections that say nothing: those over the bound are closed at once, the others after a while; then it serves again."""
    _, server = serve("127.0.0.1:0", page)
    clients = [socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=60) for _ in range(40)]
    try:
        for client in clients:
            assert client.recv(1) == b""  # closed, without a word
        assert ask(("127.0.0.1", server.server_address[1]), "/healthz") == (200, b"ok\n")
    finally:
        for client in clients:
            client.close()
        server.shutdown()
        server.server_close()


def test_an_address_that_cannot_be_had_is_told(page: Page) -> None:
    """A taken port, and an address of another host: what was wanted, why not, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"telemetry.listen: {listen}: Address already in use"):
            serve(listen, page)
    with pytest.raises((UsageError, NotPermitted), match=r"telemetry.listen: 192\.0\.2\.1:9464"):
        serve("192.0.2.1:9464", page)
