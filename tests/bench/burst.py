"""A target on one core that calls at a steady rate, every call a span over OTLP: what is lost, what the histogram has, what we take."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.bench import Bench
from tests.bench.results import Curve, Result, Row, Spread, at_most
from tests.bench.sidecar import CALLED, configuration, pinned, sidecar
from tests.bench.sink import fates, measured, sink
from tests.kernel.program import running

RATE, MINUTE_S = 200_000, 60.0
RATES, STEP_S = (50_000, 100_000, 200_000, 300_000, 400_000, 500_000), 5.0
SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of so many calls."""

    calls: int
    elapsed_s: float
    exported: int
    told: int  # calls that the ledger has, whatever became of them
    measured: int  # calls that the histogram has
    cpu_s: float
    pss_mb: tuple[float, ...]  # over time


def carried(bench: Bench, rate: int, seconds: float) -> Carried:
    """One session on a target that calls at `rate` for so long."""
    calls = int(rate * seconds)
    memory: list[float] = []
    with sink() as receiver, running(bench.program) as workload:
        pinned(workload)
        with sidecar(bench.folder, configuration(workload.pid, receiver.port, [CALLED])) as ours:
            workload.run("paced 1000 0")
            began, done = ours.cpu_s(), threading.Event()

            def sample() -> None:
                while not done.wait(SAMPLE_S):
                    memory.append(ours.pss_mb())

            sampling = threading.Thread(target=sample)
            sampling.start()
            try:
                workload.send(f"paced {calls} {rate}")
                answer = workload.answer(10 * seconds)
            finally:
                done.set()
                sampling.join()
            memory.append(ours.pss_mb())
            cpu_s = ours.cpu_s() - began
        told = receiver.metrics()
        whole = fates(told)
    elapsed_s = answer["elapsed_ns"] / 1e9
    return Carried(1000 + calls, elapsed_s, whole["exported"], whole.total(), measured(told), cpu_s, tuple(memory))


def measure(bench: Bench) -> Iterator[Result]:
    """The loss at a rate that is kept for a minute, then against the rate."""
    seconds = 2.0 if bench.quick else MINUTE_S
    bench.say(f"{RATE:,} calls/s for {seconds:.0f} s")
    whole = carried(bench, RATE, seconds)
    yield from rows(whole, f"{RATE:,} calls/s for {seconds:.0f} s")
    if bench.quick:
        return
    rates, losses = [], []
    for rate in RATES:
        bench.say(f"loss at {rate:,} calls/s")
        some = carried(bench, rate, STEP_S)
        rates.append(some.calls / some.elapsed_s)
        losses.append(100 * (some.calls - some.exported) / some.calls)
    yield Curve("loss", "spans lost", tuple(rates), tuple(losses))
    yield Curve("memory", "supervisor and pipeline", tuple(SAMPLE_S * n for n in range(len(whole.pss_mb))), whole.pss_mb)


def rows(whole: Carried, what: str) -> Iterator[Row]:
    """Of one session."""
    exact = at_most(0, margin=1)
    yield Row(f"{what}: kept up with", "calls/s", Spread((whole.calls / whole.elapsed_s,)))
    yield Row(f"{what}: spans lost", "% of calls", Spread((100 * (whole.calls - whole.exported) / whole.calls,)))
    yield Row(f"{what}: calls that the ledger does not account for", "calls", Spread((abs(whole.calls - whole.told),)), floor=exact)
    yield Row(f"{what}: calls that the histogram lacks", "calls", Spread((abs(whole.calls - whole.measured),)), floor=exact)
    yield Row(f"{what}: our CPU", "cores", Spread((whole.cpu_s / whole.elapsed_s,)))
    yield Row(f"{what}: supervisor and pipeline, PSS at most", "MB", Spread((max(whole.pss_mb),)), floor=at_most(80, margin=2))
