"""The pipeline's session without a kernel: records by hand in, lines, files and a ledger that closes out."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_usdt import outlets, pipeline
from otel_usdt.metrics.ledger import check
from otel_usdt.pipeline import Session
from otel_usdt.plan import Console, Export, Plan, Target
from otel_usdt.spans.model import SpanBatch
from otel_usdt.stream.records import CALL, CALL_TEXT
from tests.samples import PARSE, QUERY, call, thread
from tests.unit.kernelside import Kernel, whole_text

TARGET = Target("orders", "tree", (100,), {"service.name": "orders", "process.pid": 100})
PLAN = Plan((TARGET,), (), (QUERY, PARSE), (), export=Export(console=Console("all")))
U64 = (1 << 64) - 1

Make = Callable[..., Kernel]
Lines = list[dict[str, Any]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes kernels: make(plan)."""
    made: list[Kernel] = []

    def kernel(plan: Plan = PLAN, **export: Any) -> Kernel:
        made.append(Kernel(replace(plan, export=replace(plan.export, **export))))
        return made[-1]

    yield kernel
    for one in made:
        one.close()


def shown(capfd: pytest.CaptureFixture[str]) -> Lines:
    """The lines on standard output."""
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def drained(session: Session) -> int:
    """All that the rings hold, moved."""
    total = 0
    while some := session.drain():
        total += some
    return total


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


# Hostile records


