"""Whole sessions that tell of themselves: by OTLP and over HTTP, with the truth of what they did."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from tests.kernel.commands import Commands
from tests.kernel.pages import address
from tests.kernel.program import Workload
from tests.kernel.session import Session, wait_until
from tests.pipeline.decoded import points
from tests.pipeline.receivers import grpc_receiver

pytestmark = pytest.mark.kernel

LEAF = {"name": "leaf", "function": "leaf"}
LISTEN = {"listen": "127.0.0.1:0"}


def page(session: Session) -> dict[str, float]:
    """The samples of /metrics, by name and labels."""
    with urllib.request.urlopen(f"{address(session)}/metrics", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_a_session_tells_of_itself_by_otlp(workload: Workload, otel_usdt: Commands, stack: ExitStack) -> None:
    """Beside the ledger, under one resource of our own: rings, queue, requests that were taken, their lag, and both processes' cost."""
    port, received = stack.enter_context(grpc_receiver())
    session = otel_usdt.spans(workload.pid, LEAF, export={"otlp": {"endpoint": f"http://127.0.0.1:{port}"}, "interval": "200ms"})
    workload.run("leaf 307")
    wait_until(lambda: any(point.own.count for point in points(received, "otel_usdt.export.lag")), "a lag")
    assert session.stop().exit_code == 0

    def last(name: str) -> dict[tuple[str | int, ...], float]:
        """The newest value of each series."""
        return {tuple(p.attributes.values()): p.own.as_double or p.own.as_int for p in points(received, f"otel_usdt.{name}")}

    assert last("ring.limit") == {("calls",): 8 << 20}
    assert last("ring.usage") == {("calls",): 0}
    assert last("queue.limit") == {(): 64 << 20}
    assert last("queue.usage") == {(): 0}
    requests = last("export.requests")
    assert requests.keys() == {("traces", "accepted"), ("metrics", "accepted")}
    assert requests["traces", "accepted"] == len(received.traces)
    lag = points(received, "otel_usdt.export.lag")[-1]
    assert (lag.own.count, lag.metric.unit) == (len(received.traces), "s")
    assert lag.own.sum > 0
    cpu, memory = last("process.cpu.time"), last("process.memory.usage")
    assert cpu.keys() == memory.keys() == {("supervisor",), ("pipeline",)}
    assert all(0 < seconds < 600 for seconds in cpu.values())
    assert all(4 << 20 < size < 1 << 30 for size in memory.values())
    ours = {
        tuple(sorted(p.resource.items())) for name in ("hits", "export.lag", "ring.usage") for p in points(received, f"otel_usdt.{name}")
    }
    [resource] = map(dict, ours)
    assert (resource["service.name"], resource["telemetry.distro.name"]) == ("otel-usdt", "otel-usdt")


def test_a_session_tells_of_itself_over_http(workload: Workload, otel_usdt: Commands) -> None:
    """The ledger and our own cost as Prometheus reads them, up to date within moments; healthy while it drains; gone with the session."""
    session = otel_usdt.spans(workload.pid, LEAF, telemetry=LISTEN)
    exported = 'otel_usdt_calls_total{otel_usdt_span_name="leaf",otel_usdt_outcome="exported"}'
    assert page(session)[exported] == 0
    workload.run("leaf 211")
    wait_until(lambda: page(session)[exported] == 211, "211 calls on the page")
    now = page(session)
    assert now['otel_usdt_hits_total{otel_usdt_span_name="leaf",otel_usdt_hit="entry"}'] == 211
    assert now['otel_usdt_process_memory_usage_bytes{otel_usdt_process="supervisor"}'] > 4 << 20
    assert now['otel_usdt_ring_limit_bytes{otel_usdt_ring="calls"}'] == 8 << 20
    with urllib.request.urlopen(f"{address(session)}/healthz", timeout=60) as answer:
        assert (answer.status, answer.read()) == (200, b"ok\n")
    session.stop()
    with pytest.raises(urllib.error.URLError):
        page(session)


def test_clients_that_say_nothing_hold_nothing_up(workload: Workload, otel_usdt: Commands, stack: ExitStack) -> None:
    """With every connection taken by somebody silent all calls are exported, and the session ends as ever."""
    session = otel_usdt.spans(workload.pid, LEAF, telemetry=LISTEN)
    host, port = address(session).removeprefix("http://").split(":")
    for _ in range(20):
        stack.enter_context(socket.create_connection((host, int(port))))
    workload.run("leaf 401")
    told = session.stop()
    assert (told.exit_code, len(told.spans), told.ledger["leaf"]["exported"]) == (0, 401, 401)


def test_nothing_listens_unless_asked(workload: Workload, otel_usdt: Commands) -> None:
    """Without `telemetry` there is no port and no word of one."""
    session = otel_usdt.spans(workload.pid, LEAF)
    assert "telemetry" not in session.stop().stderr


def test_a_taken_port_ends_the_session_with_its_remedy(workload: Workload, otel_usdt: Commands, stack: ExitStack) -> None:
    """Wrong use, told as such; nothing stays attached."""
    taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listen = f"127.0.0.1:{taken.getsockname()[1]}"
    document = {"targets": [{"select": {"pid": workload.pid}, "spans": [LEAF]}], "telemetry": {"listen": listen}}
    told = otel_usdt.start("run", otel_usdt.write(document)).wait()
    assert told.exit_code == 2
    assert f"telemetry.listen: {listen}: Address already in use" in told.stderr
    assert "remedy: choose another telemetry.listen" in told.stderr
