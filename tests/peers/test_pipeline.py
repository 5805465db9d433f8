"""otel-usdt, a sidecar Collector, a gateway Collector, Jaeger, Tempo, Prometheus, all real: what was called is what they show."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_usdt.demo.cluster import Cluster
from otel_usdt.otlp.client import Accepted, Exporter
from otel_usdt.otlp.encode_metrics import resource_of
from otel_usdt.plan import OtlpExport
from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.program import Workload
from tests.kernel.session import Told, wait_until
from tests.peers.conftest import Pipeline
from tests.peers.seen import (
    JAEGER_UNIT,
    TEMPO_UNIT,
    Seen,
    exemplar_traces,
    expected,
    jaeger_spans,
    jaeger_traces,
    jaeger_warnings,
    notes,
    prometheus_values,
    tempo_spans,
)
from tests.peers.servers import get_json

pytestmark = [pytest.mark.kernel, pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(480)]  # the first one starts every server

EXAMPLE = Path(__file__).parents[2] / "examples" / "postgresql.yaml"
NESTED = [{"function": "outer"}, {"function": "middle"}, {"function": "leaf"}]
CALLS = {"outer": 101, "middle": 101, "leaf": 404}  # of `outer 101`: see run_outer in tests/kernel/workload/calls.c


def traced(start: Callable[..., Workload], otel_usdt: Commands, pipeline: Pipeline, service: str) -> Told:
    """`outer 101` of a workload of that service name, sent through the pipeline; nothing lost before it."""
    target = start(environment={"OTEL_SERVICE_NAME": service})
    export = {"otlp": {"endpoint": pipeline.endpoint}, "console": {"view": "all"}, "interval": "1s"}
    session = otel_usdt.spans(target.pid, *NESTED, export=export)
    target.run("outer 101")
    told = session.stop()
    assert {name: nonzero(c) for name, c in told.ledger.items()} == {name: all_exported(n) for name, n in CALLS.items()}
    assert Counter(span["name"] for span in told.spans) == CALLS
    return told


def whole(read: Callable[[], list[Seen]], count: int, where: str) -> list[Seen]:
    """The first reading that has so many spans. One reading, for Tempo misses a trace while it moves it from memory to a block."""
    found: list[Seen] = []

    def enough() -> bool:
        found[:] = read()
        return len(found) >= count

    wait_until(enough, f"{count} spans in {where}")
    return found


def in_jaeger(pipeline: Pipeline, service: str, count: int) -> list[Seen]:
    """What Jaeger has stored for the service, so many spans at least."""
    return whole(lambda: jaeger_spans(jaeger_traces(pipeline.jaeger, service, raw="true")), count, "Jaeger")


def test_jaeger_shows_every_span_once(start: Callable[..., Workload], otel_usdt: Commands, pipeline: Pipeline) -> None:
    """Each under its parent, of the right service, start and duration, without one warning, beside what the sidecar added."""
    told = traced(start, otel_usdt, pipeline, "orders-jaeger")
    truth = expected(told.spans, "orders-jaeger", JAEGER_UNIT)
    assert in_jaeger(pipeline, "orders-jaeger", len(truth)) == truth
    traces = jaeger_traces(pipeline.jaeger, "orders-jaeger")
    assert len(traces) == 101
    assert jaeger_spans(traces) == truth
    assert notes(traces) == []
    assert jaeger_warnings(pipeline.jaeger, "orders-jaeger") == [[]] * len(truth)
    (environment,) = {tag["value"] for process in traces[0]["processes"].values() for tag in process["tags"] if "environment" in tag["key"]}
    assert environment == "tests"
    assert "never" not in get_json(pipeline.jaeger.url("query", "/api/services"))["data"]


def test_tempo_shows_every_span_once(start: Callable[..., Workload], otel_usdt: Commands, pipeline: Pipeline) -> None:
    """To the nanosecond."""
    told = traced(start, otel_usdt, pipeline, "orders-tempo")
    truth = expected(told.spans, "orders-tempo", TEMPO_UNIT)
    ids = sorted({span.trace_id for span in truth})
    assert len(ids) == 101
    assert whole(lambda: tempo_spans(pipeline.tempo, ids), len(truth), "Tempo") == truth


def test_prometheus_has_the_ledgers_figures(start: Callable[..., Workload], otel_usdt: Commands, pipeline: Pipeline) -> None:
    """Counts and sums of the histograms that came through are the command's own; so are the ledger's, and those made from the spans."""
    told = traced(start, otel_usdt, pipeline, "orders-prometheus")

    def values(metric: str, label: str, **labels: str) -> dict[str, float]:
        wanted = ",".join(f'{name}="{value}"' for name, value in labels.items())
        return prometheus_values(pipeline.prometheus, f"{metric}{{{wanted}}}", label)

    def come() -> bool:
        return (
            CALLS
            == values("otel_usdt_call_duration_seconds_count", "otel_usdt_span_name", job="orders-prometheus")
            == values("traces_span_metrics_calls_total", "span_name", job="orders-prometheus")
        )

    wait_until(come, "the counts in Prometheus")
    sums = values("otel_usdt_call_duration_seconds_sum", "otel_usdt_span_name", job="orders-prometheus")
    assert sums == {name: pytest.approx(line["sum_ns"] / 1e9, rel=1e-12) for name, line in told.histograms.items()}
    top = values("otel_usdt_call_duration_seconds_bucket", "otel_usdt_span_name", job="orders-prometheus", le="+Inf")
    assert top == CALLS
    instances = values("otel_usdt_call_duration_seconds_count", "instance", job="orders-prometheus", otel_usdt_span_name="leaf")
    assert len(instances) == 1
    assert {name: line["count"] for name, line in told.histograms.items()} == CALLS


@pytest.mark.parametrize("metric", ["otel_usdt_call_duration_seconds_bucket", "traces_span_metrics_duration_seconds_bucket"])
def test_an_exemplar_leads_to_its_trace(start: Callable[..., Workload], otel_usdt: Commands, pipeline: Pipeline, metric: str) -> None:
    """Our own histogram, and the gateway's span metrics, carry trace ids, and Jaeger has those traces."""
    since, service = time.time() - 60, f"orders-exemplars-{metric[:6]}"
    told = traced(start, otel_usdt, pipeline, service)
    in_jaeger(pipeline, service, len(told.spans))
    query = f'{metric}{{job="{service}"}}'
    wait_until(lambda: bool(exemplar_traces(pipeline.prometheus, query, since, time.time() + 60)), "exemplars in Prometheus")
    found = exemplar_traces(pipeline.prometheus, query, since, time.time() + 60)
    assert found <= {span["trace_id"] for span in told.spans}
    for trace_id in found:
        (trace,) = get_json(pipeline.jaeger.url("query", f"/api/traces/{trace_id}"))["data"]
        assert {span["operationName"] for span in trace["spans"]} == CALLS.keys()


