"""Whole sessions against real receivers: as many spans as calls, in their trees, under the target's own name; and the metrics."""

from __future__ import annotations

import platform
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from otel_usdt import __version__
from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.program import Workload
from tests.kernel.session import wait_until
from tests.pipeline.certificates import make_all, receiver
from tests.pipeline.decoded import points, spans
from tests.pipeline.receivers import Received, grpc_receiver, http_receiver

pytestmark = pytest.mark.kernel

Start = Callable[..., Workload]
Receive = Callable[[str], tuple[str, Received]]
PROTOCOLS = ["grpc", "http/protobuf"]
INTERNAL, UNSET, ERROR = 1, 0, 2  # opentelemetry/proto/trace/v1/trace.proto


@pytest.fixture
def receive(stack: ExitStack) -> Receive:
    """Starts a receiver of a protocol: its endpoint, and what it gets."""

    def receive(protocol: str) -> tuple[str, Received]:
        port, received = stack.enter_context(grpc_receiver() if protocol == "grpc" else http_receiver())
        return f"http://127.0.0.1:{port}", received

    return receive


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_call_arrives_as_a_span_of_its_tree(start: Start, otel_usdt: Commands, receive: Receive, protocol: str) -> None:
    """503 calls of outer are 503 traces of six spans, each the child of its caller, with the calls' own arguments and results."""
    endpoint, received = receive(protocol)
    target = start(environment={"OTEL_SERVICE_NAME": "orders", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"})
    n = {"n": {"arg": 1}}
    session = otel_usdt.spans(
        target.pid,
        {"name": "the outer", "function": "outer", "attributes": n},
        {"name": "middle", "function": "middle", "attributes": n},
        {"name": "leaf", "function": "leaf", "attributes": {**n, "result": {"return": True}}},
        export={"otlp": {"endpoint": endpoint, "protocol": protocol, "headers": {"x-tenant": "tests"}}},
    )
    target.run("outer 503")
    assert session.stop(signal.SIGTERM).exit_code == 0
    arrived = spans(received.traces)
    assert Counter(span.own.name for span in arrived) == {"the outer": 503, "middle": 503, "leaf": 4 * 503}
    assert len({span.own.span_id for span in arrived}) == len(arrived) == 6 * 503
    assert all(headers["x-tenant"] == "tests" for headers in received.headers)

    traces = defaultdict(list)
    for span in arrived:
        traces[span.own.trace_id].append(span)
    assert len(traces) == 503
    seen = set()
    for trace in traces.values():
        (outer,) = [span for span in trace if span.own.name == "the outer"]
        (middle,) = [span for span in trace if span.own.name == "middle"]
        within = {span.attributes["n"]: span for span in trace if span.own.parent_span_id == middle.own.span_id}
        (last,) = [span for span in trace if span.own.name == "leaf" and span.own.parent_span_id == outer.own.span_id]
        i = outer.attributes["n"]
        assert isinstance(i, int)
        assert (outer.own.parent_span_id, middle.own.parent_span_id, middle.attributes["n"]) == (b"", outer.own.span_id, i)
        assert {n: span.attributes["result"] for n, span in within.items()} == {n: 3 * n for n in (i, i + 1, i + 2)}
        assert (last.attributes["n"], last.attributes["result"]) == (i, 3 * i)
        for parent, children in ((outer, [middle, last]), (middle, list(within.values()))):
            for child in children:
                assert parent.own.start_time_unix_nano <= child.own.start_time_unix_nano
                assert child.own.end_time_unix_nano <= parent.own.end_time_unix_nano
        seen.add(i)
    assert seen == set(range(503))

    functions = {"the outer": "outer", "middle": "middle", "leaf": "leaf"}
    for span in arrived:
        assert (len(span.own.trace_id), len(span.own.span_id), span.own.kind, span.own.status.code) == (16, 8, INTERNAL, UNSET)
        assert span.attributes["thread.id"] == target.pid
        assert span.attributes["code.function.name"] == functions[span.own.name]
        assert span.scope == "otel-usdt"
    assert len({str(sorted(span.resource.items())) for span in arrived}) == 1
    resource = arrived[0].resource
    assert resource["host.id"]
    assert resource == {
        "service.name": "orders",
        "deployment.environment.name": "test",
        "service.instance.id": f"{platform.node()}:{target.pid}",
        "process.pid": target.pid,
        "process.executable.name": target.path.name,
        "process.executable.path": str(target.path),
        "host.name": platform.node(),
        "host.id": resource["host.id"],
        "os.type": "linux",
        "telemetry.distro.name": "otel-usdt",
        "telemetry.distro.version": __version__,
    }


def test_each_child_is_a_resource_of_its_own(start: Start, otel_usdt: Commands, receive: Receive) -> None:
    """Eleven children, some gone before anybody can look at them: each has its own pid and instance, and the tree's service name."""
    endpoint, received = receive("grpc")
    target = start(environment={"OTEL_SERVICE_NAME": "orders"})
    target.run("nursery 4 5")
    session = otel_usdt.spans(target.pid, {"name": "leaf", "function": "leaf"}, scope="tree", export={"otlp": {"endpoint": endpoint}})
    assert target.run("wake 4")["well"]  # four that live already, and a child of each
    assert target.run("forks 7 13")["well"]
    target.run("leaf 3")
    session.stop()
    arrived = spans(received.traces)
    by_pid = Counter(span.resource["process.pid"] for span in arrived)
    assert by_pid.pop(target.pid) == 3
    assert Counter(by_pid.values()) == {5: 8, 13: 7}
    for span in arrived:
        pid = span.resource["process.pid"]
        assert span.attributes["thread.id"] == pid
        assert (span.resource["service.name"], span.resource["service.instance.id"]) == ("orders", f"{platform.node()}:{pid}")


def test_metrics_arrive_on_their_interval(workload: Workload, otel_usdt: Commands, receive: Receive) -> None:
    """Histograms in seconds, cumulative from one start, and the ledger beside them: at the end exactly what the session told."""
    endpoint, received = receive("http/protobuf")
    before_ns = time.time_ns()
    session = otel_usdt.spans(
        workload.pid,
        {"name": "outer", "function": "outer"},
        {"name": "leaf", "function": "leaf", "mode": "histogram"},
        export={"otlp": {"endpoint": endpoint, "protocol": "http/protobuf"}, "interval": "1s", "console": {"view": "all"}},
    )
    for _ in range(3):
        sent = len(received.metrics)
        workload.run("outer 101")
        wait_until(lambda sent=sent: len(received.metrics) > sent, "metrics")  # type: ignore[misc]
    told = session.stop()
    check_closed({"outer": told.ledger["outer"]})
    check_closed({"leaf": told.ledger["leaf"]}, mode="histogram")
    durations = points(received, "otel_usdt.call.duration")
    for name, expected in (("outer", 303), ("leaf", 4 * 303)):
        series = [point for point in durations if point.attributes["otel_usdt.span.name"] == name]
        counts = [point.own.count for point in series]
        assert len(series) >= 4
        assert counts == sorted(counts)
        assert len({point.own.start_time_unix_nano for point in series}) == 1
        assert before_ns < series[0].own.start_time_unix_nano < series[0].own.time_unix_nano
        last, ours = series[-1], told.histograms[name]
        assert (last.metric.unit, last.metric.histogram.aggregation_temporality) == ("s", 2)
        assert last.own.count == sum(last.own.bucket_counts) == ours["count"] == told.ledger[name]["calls"] == expected
        assert last.own.sum == pytest.approx(ours["sum_ns"] / 1e9)
        assert (last.own.min, last.own.max) == (pytest.approx(ours["min_ns"] / 1e9), pytest.approx(ours["max_ns"] / 1e9))
        assert (last.resource["process.pid"], last.resource["service.name"]) == (workload.pid, "workload")
        assert last.attributes["code.function.name"] == name
    calls = points(received, "otel_usdt.calls.paired")
    assert {point.attributes["otel_usdt.span.name"]: point.own.as_int for point in calls} == {"outer": 303, "leaf": 1212}
    assert {point.resource["service.name"] for point in calls} == {"otel-usdt"}


def test_metrics_start_before_the_first_call_that_they_count(workload: Workload, otel_usdt: Commands, receive: Receive) -> None:
    """A program that calls all the time is counted from the first probe on: no call may lie before the start that the metrics name."""
    endpoint, received = receive("grpc")
    workload.send("sleeper 1000000 200")  # it ends with the test
    session = otel_usdt.spans(workload.pid, {"function": "sleeper"}, export={"otlp": {"endpoint": endpoint}, "interval": "100ms"})
    wait_until(lambda: len(received.metrics) > 2, "metrics")
    session.stop()
    (start,) = {point.own.start_time_unix_nano for name in ("call.duration", "hits") for point in points(received, f"otel_usdt.{name}")}
    assert start < min(span.own.start_time_unix_nano for span in spans(received.traces))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_environment_names_the_receiver(workload: Workload, otel_usdt: Commands, receive: Receive, protocol: str) -> None:
    """Where the configuration has no `export`, OTEL_EXPORTER_OTLP_* say where it goes, how, and with which headers."""
    endpoint, received = receive(protocol)
    environment = {"ENDPOINT": endpoint, "PROTOCOL": protocol, "HEADERS": "api-key=a%20key,x-tenant=tests"}
    session = otel_usdt.run(
        {"targets": [{"select": {"pid": workload.pid}, "spans": [{"function": "leaf"}]}], "export": {}},
        environment={f"OTEL_EXPORTER_OTLP_{name}": value for name, value in environment.items()},
    )
    workload.run("leaf 211")
    told = session.stop()
    assert (told.exit_code, told.lines) == (0, [])
    assert len(spans(received.traces)) == 211
    assert {(headers["api-key"], headers["x-tenant"]) for headers in received.headers} == {("a key", "tests")}


def test_signals_go_their_own_ways_by_mtls(workload: Workload, otel_usdt: Commands, stack: ExitStack) -> None:
    """Spans by gRPC, metrics by HTTP, each with the certificate that the environment names for it."""
    folder = Path(stack.enter_context(TemporaryDirectory()))
    make_all(folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)  # the pipeline is nobody
    (port, of_spans), (other, of_metrics) = (stack.enter_context(receiver(protocol, folder, mutual=True)) for protocol in PROTOCOLS)
    environment = {
        "CERTIFICATE": folder / "authority.pem",
        "CLIENT_CERTIFICATE": folder / "first.pem",
        "CLIENT_KEY": folder / "first.key",
        "ENDPOINT": f"https://localhost:{port}",
        "METRICS_PROTOCOL": "http/protobuf",
        "METRICS_ENDPOINT": f"https://localhost:{other}/v1/metrics",
        "METRICS_CLIENT_CERTIFICATE": folder / "second.pem",
        "METRICS_CLIENT_KEY": folder / "second.key",
    }
    session = otel_usdt.run(
        {"targets": [{"select": {"pid": workload.pid}, "spans": [{"function": "leaf"}]}], "export": {}},
        environment={f"OTEL_EXPORTER_OTLP_{name}": str(value) for name, value in environment.items()},
    )
    workload.run("leaf 211")
    assert session.stop().exit_code == 0
    assert len(spans(of_spans.traces)) == 211
    assert of_metrics.metrics
    assert (set(of_spans.clients), set(of_metrics.clients)) == ({"first"}, {"second"})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_receiver_that_takes_little_at_once_gets_everything(
    workload: Workload, otel_usdt: Commands, stack: ExitStack, protocol: str
) -> None:
    """Requests that it finds too large come in halves: every span once, and the ledger closes."""
    limit = 20_000
    options = [("grpc.max_receive_message_length", limit)]
    port, received = stack.enter_context(grpc_receiver(options=options) if protocol == "grpc" else http_receiver(limit=limit))
    otlp = {"endpoint": f"http://127.0.0.1:{port}", "protocol": protocol}
    session = otel_usdt.spans(workload.pid, {"function": "leaf"}, export={"otlp": otlp, "console": {"view": "all"}})
    workload.run("leaf 1009")
    wait_until(lambda: len(received.span_ids()) == 1009, "all spans")  # gRPC is slow at refusing: not all at the end
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"]) == all_exported(1009)
    assert len(set(received.span_ids())) == len(received.span_ids()) == 1009
    assert all(request.ByteSize() <= limit for request in received.traces)


def test_failed_calls_have_status_error(workload: Workload, otel_usdt: Commands, receive: Receive) -> None:
    """A call that returns below 0 arrives with status ERROR and its error.type; the others with neither."""
    endpoint, received = receive("grpc")
    session = otel_usdt.spans(
        workload.pid,
        {"name": "typed", "function": "fallible_long", "error": {"return": "< 0", "as": "int64", "type": "EIO"}},
        {"name": "untyped", "function": "fallible_int", "error": {"return": "< 0"}},
        export={"otlp": {"endpoint": endpoint}, "console": {"view": "all"}},
    )
    assert workload.run("fallible 61")["failed"] == 21
    told = session.stop()
    assert {name: nonzero(c) for name, c in told.ledger.items()} == {"typed": all_exported(61), "untyped": all_exported(61)}
    assert Counter((span.own.name, span.own.status.code, span.attributes.get("error.type")) for span in spans(received.traces)) == {
        ("typed", ERROR, "EIO"): 21,
        ("typed", UNSET, None): 40,
        ("untyped", ERROR, "-5"): 21,
        ("untyped", UNSET, None): 40,
    }
