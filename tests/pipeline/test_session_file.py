"""Whole sessions into a file of OTLP/JSON lines: the same spans as everywhere else, and a full disk is counted and said."""

from __future__ import annotations

import base64
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.processes import pipeline
from tests.kernel.program import Workload
from tests.kernel.session import Session, wait_until
from tests.pipeline.decoded import points, spans
from tests.pipeline.receivers import Received, grpc_receiver

pytestmark = pytest.mark.kernel

LEAF = {"name": "leaf", "function": "leaf", "attributes": {"n": {"arg": 1}}}
DISK_BYTES = 64 << 10


def parsed(path: Path) -> Received:
    """The file's requests as protobuf. A line that is not whole, or says what OTLP does not know, fails the test."""
    received = Received()
    for line in path.read_text().splitlines():
        told = json.loads(line)
        if "resourceMetrics" in told:
            received.metrics.append(ParseDict(_with_bytes(told), ExportMetricsServiceRequest()))
        else:
            received.traces.append(ParseDict(_with_bytes(told), ExportTraceServiceRequest()))
    return received


def _with_bytes(told: dict[str, Any]) -> dict[str, Any]:
    """OTLP/JSON has ids in hex, protobuf's own JSON in base64."""
    spans = [s for r in told.get("resourceSpans", ()) for scope in r["scopeSpans"] for s in scope["spans"]]
    metrics = [m for r in told.get("resourceMetrics", ()) for scope in r["scopeMetrics"] for m in scope["metrics"]]
    of_calls = [point for metric in metrics for point in metric.get("histogram", {}).get("dataPoints", ())]
    for span in (*spans, *(one for point in of_calls for one in point.get("exemplars", ()))):
        for key in span.keys() & {"traceId", "spanId", "parentSpanId"}:
            span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    return told


def to_file(otel_usdt: Commands, workload: Workload, path: str | Path, **how: Any) -> Session:
    """A session on leaf whose spans go into a file, and to the console for comparison."""
    export = {"file": {"path": str(path)}, "console": {"view": "all"}, **how.pop("export", {})}
    return otel_usdt.run({"targets": [{"select": {"pid": workload.pid}, "spans": [LEAF]}], "export": export}, **how)


def said(session: Session) -> int:
    """How often it was said that the disk is full."""
    return "".join(list(session.err)).count("No space left on device")


def test_file_has_the_same_spans_as_console_and_receiver(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """Ids, parents, times, attributes and resources of 307 spans are equal three ways; histograms and ledger follow them."""
    path = tmp_path / "spans.jsonl"
    with grpc_receiver() as (port, received):
        session = to_file(otel_usdt, workload, path, export={"otlp": {"endpoint": f"http://127.0.0.1:{port}"}})
        workload.run("leaf 307")
        told = session.stop()
    assert nonzero(told.ledger["leaf"]) == all_exported(307)
    written = parsed(path)
    assert path.stat().st_mode & 0o777 == 0o640
    by_id = {span.own.span_id: span for span in spans(written.traces)}
    assert len(by_id) == 307
    assert by_id == {span.own.span_id: span for span in spans(received.traces)}
    shown = {span["span_id"]: span for span in told.spans}
    for span_id, span in by_id.items():
        line = shown[span_id.hex()]
        assert (line["trace_id"], line["parent_span_id"]) == (span.own.trace_id.hex(), span.own.parent_span_id.hex())
        assert (line["start_time_unix_nano"], line["end_time_unix_nano"]) == (
            span.own.start_time_unix_nano,
            span.own.end_time_unix_nano,
        )
        assert line["attributes"] == {key: value for key, value in span.attributes.items() if key != "thread.id"}
    (histogram,) = points(written, "otel_usdt.call.duration")
    assert histogram.own.count == told.histograms["leaf"]["count"] == 307
    assert [point.own.as_int for point in points(written, "otel_usdt.calls.paired")] == [307]


def test_second_session_appends(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """What an earlier session wrote stays; histograms begin anew, with a start of their own, later than all that the first one told."""
    path = tmp_path / "spans.jsonl"
    for calls in (5, 7):
        session = to_file(otel_usdt, workload, path)
        workload.run(f"leaf {calls}")
        session.stop()
    written = parsed(path)
    assert Counter(span.attributes["n"] for span in spans(written.traces)) == Counter([*range(5), *range(7)])
    first, second = (point.own for point in points(written, "otel_usdt.call.duration"))
    assert (first.count, second.count) == (5, 7)
    assert first.start_time_unix_nano < first.time_unix_nano <= second.start_time_unix_nano < second.time_unix_nano


def test_device_that_is_always_full_drops_everything(workload: Workload, otel_usdt: Commands) -> None:
    """With /dev/full nothing is written: each span is counted dropped, it is said once, and the target runs on."""
    session = to_file(otel_usdt, workload, "/dev/full")
    for _ in range(3):
        workload.run("leaf 101")
        time.sleep(0.3)  # a request each
    told = session.stop()
    assert told.exit_code == 0
    check_closed(told.ledger)
    counts = nonzero(told.ledger["leaf"])
    assert counts["dropped"] == counts["recorded"] == 303
    assert "/dev/full: No space left on device" in told.stderr
    assert said(session) == 1
    assert "/dev/full: 303 spans are not in it" in told.stderr
    assert "lost: leaf: dropped 303" in told.stderr


def test_disk_that_runs_full_keeps_whole_lines(workload: Workload, otel_usdt: Commands, tmp_path: Path) -> None:
    """On a tiny file system some requests fit: the file holds those whole, the others are dropped, together every span."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={DISK_BYTES} tests {disk} && exec "$@"', "sh")
    session = to_file(otel_usdt, workload, disk / "spans.jsonl", through=mount)
    inside = Path(f"/proc/{pipeline(session).pid}/root{disk}/spans.jsonl")  # only there is it mounted
    with inside.open("rb") as file:
        for _ in range(11):
            before = os.fstat(file.fileno()).st_size
            workload.run("leaf 31")
            wait_until(lambda before=before: os.fstat(file.fileno()).st_size > before or said(session) > 0, "a write")  # type: ignore[misc]
        told = session.stop()
        kept = tmp_path / "kept.jsonl"
        kept.write_bytes(file.read())
    assert list(disk.iterdir()) == []
    check_closed(told.ledger)
    counts = nonzero(told.ledger["leaf"])
    assert counts["recorded"] == counts["exported"] + counts["dropped"] == 341
    assert counts["dropped"] > 0
    assert len(spans(parsed(kept).traces)) == counts["exported"] > 0
    assert f"spans.jsonl: {counts['dropped']} spans are not in it" in told.stderr