@pytest.mark.parametrize("probe", [2, 4, 5, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("texts", [None, {0: b"x"}])
def test_a_record_of_no_span_probe_is_counted_and_left_out(
    make: Make, capfd: pytest.CaptureFixture[str], probe: int, texts: dict[int, bytes] | None
) -> None:
    """Never an index out of bounds; the good records beside it are spans with their own texts, and the loss is said."""
    kernel = make()
    session = kernel.session()
    kernel.record(call(probe=probe), texts)
    kernel.call(call(span=7, flags=1), {0: b"good"})
    kernel.record(call(probe=probe), texts)
    assert session.drain() == 3
    [line] = shown(capfd)
    assert (line["span_id"], line["attributes"]["db.query.text"]) == (f"{7:016x}", "good")
    assert session.taken.malformed == 2
    session.log_losses()
    assert "otel-usdt: lost: malformed records 2 (+2)\n" in capfd.readouterr().err
    assert check(session.ledgers()["query"]) == []


@pytest.mark.parametrize("start", [0, 1 << 63, U64])
@pytest.mark.parametrize("duration", [0, 1 << 63, U64])
def test_absurd_times_end_no_earlier_than_they_start(
    make: Make, capfd: pytest.CaptureFixture[str], tmp_path: Path, start: int, duration: int
) -> None:
    """Near 2^64 the sums wrap; the span goes out all the same, to the console and as OTLP."""
    kernel = make(file=str(tmp_path / "out"))
    with (tmp_path / "out").open("wb") as file:
        session = kernel.session(file.fileno())
        kernel.record(call(start_ktime_ns=start, duration_ns=duration, thread=U64, trace=(U64, U64), span=U64, parent=U64))
        assert session.drain() == 1
    [line] = shown(capfd)
    assert 0 <= line["start_time_unix_nano"] <= line["end_time_unix_nano"] <= U64
    assert (line["pid"], line["tid"]) == ((1 << 32) - 1, (1 << 32) - 1)
    [of_process] = json.loads((tmp_path / "out").read_text())["resourceSpans"]
    assert of_process["scopeSpans"][0]["spans"][0]["endTimeUnixNano"] == str(line["end_time_unix_nano"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\xff\xfe SELECT \xc3", "\ufffd\ufffd SELECT \ufffd"),
        (whole_text(b"x"), "x" * 256),
        (whole_text("€".encode()), "€" * 85 + "\ufffd"),
        (b"", ""),
        (b"\x1b[31m\n\x07", "\x1b[31m\n\x07"),
    ],
)
def test_any_bytes_are_a_text(make: Make, capfd: pytest.CaptureFixture[str], tmp_path: Path, text: bytes, expected: str) -> None:
    """What is not UTF-8 is replaced, what has no NUL ends with its slot, and a line stays a line."""
    kernel = make(file=str(tmp_path / "out"))
    with (tmp_path / "out").open("wb") as file:
        session = kernel.session(file.fileno())
        kernel.call(call(flags=1), {0: text})
        assert session.drain() == 1
    [line] = shown(capfd)
    assert line["attributes"]["db.query.text"] == expected
    [of_file] = (tmp_path / "out").read_text().splitlines()
    attributes = json.loads(of_file)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"]
    assert {"key": "db.query.text", "value": {"stringValue": expected} if expected else {"stringValue": ""}} in attributes


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(min_size=CALL.itemsize, max_size=CALL.itemsize), max_size=4), st.data())
def test_any_bytes_in_the_rings_are_spans_or_malformed(records: list[bytes], data: st.DataObject) -> None:
    """Whatever a record says: nothing raises, what comes out is JSON and OTLP, and every record is exported or counted."""
    kernel = Kernel(replace(PLAN, export=Export(file="memory", console=Console("all"))))
    file, console = os.memfd_create("file"), os.memfd_create("console")
    session = kernel.session(file)
    probes = st.sampled_from((0, 1, 2, (1 << 32) - 1))
    for record in records:
        call_ = np.frombuffer(record, CALL).copy()
        call_["probe"] = data.draw(probes)
        kernel.rings[0].put(call_.tobytes())
        kernel.rings[1].put(call_.tobytes() + data.draw(st.binary(min_size=512, max_size=512)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlets, "STDOUT", console)
        assert drained(session) == 2 * len(records)
    # At newlines alone, as JSON lines are: str.splitlines also knows U+0085, which a text may hold.
    lines, in_file = ([json.loads(line) for line in os.pread(made, 1 << 20, 0).splitlines()] for made in (console, file))
    spans = [span for line in in_file for one in line["resourceSpans"] for scope in one["scopeSpans"] for span in scope["spans"]]
    assert len(lines) == len(spans) == 2 * len(records) - session.taken.malformed
    assert sum(session.outlets.delivered({}, {}).exported.values()) == len(lines)
    for descriptor in (file, console):
        os.close(descriptor)
    kernel.close()


# Ways out that fail


def test_a_full_disk_drops_and_the_ledger_still_closes(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Every span that the file did not take is dropped, counted, said once as it happens, and in numbers at the end."""
    kernel = make(file="/dev/full", console=None)
    with Path("/dev/full").open("wb", buffering=0) as full:
        session = kernel.session(full.fileno())
        for n in range(3):
            kernel.call(call(span=n + 1))
            kernel.call(call(span=n + 1, probe=1))
            assert session.drain() == 2
            session.log_losses()
        session.outlets.close()
    ledgers = session.ledgers()
    assert {name: (ledger["dropped"], ledger["exported"]) for name, ledger in ledgers.items()} == {"query": (3, 0), "parse": (3, 0)}
    assert not any(check(ledger) for ledger in ledgers.values())
    said = capfd.readouterr().err
    assert said.count(os.strerror(errno.ENOSPC)) == 1
    assert "lost: query: dropped 1 (+1)" in said
    assert "lost: query: dropped 3 (+1)" in said
    assert "/dev/full: 6 spans are not in it" in said


def test_a_console_that_nobody_reads_drops(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """`otel-usdt trace | head`: the rest is dropped and counted, and nothing raises to the end."""
    kernel = make()
    session = kernel.session()
    reader, writer = os.pipe()
    monkeypatch.setattr(outlets, "STDOUT", writer)
    kernel.call(call())
    session.drain()
    os.close(reader)
    kernel.call(call())
    kernel.call(call())
    session.drain()
    session.print_lines(last=True)
    os.close(writer)
    kernel.call(call())
    session.drain()  # standard output closed altogether
    ledger = session.ledgers()["query"]
    assert (ledger["exported"], ledger["dropped"], check(ledger)) == (1, 3, [])


def test_a_console_beside_a_file_does_not_decide(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger follows the file; what the console lost is lost there alone."""
    kernel = make(file=str(tmp_path / "out"))
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(outlets, "STDOUT", writer)
    with (tmp_path / "out").open("wb") as file:
        session = kernel.session(file.fileno())
        kernel.call(call())
        session.drain()
    os.close(writer)
    ledger = session.ledgers()["query"]
    assert (ledger["exported"], ledger["dropped"]) == (1, 0)


# The ledger and its log


def test_a_batch_that_waits_is_queued(make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """In the ring, then held for its process's name, then exported: at each moment the ledger closes."""
    kernel = make()
    session = kernel.session()
    monkeypatch.setattr(session.processes._pipe, "send", lambda message: True)
    kernel.call(call(tgid=777))
    states = []
    for step in (lambda: 0, session.drain, lambda: session.processes.learn({"777": None}), session.drain):
        step()
        ledger = session.ledgers()["query"]
        states.append((ledger["queued"], ledger["exported"], check(ledger)))
    assert states == [(1, 0, []), (1, 0, []), (1, 0, []), (0, 1, [])]
    assert len(shown(capfd)) == 1


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


def test_a_loss_is_said_once_when_it_moves(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Each loss counter has its line with the total and what came on top; without a move there is silence."""
    kernel = make()
    session = kernel.session()
    session.log_losses()
    assert capfd.readouterr().err == ""
    kernel.count(0, ring_full=2)
    kernel.count(1, map_full=1)
    kernel.views["losses"][0] = 4
    session.log_losses()
    assert sorted(capfd.readouterr().err.splitlines()) == [
        "otel-usdt: lost: parse: map_full 1 (+1)",
        "otel-usdt: lost: processes that found no place in the scope map 4 (+4)",
        "otel-usdt: lost: query: ring_full 2 (+2)",
    ]
    session.log_losses()
    assert capfd.readouterr().err == ""
    kernel.count(0, ring_full=5)
    session.log_losses()
    assert capfd.readouterr().err == "otel-usdt: lost: query: ring_full 7 (+5)\n"


def test_what_is_no_loss_is_not_said(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Sampling, short calls and hits out of scope are as asked for."""
    kernel = make()
    session = kernel.session()
    kernel.count(0, entries=5, returns=5, calls=5, sampled_out=3, too_short=2, filtered=9, orphaned=1, unwound=1)
    session.log_losses()
    assert capfd.readouterr().err == ""


def test_foreign_lengths_in_the_ring_are_said(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """They are malformed records, too."""
    kernel = make()
    session = kernel.session()
    kernel.rings[0].put(bytes(CALL_TEXT.itemsize))
    session.drain()
    session.log_losses()
    assert "lost: malformed records" in capfd.readouterr().err


def test_a_ledger_caught_half_counted_is_read_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event between two of its counters is no imbalance: it is waited for, but not for ever."""
    kernel = make()
    session = kernel.session()
    kernel.count(0, entries=1, returns=1)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            kernel.count(0, calls=1, too_short=1)

    monkeypatch.setattr("otel_usdt.pipeline.time.sleep", sleep)
    assert check(session.ledgers()["query"]) == []
    assert len(slept) == 3
    kernel.count(0, entries=1)
    assert check(session.ledgers()["query"]) != []
    assert len(slept) < 100


# Views and metrics


def test_counts_are_a_line_a_probe(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """With the time since the probes were on."""
    kernel = make(console=Console("counts"))
    session = kernel.session()
    kernel.count(0, entries=7, returns=7, calls=7, sampled_out=7)
    session.print_lines(last=True)
    query, parse = shown(capfd)
    assert (query["probe"], query["entries"], query["calls"], parse["entries"]) == ("query", 7, 7, 0)
    assert 0 <= query["elapsed_s"] < 60


def test_all_ends_with_histograms_and_the_ledger(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Meanwhile only the ledger is shown; at the end the histograms come before it."""
    kernel = make()
    session = kernel.session()
    kernel.views["histogram"][1, 0, 40] = 3
    kernel.views["counters"]["sum_ns"][1, 0] = 4_000
    kernel.views["counters"]["max_ns"][1, 0] = 1_300
    session.print_lines(last=False)
    assert [list(line) for line in shown(capfd)] == [["ledger"]]
    session.print_lines(last=True)
    query, parse, last = shown(capfd)
    assert (query["probe"], query["count"], query["sum_ns"], query["max_ns"]) == ("query", 3, 4_000, 1_300)
    assert (parse["count"], list(last["ledger"])) == (0, ["query", "parse"])


def test_a_span_probe_that_only_counts_has_no_histogram(make: Make) -> None:
    """Neither one in mode count nor a point."""
    spans = (replace(QUERY, mode="count"), replace(PARSE, kind="point"), replace(PARSE, name="h", mode="histogram"))
    session = make(replace(PLAN, spans=spans)).session()
    assert [one is None for one in session.histograms()] == [True, True, False]


def test_metrics_go_into_the_file(make: Make, tmp_path: Path) -> None:
    """Histograms and the ledger as one line of OTLP; without a file or a receiver there is nothing to do."""
    kernel = make(file=str(tmp_path / "out"))
    with (tmp_path / "out").open("wb") as file:
        session = kernel.session(file.fileno())
        kernel.views["histogram"][0, 0, 40] = 2
        session.send_metrics()
    [line] = (tmp_path / "out").read_text().splitlines()
    metrics = {m["name"] for one in json.loads(line)["resourceMetrics"] for scope in one["scopeMetrics"] for m in scope["metrics"]}
    assert "otel_usdt.call.duration" in metrics
    assert "otel_usdt.calls.paired" in metrics
    make().session().send_metrics()


def test_thread_and_process_of_a_span_are_the_records(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """tgid above, tid below."""
    kernel = make()
    session = kernel.session()
    kernel.call(call(thread=thread(100, 4_000_000)))
    session.drain()
    [line] = shown(capfd)
    assert (line["pid"], line["tid"]) == (100, 4_000_000)
