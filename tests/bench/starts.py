"""From the command to the first span: five functions of a program, and a real configuration on a real server; on its own, and by a server
of ours that runs already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from tests.bench import runs
from tests.bench.bench import Bench
from tests.bench.postgres import busy_backend
from tests.bench.results import Row, at_most
from tests.bench.served import serving
from tests.kernel.program import running

ROUNDS = 5
HALF = at_most(0.5, margin=None)  # on a busy machine four Pythons wait for each other: a quick run does not judge that
FUNCTIONS = ("sleeper", "outer", "middle", "leaf", "timed")


def measure(bench: Bench) -> Iterator[Row]:
    """Seconds, next to bpftrace on the same probes."""
    with serving(bench.folder) as served:
        with running(bench.program) as workload:
            workload.send("sleeper 1000000000 200")
            target = {"select": {"pid": workload.pid}, "scope": "pid", "spans": [{"function": name} for name in FUNCTIONS]}
            tracers = runs.ours("trace", workload, FUNCTIONS), partial(served.first_span_s, [target]), runs.peer_spans(workload, FUNCTIONS)
            yield from _rows(bench, f"{len(FUNCTIONS)} functions", *tracers)
        if not bench.quick:
            with busy_backend(bench.folder) as backend:
                tracers = backend.ours, partial(served.first_span_s, [backend.target]), backend.peer
                yield from _rows(bench, f"PostgreSQL, {len(backend.target['spans'])} span probes", *tracers)


def _rows(bench: Bench, what: str, ours: runs.Tracer, attach: Callable[[], float], peer: runs.Tracer) -> Iterator[Row]:
    bench.say(f"start with {what}, once unmeasured")
    runs.first_span_s(ours)  # the first start on a host compiles the kernel image, and reads Python's files from disk
    measures = partial(runs.first_span_s, ours), attach, partial(runs.first_span_s, peer)
    own, served, theirs = bench.interleaved(f"start with {what}", bench.rounds(ROUNDS), *measures)
    yield Row(f"start to first span, {what}", "s", own, theirs, "bpftrace", floor=HALF)
    yield Row(f"attach by a server to first span, {what}", "s", served, theirs, "bpftrace", floor=HALF)