def test_postgresql_under_load_is_whole_in_jaeger_and_tempo(cluster: Cluster, otel_usdt: Commands, pipeline: Pipeline) -> None:
    """examples/postgresql.yaml under pgbench: every span once, in its place, and Jaeger warns of nothing."""
    document = yaml.safe_load(EXAMPLE.read_text())
    (target,) = document["targets"]
    target["select"] = {"pid": cluster.pid}
    export: dict[str, Any] = {"otlp": {"endpoint": pipeline.endpoint}, "console": {"view": "all"}}
    session = otel_usdt.run({"targets": [target], "limits": {"ring": "64MiB"}, "export": export})
    subprocess.run(cluster.command("pgbench", "-n", "-c", "3", "-j", "2", "-t", "53"), check=True, capture_output=True)
    told = session.stop()
    assert told.exit_code == 0
    check_closed(told.ledger)
    assert Counter(span["name"] for span in told.spans)["query"] >= 3 * 53 * 7  # pgbench's default script has seven statements
    truth = expected(told.spans, "postgres", JAEGER_UNIT)
    assert in_jaeger(pipeline, "postgres", len(truth)) == truth
    traces = jaeger_traces(pipeline.jaeger, "postgres")
    assert jaeger_spans(traces) == truth
    assert jaeger_warnings(pipeline.jaeger, "postgres") == [[]] * len(truth)
    assert not [note for note in notes(traces) if "clock skew adjustment disabled" not in note]  # transactions outlive their BEGIN

    truth = expected(told.spans, "postgres", TEMPO_UNIT)
    ids = sorted({span.trace_id for span in truth})
    assert whole(lambda: tempo_spans(pipeline.tempo, ids), len(truth), "Tempo") == truth


def test_a_statement_is_in_the_trace_of_its_caller(cluster: Cluster, otel_usdt: Commands, pipeline: Pipeline) -> None:
    """The application sends its own span; the query whose comment names it is its child in Jaeger, with no warning on either."""
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    began = time.time_ns()
    (target,) = yaml.safe_load(EXAMPLE.read_text())["targets"]
    target["select"] = {"pid": cluster.pid}
    session = otel_usdt.run({"targets": [target], "export": {"otlp": {"endpoint": pipeline.endpoint}, "console": {"view": "all"}}})
    cluster.psql(f"SELECT count(*) FROM pg_class /*traceparent='00-{trace}-{parent}-01'*/")
    told = session.stop()
    caller = Span(trace_id=bytes.fromhex(trace), span_id=bytes.fromhex(parent), name="GET /orders", kind=Span.SPAN_KIND_SERVER)
    caller.start_time_unix_nano, caller.end_time_unix_nano = began, time.time_ns()
    request = ExportTraceServiceRequest()
    service = request.resource_spans.add(resource=resource_of({"service.name": "orders-caller"}))
    service.scope_spans.add(spans=[caller])
    assert Exporter(OtlpExport(pipeline.endpoint)).send("traces", request.SerializeToString()) == Accepted()
    mine = [span for span in told.spans if span["trace_id"] == trace]
    assert {span["name"] for span in mine} >= {"query", "parse", "plan", "execute"}

    def seen() -> list[dict[str, Any]]:
        return [one for one in jaeger_traces(pipeline.jaeger, "orders-caller", raw="true") if len(one["spans"]) == len(mine) + 1]

    wait_until(lambda: bool(seen()), "the whole trace in Jaeger")
    (whole_trace,) = seen()
    (query,) = [span for span in whole_trace["spans"] if span["operationName"] == "query"]
    assert [(reference["refType"], reference["spanID"]) for reference in query["references"]] == [("CHILD_OF", parent)]
    assert whole_trace["processes"][query["processID"]]["serviceName"] == "postgres"
    assert notes([whole_trace]) == []
    assert jaeger_warnings(pipeline.jaeger, "orders-caller") == [[]] * len(whole_trace["spans"])
