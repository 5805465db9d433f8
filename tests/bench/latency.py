"""What the target feels: how long its calls take, bare, measured, traced, and traced while the OTLP endpoint hangs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tests.bench.bench import Bench
from tests.bench.results import Curve, Result, Row, Spread, at_least, at_most
from tests.bench.sidecar import CALLED, configuration, pinned, sidecar
from tests.bench.sink import fates, sink
from tests.kernel.program import running

ROUNDS, SECONDS = 5, 2.0
RATE = 50_000
BARE, HISTOGRAM, SPANS, HANGING = "no probe", "histogram", "spans", "spans, endpoint hangs"


def measure(bench: Bench) -> Iterator[Result]:
    """In turns; the spans that a hanging endpoint kept waiting go out when it answers again, and then the ledger is whole."""
    counts: dict[str, Counter[int]] = {how: Counter() for how in (BARE, HISTOGRAM, SPANS, HANGING)}
    calls, drained = bench.calls(int(RATE * SECONDS)), []

    def paced(how: str) -> float:
        """Nanoseconds of a call, the median of one turn: whoever else runs on the machine hardly moves it."""
        with sink(hangs=how == HANGING) as receiver, running(bench.program) as workload:
            pinned(workload)

            def run() -> dict[str, Any]:
                workload.run("paced 1000 0")  # the first calls of a process fault its pages in
                return workload.run(f"paced {calls} {RATE}")

            if how == BARE:
                answer = run()
            else:
                span = {**CALLED, "mode": "histogram" if how == HISTOGRAM else "spans"}
                with sidecar(bench.folder, configuration(workload.pid, receiver.port, [span])):
                    answer = run()
                    receiver.open()
            if how == HANGING:
                drained.append(100 * fates(receiver.metrics())["exported"] / (1000 + calls))
        counts[how].update(dict(enumerate(answer["counts"])))
        return middle_ns(answer["counts"])

    rounds = bench.rounds(ROUNDS)
    bare, histogram, spans, hanging = bench.interleaved("latency", rounds, *(lambda how=how: paced(how) for how in counts))
    what = f"a call at {RATE:,} calls/s"
    yield Row(f"{what}, histogram", "ns", histogram, bare=bare)
    yield Row(f"{what}, spans", "ns", spans, bare=bare)
    yield Row(f"{what}, spans: endpoint that hangs next to one that answers", "ns", hanging, spans, "answering", floor=at_most(1.1))
    yield Row("calls that the ring kept while the endpoint hung", "%", Spread(tuple(drained)), floor=at_least(100, margin=1.5))
    for how, taken in counts.items():
        yield slower(how, [taken[i] for i in range(max(taken) + 1)])


def slower(label: str, counts: Sequence[int]) -> Curve:
    """Share of calls that took longer, against nanoseconds."""
    total, over = sum(counts), sum(counts)
    x, y = [], []
    for bucket, count in enumerate(counts):
        over -= count
        if count and over:
            x.append(float(upper_ns(bucket)))
            y.append(over / total)
    return Curve("latency", label, tuple(x), tuple(y))


def middle_ns(counts: Sequence[int]) -> float:
    """The median, as if the calls of its bucket were spread evenly over it."""
    half, below = sum(counts) / 2, 0
    for bucket, count in enumerate(counts):
        if below + count >= half:
            lower = upper_ns(bucket - 1) if bucket else 0
            return lower + (upper_ns(bucket) - lower) * (half - below) / count
        below += count
    raise ValueError("no calls")


def upper_ns(bucket: int) -> int:
    """What the calls of a bucket take less than; tests/kernel/workload/paced.c."""
    return bucket + 1 if bucket < 8 else (8 + bucket % 8 + 1) << (bucket // 8 - 1)
