"""docs/json.md and the code say the same: every object's fields, and an example of each that a reader could get."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otel_usdt.cli.list import Entry
from otel_usdt.cli.spool import told
from otel_usdt.doctor.check import Check
from otel_usdt.elf.locations import Location
from otel_usdt.ladder import BOUNDS_NS, uppers
from otel_usdt.metrics.histograms import HistogramSnapshot, hist_line
from otel_usdt.metrics.ledger import NAMES, check
from otel_usdt.otlp.spool import Status
from otel_usdt.plan import Binary, Plan, Refusal, Site, Span, Target
from otel_usdt.spans.model import SpanBatch
from otel_usdt.spans.view import span_lines
from otel_usdt.standby import session_object
from otel_usdt.stream.records import CALL

TEXT = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")


def tables() -> dict[str, list[str]]:
    """Fields of each table, by what leads to it: a heading's word, or the `name` of "Each of `name`"."""
    found: dict[str, list[str]] = {}
    where = ""
    for line in TEXT.splitlines():
        if heading := re.match(r"#+ (\w+)$|Each of `(\w+)`", line):
            where = heading[1] or heading[2]
        elif field := re.match(r"\| `(\w+)` \|", line):
            found.setdefault(where, []).append(field[1])
    return found


def examples() -> dict[str, dict[str, Any]]:
    """The JSON block of each heading."""
    found: dict[str, dict[str, Any]] = {}
    for section in re.split(r"^#+ ", TEXT, flags=re.MULTILINE):
        if block := re.search(r"```json\n(.*?)\n```", section, re.DOTALL):
            found[section.split()[0]] = json.loads(block[1])
    return found


def list_object() -> dict[str, Any]:
    return Entry("usdt", "/b", "", "p", "n", 1, 1, None, (Location("register", 4, True, "di"),), "safe", "").to_dict()


def trace_object() -> dict[str, Any]:
    (line,) = span_lines(SpanBatch(np.zeros(1, CALL), None, 0), [Span("s", 0, "spans", "function", "func:s")])
    return line


def hist_object() -> dict[str, Any]:
    counts = np.zeros(len(uppers(BOUNDS_NS)), np.uint64)
    counts[40] = 1
    return hist_line("p", HistogramSnapshot(counts, BOUNDS_NS, 1, 1200, 1200, 1200))


def fields(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(
    ("table", "real"),
    [
        ("list", list(list_object())),
        ("arguments", list(list_object()["arguments"][0])),
        ("trace", list(trace_object())),
        ("ledger", list(NAMES)),
        ("hist", list(hist_object())),
        ("buckets", list(hist_object()["buckets"][0])),
        ("plan", fields(Plan)),
        ("targets", fields(Target)),
        ("binaries", fields(Binary)),
        ("spans", fields(Span)),
        ("sites", fields(Site)),
        ("refused", fields(Refusal)),
        ("spool", list(told("/s", Status(0, Counter(), 0, None, None, 0)))),
        ("checks", fields(Check)),
        ("attach", ["session", *session_object(Plan.from_dict(examples()["plan"]), "c.yaml", 2, 0.0)]),
    ],
)
def test_documented_fields_are_the_real_ones(table: str, real: list[str]) -> None:
    """A field that is added to an object, or taken from it, is so in the text as well."""
    assert sorted(tables()[table]) == sorted(real)


def test_every_command_has_an_example_with_its_fields() -> None:
    """The examples are JSON of the documented shape."""
    shown = examples()
    assert set(shown) == {"list", "trace", "ledger", "count", "hist", "plan", "spool", "attach", "doctor"}
    ledger = shown.pop("ledger")["ledger"]
    assert {name: sorted(one) for name, one in shown.items()} == {name: sorted(tables()[name]) for name in shown}
    assert all(check(counts) == [] for counts in ledger.values())
    assert Plan.from_dict(shown["plan"]).to_dict() == shown["plan"] | {k: _tuples(shown["plan"][k]) for k in shown["plan"]}


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(one) for one in value)
    return {k: _tuples(one) for k, one in value.items()} if isinstance(value, dict) else value
