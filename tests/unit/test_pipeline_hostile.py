"""Hostile records in the pipeline's rings: each is a span or counted as malformed, and nothing raises."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_usdt import outlets
from otel_usdt.metrics.ledger import check
from otel_usdt.plan import Console, Export
from otel_usdt.stream.records import CALL, CALL_TEXT
from tests.samples import call
from tests.unit.kernelside import Kernel, whole_text
from tests.unit.pipelinesession import PLAN, Make, drained, shown
from tests.unit.pipelinesession import make as make

U64 = (1 << 64) - 1


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


def test_foreign_lengths_in_the_ring_are_said(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """They are malformed records, too."""
    kernel = make()
    session = kernel.session()
    kernel.rings[0].put(bytes(CALL_TEXT.itemsize))
    session.drain()
    session.log_losses()
    assert "lost: malformed records" in capfd.readouterr().err
