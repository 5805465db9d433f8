"""`python -m tests.bench`: otel-usdt beside bpftrace on the same probes, and beside the OpenTelemetry SDK; interleaved, medians.

Prints numbers and asserts nothing: they are this machine's, today. Takes about a minute.
"""

from __future__ import annotations

import compileall
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

import otel_usdt
from tests.bench import runs
from tests.bench.encode import rates
from tests.bench.postgres import busy_backend
from tests.kernel.program import compile_workload, running

START_ROUNDS, CALL_ROUNDS = 5, 3
CALLS = 20_000
FUNCTIONS = ("sleeper", "outer", "middle", "leaf")
DASH = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `bare` is the program without any tracer."""

    figure: str
    ours: float
    peer: float | None = None
    bare: float | None = None


def interleaved(rounds: int, *measures: Callable[[], float], tick: Callable[[], None]) -> list[float]:
    """The median of each measure over `rounds` of all of them in turn, so that the machine's moods fall on all alike."""
    taken: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for measure, values in zip(measures, taken, strict=True):
            values.append(measure())
            tick()
    return [median(values) for values in taken]


def start_row(program: Path, tick: Callable[[], None]) -> Row:
    """From the command to the first call that it shows."""
    with running(program) as workload:
        workload.send("sleeper 1000000000 200")
        tracers = runs.ours("trace", workload, FUNCTIONS), runs.peer_spans(workload, FUNCTIONS)
        return Row(f"start to first span, {len(FUNCTIONS)} functions [ms]", *starts(*tracers, tick=tick))


def postgres_row(folder: Path, tick: Callable[[], None]) -> Row:
    """The same for a real configuration on a real server."""
    with busy_backend(folder) as backend:
        return Row(f"start to first span, PostgreSQL, {backend.spans} span probes [ms]", *starts(backend.ours, backend.peer, tick=tick))


def starts(*tracers: runs.Tracer, tick: Callable[[], None]) -> list[float]:
    """Milliseconds from each one's start to its first span."""
    seconds = interleaved(START_ROUNDS, *(partial(runs.first_span_s, tracer) for tracer in tracers), tick=tick)
    return [1000 * value for value in seconds]


def call_rows(program: Path, function: str, what: str, tick: Callable[[], None]) -> Iterator[Row]:
    """What a probed call costs the program, as spans and as a histogram."""
    for mode, peer in (("trace", runs.peer_spans), ("hist", runs.peer_histogram)):
        with running(program) as workload:
            measure = partial(runs.call_ns, workload, function, CALLS)
            tracers = runs.ours(mode, workload, (function,)), peer(workload, (function,)), None
            mine, theirs, bare = interleaved(CALL_ROUNDS, *(partial(measure, tracer) for tracer in tracers), tick=tick)
            yield Row(f"a call of {what}, {'spans' if mode == 'trace' else 'histogram'} [ns]", mine, theirs, bare)


def encode_rows() -> Iterator[Row]:
    """Spans per CPU second, next to the SDK's where that does the same."""
    measured = rates()
    for path in ("reading the ring", "the clear encoder"):
        yield Row(f"{path} [per CPU second]", measured[path])
    for path in (path for path in measured if path.startswith("spans ")):
        yield Row(f"{path}, ring to OTLP [per CPU second; beside the SDK]", measured[path], measured["the SDK"])


def table(rows: list[Row]) -> Table:
    """For people."""
    shown = Table("figure", title=f"medians of {START_ROUNDS} starts and {CALL_ROUNDS} x {CALLS} calls")
    for column in ("bare", "otel-usdt", "peer", "ratio"):
        shown.add_column(column, justify="right")
    for row in rows:
        values = [DASH if value is None else f"{value:,.0f}" for value in (row.bare, row.ours, row.peer)]
        shown.add_row(escape(row.figure), *values, DASH if row.peer is None else f"{row.ours / row.peer:.2f}")
    return shown


def main() -> int:
    """Measures, with progress on standard error, and prints the table."""
    compileall.compile_dir(str(Path(otel_usdt.__file__).parent), quiet=1)  # as an installed package is, whatever this shell's PYTHON* say
    total = 4 * START_ROUNDS + 4 * 3 * CALL_ROUNDS + 1
    with (
        tempfile.TemporaryDirectory(prefix="otel-usdt-bench-") as folder,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        program = compile_workload(Path(folder))
        task = progress.add_task("measuring", total=total)

        def tick() -> None:
            progress.advance(task)

        rows = [
            start_row(program, tick),
            postgres_row(Path(folder), tick),
            *call_rows(program, "leaf", "a function that starts with lea", tick),
            *call_rows(program, "outer", "a function that starts with push", tick),
            *encode_rows(),
        ]
        tick()
    Console(width=None if sys.stdout.isatty() else 120).print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
