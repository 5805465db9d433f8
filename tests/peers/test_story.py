"""What docs/pipeline.md shows: in Jaeger, the program's own steps hang under the request that OBI sees."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.kernel.commands import Commands
from tests.peers.conftest import Pipeline
from tests.peers.seen import notes
from tests.peers.story import SERVICE, lines, play

pytestmark = [pytest.mark.kernel, pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(480)]  # the first one starts every server


def test_a_programs_own_steps_hang_under_the_request_that_obi_sees(otel_usdt: Commands, pipeline: Pipeline, tmp_path: Path) -> None:
    """By examples/beside-obi.yaml: one trace, one service, every step a child of the request and within its time, no warning."""
    trace = play(otel_usdt, tmp_path, pipeline.endpoint, pipeline.jaeger)
    told = lines(trace)
    (request,) = [span for span in told if span["name"] == "GET /orders"]
    steps = [span for span in told if span is not request]
    assert Counter(span["name"] for span in steps) == {"prepare": 1, "step": 4, "compress": 1}  # three rows, and the end of them
    assert {span["parent_span_id"] for span in steps} == {request["span_id"]}
    assert all(request["start_time_unix_nano"] <= span["start_time_unix_nano"] for span in steps)
    assert all(span["end_time_unix_nano"] <= request["end_time_unix_nano"] for span in steps)
    (prepare,) = [span for span in steps if span["name"] == "prepare"]
    assert prepare["attributes"]["db.query.text"].startswith("SELECT customer, sum(cents)")
    assert {process["serviceName"] for process in trace["processes"].values()} == {SERVICE}
    assert notes([trace]) == []
