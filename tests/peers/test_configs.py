"""collector-config/: each file is one that the Collector accepts, and does what its comments say."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.program import Workload
from tests.kernel.session import wait_until
from tests.kernel.test_histograms import attributes_of, intervals, points_in
from tests.peers.servers import CONFIG, collector, free_ports, peer
from tests.pipeline.receivers import grpc_receiver

pytestmark = [pytest.mark.kernel, pytest.mark.peers]


@pytest.mark.parametrize("config", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_collector_accepts_the_file(config: Path, tmp_path: Path) -> None:
    """`otelcol validate` takes it as it is shipped, without a word."""
    command: list[str | Path] = [peer("otelcol"), "validate", "--config", config]
    done = subprocess.run(command, cwd=tmp_path, env={"OTELCOL_STORAGE": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_file_is_run_by_a_test() -> None:
    """A configuration that is added here needs a test that sends something through it."""
    assert {path.stem for path in CONFIG.glob("*.yaml")} == {"sidecar", "gateway", "local"}


def test_local_writes_every_span_and_metric_to_files(workload: Workload, otel_usdt: Commands, stack: ExitStack, tmp_path: Path) -> None:
    """local.yaml: the files hold what the command has sent, in OTLP's own JSON."""
    files = tmp_path / "files"
    local = stack.enter_context(collector("local", tmp_path / "collector", {"OTELCOL_FILES": str(files)}))
    export = {"otlp": {"endpoint": local.url("http"), "protocol": "http/protobuf"}, "console": {"view": "all"}}
    session = otel_usdt.spans(workload.pid, {"function": "outer"}, {"function": "leaf"}, export=export)
    workload.run("outer 211")
    told = session.stop()
    assert Counter(span["name"] for span in told.spans) == {"outer": 211, "leaf": 4 * 211}
    wait_until(lambda: len(written(files / "traces.jsonl", spans_of)) >= len(told.spans), "spans in the file")
    assert sorted(written(files / "traces.jsonl", spans_of)) == sorted(
        (span["trace_id"], span["span_id"], span["parent_span_id"] or "", span["name"]) for span in told.spans
    )
    wait_until(lambda: "otel_usdt.call.duration" in written(files / "metrics.jsonl", metrics_of), "metrics in the file")


def test_exponential_series_arrive_as_they_were_sent(workload: Workload, otel_usdt: Commands, stack: ExitStack, tmp_path: Path) -> None:
    """What the Collector has understood of each point is what otel-usdt's own file says: kind, buckets, attributes, exemplars."""
    files = tmp_path / "files"
    local = stack.enter_context(collector("local", tmp_path / "collector", {"OTELCOL_FILES": str(files)}))
    export = {"otlp": {"endpoint": local.url("grpc")}, "file": {"path": str(tmp_path / "own")}, "console": {"view": "all"}}
    step = {"function": "step", "error": {"return": "< 0"}, "attributes": {"tenant": {"arg": 2}}}
    step |= {"histogram": {"dimensions": ["tenant"], "max_series": 5}}
    session = otel_usdt.spans(workload.pid, step, export=export, histogram={"type": "exponential"})
    workload.run("steps 2 707")
    session.stop()
    ours = points_in(tmp_path / "own")
    wait_until(lambda: (files / "metrics.jsonl").exists() and bool(intervals(files / "metrics.jsonl")), "metrics in the file")
    theirs = points_in(files / "metrics.jsonl")
    assert len(ours) == 6
    assert [told(point) for point in theirs] == [told(point) for point in ours]
    assert sum(int(point["count"]) for point in theirs) == 2 * 707


def told(point: dict[str, Any]) -> tuple[object, ...]:
    """A point of an exponential histogram, by what OTLP/JSON may leave out written out."""
    positive = point["positive"]
    buckets = (point.get("scale", 0), int(positive.get("offset", 0)), [int(count) for count in positive["bucketCounts"]])
    exemplars = [(one["traceId"], one["spanId"], one["asDouble"]) for one in point.get("exemplars", ())]
    figures = (int(point["count"]), point["sum"], point["min"], point["max"], int(point.get("zeroCount", 0)))
    return point["type"], attributes_of(point), *buckets, *figures, exemplars


def test_sidecar_keeps_on_disk_what_it_has_taken(workload: Workload, otel_usdt: Commands, stack: ExitStack, tmp_path: Path) -> None:
    """sidecar.yaml: no gateway, then the sidecar is killed; the next one delivers every span to the gateway that comes at last."""
    (port,) = free_ports("gateway").values()
    environment = {"GATEWAY_ENDPOINT": f"127.0.0.1:{port}", "GATEWAY_INSECURE": "true", "OTELCOL_STORAGE": str(tmp_path / "queue")}
    first = stack.enter_context(collector("sidecar", tmp_path / "first", environment))
    export = {"otlp": {"endpoint": first.url("grpc")}, "console": {"view": "all"}}
    session = otel_usdt.spans(workload.pid, {"function": "leaf"}, export=export)
    workload.run("leaf 1009")
    told = session.stop()
    assert told.ledger["leaf"]["exported"] == 1009  # the sidecar has answered for them all
    first.kill()
    _, gateway = stack.enter_context(grpc_receiver(port=port))
    stack.enter_context(collector("sidecar", tmp_path / "second", environment))
    wait_until(lambda: len(gateway.span_ids()) >= 1009, "the spans at the gateway")
    assert sorted(one.hex() for one in gateway.span_ids()) == sorted(span["span_id"] for span in told.spans)


def written(path: Path, read: Callable[[dict[str, Any]], list[Any]]) -> list[Any]:
    """What the whole lines of a file hold; nothing while there is no such file."""
    text = path.read_text() if path.exists() else ""
    return [one for line in text.splitlines(keepends=True) if line.endswith("\n") for one in read(json.loads(line))]


def spans_of(request: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    scopes = [scope for resource in request["resourceSpans"] for scope in resource["scopeSpans"]]
    return [(span["traceId"], span["spanId"], span.get("parentSpanId", ""), span["name"]) for scope in scopes for span in scope["spans"]]


def metrics_of(request: dict[str, Any]) -> list[str]:
    return [metric["name"] for one in request["resourceMetrics"] for scope in one["scopeMetrics"] for metric in scope["metrics"]]
