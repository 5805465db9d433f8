"""What the pipeline tells besides spans: counts, histograms and the ledger as lines, and metrics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from otel_usdt.plan import Console
from tests.samples import PARSE, QUERY
from tests.unit.pipelinesession import PLAN, Make, shown
from tests.unit.pipelinesession import make as make


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
