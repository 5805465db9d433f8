"""`python -m tests.bench [SUITE...]`: otel-usdt beside bpftrace and the OpenTelemetry SDK, in turns, in one run.

Prints a table; exit code 1 when a floor is missed. `--quick` is the minute that the tests run, with wide margins. `--publish` writes the
figures of the suites that ran, beside those of the others, to docs/benchmarks/ with their pictures, and the table of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import otel_usdt
from tests.bench import bulk, burst, calls, encode, growth, hit, instructions, latency, placement, starts
from tests.bench.bench import Bench
from tests.bench.machine import machine
from tests.bench.results import Result, Row, ratio, spread, to_json
from tests.kernel.program import compile_workload

# In the order of the table. A suite is a function that takes a Bench and yields rows and curves.
SUITES: Mapping[str, Callable[[Bench], Iterator[Result]]] = {
    "starts": starts.measure,
    "calls": calls.measure,
    "hits": hit.measure,
    "bulk": bulk.measure,
    "placement": placement.measure,
    "encode": encode.measure,
    "instructions": instructions.measure,
    "burst": burst.measure,
    "latency": latency.measure,
    "growth": growth.measure,
}
VERDICTS = {True: "[green]ok[/]", False: "[bold red]missed[/]", None: ""}


def run(names: Iterable[str], quick: bool) -> dict[str, list[Result]]:
    """Measures these suites, with progress on standard error."""
    compileall.compile_dir(str(Path(otel_usdt.__file__).parent), quiet=1)  # as an installed package is, whatever this shell's PYTHON* say
    measured: dict[str, list[Result]] = {}
    columns = BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TextColumn("{task.description}")
    with (
        tempfile.TemporaryDirectory(prefix="otel-usdt-bench-") as folder,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task("compiling the workload", total=len(list(names)))

        def say(what: str) -> None:
            progress.update(task, description=escape(what))

        bench = Bench(quick, Path(folder), compile_workload(Path(folder)), say)
        for name in names:
            say(name)
            measured[name] = list(SUITES[name](bench))
            progress.advance(task)
    return measured


def table(measured: Mapping[str, Iterable[Result]], quick: bool) -> Table:
    """For people: medians, and in brackets the least and the most."""
    shown = Table("figure", "unit", title=escape("medians [least .. most] of runs in turn"))
    for column in ("bare", "otel-usdt", "peer", "ratio", "floor", ""):
        shown.add_column(column, justify="right")
    for results in measured.values():
        for row in results:
            if isinstance(row, Row):
                against = f"{spread(row.peer)} {row.against}" if row.peer else ""
                cells = row.figure, row.unit, spread(row.bare), spread(row.ours), against, ratio(row), str(row.floor or "")
                shown.add_row(*map(escape, cells), VERDICTS[row.verdict(quick)])
        shown.add_section()
    return shown


def missed(measured: Mapping[str, Iterable[Result]], quick: bool) -> list[str]:
    """The figures that did not reach their floor."""
    rows = [row for results in measured.values() for row in results if isinstance(row, Row) and row.verdict(quick) is False]
    return [f"{row.figure}: {spread(row.ours)} {row.unit}, ratio {ratio(row) or 'none'}, floor {row.floor}" for row in rows]


def keep(path: Path, measured: Mapping[str, Iterable[Result]], load: float) -> None:
    """Writes the figures, and how busy the machine was before; those of suites that did not run now stay."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"suites": {}}
    at = time.strftime("%Y-%m-%d", time.gmtime())
    now = {name: {"at": at, "load": load, "results": to_json(results)} for name, results in measured.items()}
    suites = {name: found for name in SUITES if (found := now.get(name) or kept["suites"].get(name))}
    path.write_text(json.dumps({"machine": machine(), "suites": suites}, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1: a floor is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"any of {', '.join(SUITES)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="a minute in all, with wide margins")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.md and its pictures")
    asked = parser.parse_args(arguments)
    if asked.quick and asked.publish:
        parser.error("a quick run's figures are not for publishing")
    if unknown := [name for name in asked.suites if name not in SUITES]:
        parser.error(f"no such suite: {', '.join(unknown)} (there are {', '.join(SUITES)})")
    load = round(os.getloadavg()[0], 1)
    measured = run(asked.suites or list(SUITES), asked.quick)
    Console(width=None if sys.stdout.isatty() else 200).print(table(measured, asked.quick))
    if asked.publish:
        from tests.bench import page  # brings matplotlib, which a quick run has no use for

        keep(page.RESULTS, measured, load)
        page.write()
    for line in missed(measured, asked.quick):
        print(f"missed: {line}")
    return 1 if missed(measured, asked.quick) else 0


if __name__ == "__main__":
    sys.exit(main())
