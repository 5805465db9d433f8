"""From the command to the first span that it shows: five functions of a program, and a real configuration on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.bench import runs
from tests.bench.bench import Bench
from tests.bench.postgres import busy_backend
from tests.bench.results import Row, at_most
from tests.kernel.program import running

ROUNDS = 5
HALF = at_most(0.5, margin=None)  # on a busy machine four Pythons wait for each other: a quick run does not judge that
FUNCTIONS = ("sleeper", "outer", "middle", "leaf", "timed")


def measure(bench: Bench) -> Iterator[Row]:
    """Seconds, next to bpftrace on the same probes."""
    with running(bench.program) as workload:
        workload.send("sleeper 1000000000 200")
        tracers = runs.ours("trace", workload, FUNCTIONS), runs.peer_spans(workload, FUNCTIONS)
        yield _row(bench, f"start to first span, {len(FUNCTIONS)} functions", *tracers)
    if not bench.quick:
        with busy_backend(bench.folder) as backend:
            what = f"start to first span, PostgreSQL, {backend.spans} span probes"
            yield _row(bench, what, backend.ours, backend.peer)


def _row(bench: Bench, what: str, ours: runs.Tracer, peer: runs.Tracer) -> Row:
    bench.say(f"{what}, once unmeasured")
    runs.first_span_s(ours)  # the first start on a host compiles the kernel image, and reads Python's files from disk
    mine, theirs = bench.interleaved(what, bench.rounds(ROUNDS), partial(runs.first_span_s, ours), partial(runs.first_span_s, peer))
    return Row(what, "s", mine, theirs, "bpftrace", floor=HALF)
