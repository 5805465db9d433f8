"""What a probed call costs the program, by its own clock: the commands as users run them, next to bpftrace doing the same."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.bench import runs
from tests.bench.bench import Bench
from tests.bench.results import Row, at_most
from tests.kernel.program import running

ROUNDS, CALLS = 5, 20_000
# The kernel emulates push and must single-step lea: the one is the program's cost, the other nearly all the trap's.
FUNCTIONS = {"outer": "a function that starts with push", "leaf": "a function that starts with lea"}


def measure(bench: Bench) -> Iterator[Row]:
    """Nanoseconds a call."""
    for function, what in list(FUNCTIONS.items())[: 1 if bench.quick else None]:
        for command, name, peer, limit in (
            ("hist", "histogram", runs.peer_histogram, 1.1),
            ("trace", "spans", runs.peer_spans, 1.3),
        ):
            with running(bench.program) as workload:
                calls = partial(runs.call_ns, workload, function, bench.calls(CALLS))
                tracers = runs.ours(command, workload, (function,)), peer(workload, (function,)), None
                figure = f"a call of {what}, {name}"
                ours, theirs, bare = bench.interleaved(figure, bench.rounds(ROUNDS), *(partial(calls, tracer) for tracer in tracers))
                yield Row(figure, "ns", ours, theirs, "bpftrace", bare, at_most(limit) if function == "outer" else None)
