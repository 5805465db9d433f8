"""The pipeline's session without a kernel: records by hand in, lines and files out, and when it looks for the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from otel_usdt import pipeline
from otel_usdt.metrics.ledger import check
from otel_usdt.spans.model import SpanBatch
from otel_usdt.stream.records import CALL_TEXT
from tests.samples import call, thread
from tests.unit.pipelinesession import Make, drained, shown
from tests.unit.pipelinesession import make as make


def test_records_become_lines_on_the_console(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Both rings are read; each call is a line, with the text that was captured, and the ledger closes."""
    kernel = make()
    session = kernel.session()
    kernel.call(call(probe=1, span=0xAB, parent=0xCD))
    kernel.call(call(flags=1, arg=(3, -1, 0, 0)), {0: b"SELECT 1\0left over"})
    assert session.drain() == 2
    parse, query = shown(capfd)
    assert (parse["name"], parse["span_id"], parse["parent_span_id"], parse["pid"]) == ("parse", f"{0xAB:016x}", f"{0xCD:016x}", 100)
    assert parse["attributes"] == {"code.function.name": "pg_parse_query"}
    assert query["attributes"] == {"db.rows": 3, "db.query.text": "SELECT 1", "error.type": "-1"}
    assert (query["status"], query["end_time_unix_nano"] - query["start_time_unix_nano"]) == ("ERROR", 1_000)
    assert session.drain() == 0
    ledgers = session.ledgers()
    assert [ledgers[name]["exported"] for name in ("query", "parse")] == [1, 1]
    assert not any(check(ledger) for ledger in ledgers.values())


def test_thread_and_process_of_a_span_are_the_records(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """tgid above, tid below."""
    kernel = make()
    session = kernel.session()
    kernel.call(call(thread=thread(100, 4_000_000)))
    session.drain()
    [line] = shown(capfd)
    assert (line["pid"], line["tid"]) == (100, 4_000_000)


def test_the_file_has_the_spans_under_their_targets_resource(make: Make, tmp_path: Path) -> None:
    """OTLP/JSON lines, whatever the console shows; a process that nobody knows goes by its target's name."""
    kernel = make(file=str(tmp_path / "out"), console=None)
    with (tmp_path / "out").open("wb") as file:
        session = kernel.session(file.fileno())
        for tgid in (100, 100, 555):
            kernel.call(call(tgid=tgid))
        assert drained(session) == 3
    [line] = (tmp_path / "out").read_text().splitlines()
    of_processes = json.loads(line)["resourceSpans"]
    found = {
        next(a["value"]["intValue"] for a in one["resource"]["attributes"] if a["key"] == "process.pid"): len(one["scopeSpans"][0]["spans"])
        for one in of_processes
    }
    assert found == {"100": 2, "555": 1}
    assert all({"key": "service.name", "value": {"stringValue": "orders"}} in one["resource"]["attributes"] for one in of_processes)
    assert session.ledgers()["query"]["exported"] == 3


def test_a_burst_goes_out_in_parts_and_whole(make: Make, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than so many spans are in hand at once, and none is lost or doubled."""
    kernel = make()
    session = kernel.session()
    sizes: list[int] = []
    spans = session.outlets.spans

    def counted(batch: SpanBatch, resources: Mapping[int, Mapping[str, str | int]]) -> None:
        sizes.append(len(batch.calls))
        spans(batch, resources)

    monkeypatch.setattr(session.outlets, "spans", counted)
    monkeypatch.setattr(pipeline, "AT_ONCE", 600)
    total = 2 * 600 + 3
    for n in range(total):
        kernel.call(call(span=n + 1))
    assert session.drain() == total
    assert sizes == [600, 600, 3]
    assert [int(line["span_id"], 16) for line in shown(capfd)] == list(range(1, total + 1))
    assert session.ledgers()["query"]["exported"] == total


@pytest.mark.parametrize(
    ("fill", "waited_s", "next_s"),
    [
        (0.0, 0.4, pipeline.REST_S),  # nothing comes
        (0.001, 0.4, pipeline.REST_S),  # little: it can wait, and the kernel wakes us when it becomes more
        (0.05, 0.04, pipeline.MOST_S),
        (0.2, 0.04, 0.02),  # twice too full: half the time
        (0.1, 0.02, 0.02),
        (1.0, 0.04, pipeline.LEAST_S),  # full
        (0.5, 0.0, pipeline.LEAST_S),
    ],
)
def test_the_next_look_depends_on_how_full_the_rings_were(fill: float, waited_s: float, next_s: float) -> None:
    """A tenth full is aimed at; between spinning and forgetting."""
    assert pipeline.next_look_s(fill, waited_s) == pytest.approx(next_s)


def test_the_fullest_ring_counts(make: Make) -> None:
    """Either may overflow."""
    kernel = make()
    session = kernel.session()
    assert session.fill() == 0.0
    kernel.call(call())
    kernel.call(call(flags=1), {0: b"SELECT 1"})
    assert session.fill() == (CALL_TEXT.itemsize + 8) / session.rings[1].size
    assert session.drain() == 2
    assert session.fill() == 0.0
