"""The page and its pictures, made of kept figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.bench import page, pictures
from tests.bench.results import Curve, Result, Row, Spread, at_most

ROW = Row("a call, spans", "ns", Spread((2.0, 1.0, 3.0)), Spread((4.0, 4.0, 3.0)), "bpftrace", Spread((0.5,)), at_most(0.4))
SUITES: dict[str, list[Result]] = {
    "hits": [
        ROW,
        Row("a call, spans", "ns", Spread((2.0,)), Spread((1.5,)), "an empty program"),
        Row("a call (stepped site), histogram", "ns", Spread((1500.0,)), Spread((1600.0,)), "bpftrace"),
    ],
    "encode": [Row("spans with three numbers, ring to OTLP", "/CPU s", Spread((1e6,)), Spread((1e4,)), "the OpenTelemetry SDK")],
    "burst": [Curve("loss", "spans lost", (5e4, 5e5), (0.0, 3.0)), Curve("memory", "both", (0.0, 1.0), (60.0, 61.0))],
    "latency": [Curve("latency", label, (500.0, 4000.0), (0.5, 0.001)) for label in ("no probe", "spans", "spans, endpoint hangs")],
}


def test_parts_are_filled_between_their_marks() -> None:
    """What was there goes, all around stays; a page without the place is an error, not a page without the table."""
    text = "# Title\n<!-- table -->\nold\n<!-- end of table -->\nprose\n"
    assert page.filled(text, {"table": "new"}) == "# Title\n<!-- table -->\nnew\n<!-- end of table -->\nprose\n"
    with pytest.raises(ValueError, match="no place for the machine"):
        page.filled(text, {"machine": "2 cores"})


def test_the_table_has_a_line_a_row() -> None:
    """With the spread, the ratio, the floor and the verdict."""
    lines = list(page.table(SUITES, dict.fromkeys(SUITES, "2026-01-31, load average 0.1 before")))
    assert "| hits | a call, spans | ns | 0.5 | 2 [1 .. 3] | 4 [3 .. 4] bpftrace | 0.50 [0.25 .. 1.00] | <= 0.4 | **missed** |" in lines
    assert len([line for line in lines if line.startswith("| ")]) == 1 + 4
    assert lines[-1] == "Measured: 2026-01-31, load average 0.1 before (hits, encode, burst, latency)."


def test_every_picture_of_the_page_is_drawn(tmp_path: Path) -> None:
    """As SVG and as PNG; small."""
    shown = set(re.findall(r"\(benchmarks/(\w+)\.svg\)", page.PAGE.read_text()))
    pictures.draw(SUITES, tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {f"{name}.{kind}" for name in shown for kind in ("svg", "png")}
    assert max(sizes.values()) < 100_000
