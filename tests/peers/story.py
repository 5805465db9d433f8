"""The story that docs/pipeline.md tells: a request to a program that OBI watches, with the program's own steps inside it, as Jaeger has it.

Everything is real but OBI: its map and its span are made here, with the ids, the thread and the times that it would see.
`python -m tests.peers.story FOLDER` plays it once, prints the tree, and draws trace.svg there as `otel-usdt trace` would.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from rich.console import Console

from otel_usdt.cli.views.spans import SpanTree
from otel_usdt.cli.views.spans_live import render
from otel_usdt.otlp.client import Accepted, Exporter
from otel_usdt.otlp.encode_metrics import resource_of
from otel_usdt.plan import OtlpExport
from otel_usdt.targets.identity import resource_of as target_resource
from tests.kernel.commands import Commands
from tests.kernel.obi import bpffs
from tests.kernel.program import die_with_parent
from tests.kernel.session import MARK, Session, wait_until
from tests.peers.seen import jaeger_traces
from tests.peers.servers import Server, jaeger

EXAMPLE = Path(__file__).parents[2] / "examples" / "beside-obi.yaml"
APP = Path(__file__).parent / "shop" / "app.py"
SERVICE = "shop"
COLUMNS = 118


@contextmanager
def shop() -> Iterator[tuple[int, str]]:
    """The program, running: its pid and where it answers."""
    process = subprocess.Popen(
        ["/usr/bin/python3", APP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **MARK, "OTEL_SERVICE_NAME": SERVICE},
        preexec_fn=die_with_parent,
    )
    with process:
        assert process.stdout is not None
        yield process.pid, f"http://127.0.0.1:{int(process.stdout.readline())}/orders"
        assert process.stdin is not None
        process.stdin.close()


def play(otel_usdt: Commands, folder: Path, to: str, where: Server) -> dict[str, Any]:
    """One request, everything sent to the OTLP endpoint `to`; its trace as Jaeger, `where`, tells it."""
    trace, server = secrets.token_hex(16), secrets.token_hex(8)
    with shop() as (pid, url), bpffs(folder / "bpf") as obi:
        obi.start()
        session = _attached(otel_usdt, pid, to, str(obi.folder))
        wait_until(lambda: "calls join the requests that OBI sees" in "".join(session.err), "OBI's map is found")
        began = time.time_ns()
        obi.serves(pid, trace, server)
        with urlopen(url, timeout=30) as answer:
            assert answer.status == 200
            answer.read()
        obi.done(pid)
        ended = time.time_ns()
        told = session.stop()
        resource = target_resource(pid, None) or {}
    count = 1 + len(told.spans)
    request = ExportTraceServiceRequest()
    span = Span(trace_id=bytes.fromhex(trace), span_id=bytes.fromhex(server), name="GET /orders", kind=Span.SPAN_KIND_SERVER)
    span.start_time_unix_nano, span.end_time_unix_nano = began, ended
    own = {**resource, "telemetry.distro.name": "opentelemetry-ebpf-instrumentation"}
    request.resource_spans.add(resource=resource_of(own)).scope_spans.add(spans=[span])
    assert Exporter(OtlpExport(to)).send("traces", request.SerializeToString()) == Accepted()

    def seen() -> list[dict[str, Any]]:
        return [one for one in jaeger_traces(where, SERVICE, raw="true") if one["traceID"] == trace and len(one["spans"]) == count]

    wait_until(lambda: bool(seen()), f"{count} spans of the request in Jaeger")
    (whole,) = seen()
    return whole


def _attached(otel_usdt: Commands, pid: int, to: str, bpf_fs: str) -> Session:
    document = yaml.safe_load(EXAMPLE.read_text())
    document |= {"obi": {"bpf_fs_path": bpf_fs}, "export": {"otlp": {"endpoint": to}, "console": {"view": "all"}}}
    document["targets"][0]["select"] = {"pid": pid}
    return otel_usdt.run(document)


def lines(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """A trace of Jaeger's API as the span lines of docs/json.md, which the terminal's view draws."""
    made = []
    for span in trace["spans"]:
        tags = {tag["key"]: tag["value"] for tag in span["tags"]}
        of_process = {tag["key"]: tag["value"] for tag in trace["processes"][span["processID"]]["tags"]}
        hidden = ("span.kind", "internal.span.format", "otel.scope.name", "otel.scope.version", "thread.id", "otel.status_code")
        made.append(
            {
                "name": span["operationName"],
                "trace_id": span["traceID"],
                "span_id": span["spanID"],
                "parent_span_id": next((one["spanID"] for one in span["references"] if one["refType"] == "CHILD_OF"), ""),
                "start_time_unix_nano": span["startTime"] * 1000,
                "end_time_unix_nano": (span["startTime"] + span["duration"]) * 1000,
                "pid": of_process.get("process.pid", 0),
                "tid": tags.get("thread.id", of_process.get("process.pid", 0)),
                "status": "ERROR" if tags.get("otel.status_code") == "ERROR" else "UNSET",
                "attributes": {key: value for key, value in tags.items() if key not in hidden},
            }
        )
    return made


def draw(console: Console, told: Sequence[dict[str, Any]]) -> None:
    """The tree, as `otel-usdt trace` draws it."""
    tree = SpanTree()
    for line in told:
        tree.feed(line)
    render(console, tree.rest())


def main(folder: Path) -> None:
    """Plays it with a Jaeger of its own; needs `make peers` and root."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        work = Path(name)
        (work / "jaeger").mkdir()
        server = stack.enter_context(jaeger(work / "jaeger"))
        told = lines(play(Commands(stack, work), work, server.url("grpc"), server))
    draw(Console(width=COLUMNS), told)
    with Path(os.devnull).open("w") as nowhere:
        recorded = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        draw(recorded, told)
    # Without rich's own fonts, which the reader's browser would fetch from elsewhere.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", recorded.export_svg(title="a request, as Jaeger has it"), flags=re.DOTALL)
    (folder / "trace.svg").write_text(drawn)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
