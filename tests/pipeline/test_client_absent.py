"""Attempts that meet nobody, one who does not answer, or one who speaks something else."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_usdt.otlp.client import Accepted, Outcome, Retry
from tests.kernel.session import wait_until
from tests.pipeline.exporting import TRACES, exporter
from tests.pipeline.receivers import Answer, grpc_receiver, http_receiver, talker


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_nobody_there_is_retried(protocol: Any) -> None:
    """A refused connection."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with exporter(port, protocol) as client:
        outcome = client.send("traces", TRACES)
    assert isinstance(outcome, Retry)
    assert outcome.after_s is None


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_host_without_address_is_retried(protocol: Any) -> None:
    """A name that does not resolve may do so later: a collector that is still being deployed."""
    with exporter(1, protocol, endpoint="http://no-such-host.invalid:4317") as client:
        assert isinstance(client.send("traces", TRACES), Retry)


def test_grpc_server_that_hangs_is_given_up() -> None:
    """After timeout_s the attempt is over, to be tried again."""
    done = threading.Event()

    def hang(_: int) -> Any:
        done.wait(10)
        return ExportTraceServiceResponse()

    with grpc_receiver(hang) as (port, _), exporter(port, timeout_s=0.2) as client:
        started = time.monotonic()
        outcome = client.send("traces", TRACES)
        done.set()
    assert isinstance(outcome, Retry)
    assert outcome.why.startswith("DEADLINE_EXCEEDED")
    assert time.monotonic() - started < 5


def test_http_server_that_hangs_is_given_up() -> None:
    """After timeout_s without a word the attempt is over, to be tried again; the next one has a connection of its own."""
    done, outcomes = threading.Event(), list[Outcome]()

    def hang(n: int) -> Answer:
        if n == 0:
            done.wait(20)
        return Answer()

    with http_receiver(hang) as (port, received), exporter(port, "http/protobuf", timeout_s=0.2) as client:
        assert isinstance(client.send("traces", TRACES), Retry)
        while len(outcomes) < 50 and Accepted() not in outcomes:  # the first answer of a busy machine may be late, too
            outcomes.append(client.send("traces", TRACES))
        done.set()
    assert outcomes[-1] == Accepted()
    assert 2 <= len(received.connections) <= 1 + len(outcomes)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize(
    "answer", [b"", b"\0" * 100, b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nx"]
)
def test_peer_that_speaks_something_else_is_retried(protocol: Any, answer: bytes) -> None:
    """Whatever answers at the port and however it breaks off: the attempt failed, and may succeed later."""
    with talker(answer) as (port, _), exporter(port, protocol, timeout_s=1.0) as client:
        assert isinstance(client.send("traces", TRACES), Retry)


def test_grpc_connects_again_sooner_than_its_own_habit() -> None:
    """Left alone, gRPC connects twice in two seconds and then ever more rarely; our queue's backoff must find a fresh attempt."""
    with talker(b"") as (port, called), exporter(port) as client:

        def quick() -> bool:
            """Four in two seconds, whenever: left alone, even the first four take more than three."""
            assert isinstance(client.send("traces", TRACES), Retry)
            return any(last - first < 2.0 for first, last in zip(called, called[3:], strict=False))

        wait_until(quick, "four connections in two seconds", 30.0)
