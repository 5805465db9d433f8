"""OTLP/JSON lines: the encoding that the specification asks for, and a file in which every line is whole."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_usdt.ladder import BOUNDS_NS
from otel_usdt.metrics.exemplars import Exemplar, Place
from otel_usdt.metrics.points import ledger_points
from otel_usdt.otlp.encode import encode_spans
from otel_usdt.otlp.encode_histograms import encode_histograms
from otel_usdt.otlp.encode_metrics import encode_points
from otel_usdt.otlp.jsonlines import LinesFile, to_json_line
from otel_usdt.plan import Target
from tests.samples import OFFSET_NS, PARSE, QUERY, batch, call
from tests.unit.test_histograms import snapshot

LINE = b'{"resourceSpans":[]}\n'


def test_span_is_written_as_otlp_json() -> None:
    """Ids in lower-case hex, 64-bit integers as strings, enums as numbers, names in lowerCamelCase, one line."""
    fields = call(span=0xABCD, parent=1, arg=(1 << 60, -1, 0, 0), flags=1)
    [encoded] = encode_spans(batch([fields], [{0: "né\n".encode()}]), [QUERY], {100: {"service.name": "orders"}}, "0.1.0")
    line = to_json_line(encoded.body, "traces")
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "orders"}}]},
                "scopeSpans": [
                    {
                        "scope": {"name": "otel-usdt", "version": "0.1.0"},
                        "spans": [
                            {
                                "traceId": "0123456789abcdeffedcba9876543210",
                                "spanId": "000000000000abcd",
                                "parentSpanId": "0000000000000001",
                                "flags": 257,
                                "name": "query",
                                "kind": 1,
                                "startTimeUnixNano": str(OFFSET_NS + 5_000),
                                "endTimeUnixNano": str(OFFSET_NS + 6_000),
                                "attributes": [
                                    {"key": "thread.id", "value": {"intValue": "101"}},
                                    {"key": "db.rows", "value": {"intValue": str(1 << 60)}},
                                    {"key": "db.query.text", "value": {"stringValue": "né\n"}},
                                    {"key": "error.type", "value": {"stringValue": "-1"}},
                                ],
                                "status": {"code": 2},
                            }
                        ],
                    }
                ],
            }
        ]
    }


def test_metrics_are_written_as_otlp_json() -> None:
    """The same rules for metrics."""
    body = encode_points(ledger_points({"query": {"exported": 1 << 40}}), {}, 1, 2, "1")
    [of_resource] = json.loads(to_json_line(body, "metrics"))["resourceMetrics"]
    [metric] = of_resource["scopeMetrics"][0]["metrics"]
    assert metric["sum"]["aggregationTemporality"] == 2
    assert metric["sum"]["dataPoints"][0]["asInt"] == str(1 << 40)


_ALL: Place = (0, None)  # the first span probe, whose calls are not counted apart


def test_ids_of_exemplars_are_in_hex_too() -> None:
    """In histograms of either kind."""
    for bounds_ns in (BOUNDS_NS, None):
        exemplar = Exemplar(1_000, 2, bytes(range(16)), bytes(range(8)), 7)
        target, exemplars = Target("db", "pid", (), {}), {_ALL: [exemplar]}
        body = encode_histograms([snapshot(1_000, bounds_ns=bounds_ns)], [PARSE], [target], 1, 2, "1", exemplars)
        [of_resource] = json.loads(to_json_line(body, "metrics"))["resourceMetrics"]
        [metric] = of_resource["scopeMetrics"][0]["metrics"]
        [kind] = metric.keys() & {"histogram", "exponentialHistogram"}
        [one] = metric[kind]["dataPoints"][0]["exemplars"]
        assert (one["traceId"], one["spanId"]) == ("000102030405060708090a0b0c0d0e0f", "0001020304050607")


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT | os.O_APPEND) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow past `size` here: the kernel writes what fits and refuses the rest, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_line_that_does_not_fit_is_given_up_whole(tmp_path: Path) -> None:
    """When the disk is full in the midst of a line, the file ends with the last whole one, and goes on when there is room."""
    path = tmp_path / "spans.jsonl"
    with opened(path) as fd:
        lines = LinesFile(fd)
        assert lines.write(LINE) is None
        with file_size_limit(len(LINE) + 5):
            error = lines.write(LINE)
        assert isinstance(error, OSError)
        assert error.errno == errno.EFBIG
        assert path.read_bytes() == LINE
        assert lines.write(LINE) is None
    assert path.read_bytes() == LINE * 2


def test_line_that_could_not_be_taken_back_is_before_the_next_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a broken disk refuses even to cut the torn line off nothing is written; afterwards no torn line is in the file."""
    path = tmp_path / "spans.jsonl"
    with opened(path) as fd:
        lines = LinesFile(fd)
        lines.write(LINE)
        with monkeypatch.context() as broken:
            broken.setattr(os, "ftruncate", lambda fd, size: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
            with file_size_limit(len(LINE) + 5):
                assert lines.write(LINE) is not None
            assert isinstance(lines.write(LINE), OSError)
        assert lines.write(LINE) is None
    assert path.read_bytes() == LINE * 2


def test_full_device_is_an_error_and_no_exception() -> None:
    """ENOSPC comes back to the caller, who counts the line's spans."""
    with opened(Path("/dev/full"), os.O_WRONLY) as fd:
        error = LinesFile(fd).write(LINE)
    assert error is not None
    assert error.errno == errno.ENOSPC


def test_new_lines_go_behind_a_torn_one_of_an_earlier_process(tmp_path: Path) -> None:
    """A file that ends in mid-line, after a power cut, keeps what it has; our first line starts on a line of its own."""
    path = tmp_path / "spans.jsonl"
    path.write_bytes(LINE + b'{"torn')
    with opened(path) as fd:
        lines = LinesFile(fd)
        lines.write(LINE)
        lines.write(LINE)
    assert path.read_bytes() == LINE + b'{"torn\n' + LINE * 2


def test_file_that_is_emptied_meanwhile_has_no_hole(tmp_path: Path) -> None:
    """Rotation by copying and truncating: the next line is at the file's start."""
    path = tmp_path / "spans.jsonl"
    with opened(path, os.O_WRONLY | os.O_CREAT) as fd:
        lines = LinesFile(fd)
        lines.write(LINE)
        os.truncate(path, 0)
        lines.write(LINE)
    assert path.read_bytes() == LINE


def test_lines_go_down_a_pipe() -> None:
    """Standard output may be a pipe; a reader that is gone is an error and no exception."""
    reader, writer = os.pipe()
    lines = LinesFile(writer)
    assert lines.write(LINE) is None
    assert os.read(reader, 100) == LINE
    os.close(reader)
    error = lines.write(LINE)
    os.close(writer)
    assert isinstance(error, BrokenPipeError)
