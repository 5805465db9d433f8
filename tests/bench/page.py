"""docs/benchmarks.md from the kept figures: the table and the machine between their marks; the prose around them is written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench import pictures
from tests.bench.results import Result, Row, from_json, ratio, spread

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
RESULTS = PAGE.parent / "benchmarks" / "results.json"
VERDICTS = {True: "ok", False: "**missed**", None: ""}


def write() -> None:
    """The page's two parts, and all its pictures."""
    kept = json.loads(RESULTS.read_text())
    suites = {name: from_json(one["results"]) for name, one in kept["suites"].items()}
    pictures.draw(suites, RESULTS.parent)
    measured = {name: f"{one['at']}, load average {one['load']} before" for name, one in kept["suites"].items()}
    PAGE.write_text(filled(PAGE.read_text(), {"machine": machine(kept["machine"]), "table": "\n".join(table(suites, measured))}))


def filled(text: str, parts: Mapping[str, str]) -> str:
    """The text with each part between <!-- name --> and <!-- end of name -->."""
    for name, part in parts.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->\n")
        if not mark or not end:
            raise ValueError(f"{PAGE.name} has no place for the {name}")
        text = f"{before}{mark}{part}\n{end}{after}"
    return text


def machine(told: Mapping[str, Any]) -> str:
    """A line each."""
    return "\n".join(f"- {name}: {value}" for name, value in told.items())


def table(suites: Mapping[str, Sequence[Result]], measured: Mapping[str, str]) -> Iterator[str]:
    """Rows of a Markdown table."""
    yield "| suite | figure | unit | bare | otel-usdt | peer | ratio | floor | |"
    yield "|---|---|---|---:|---:|---:|---:|---:|---|"
    for suite, results in suites.items():
        for row in results:
            if isinstance(row, Row):
                peer = f"{spread(row.peer)} {row.against}" if row.peer else ""
                cells = row.figure, row.unit, spread(row.bare), spread(row.ours), peer, ratio(row), str(row.floor or "")
                yield f"| {suite} | {' | '.join(cells)} | {VERDICTS[row.verdict(quick=False)]} |"
    yield ""
    yield (
        "Measured: "
        + "; ".join(f"{when} ({', '.join(n for n in suites if measured[n] == when)})" for when in dict.fromkeys(measured.values()))
        + "."
    )
