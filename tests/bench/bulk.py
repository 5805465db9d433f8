"""Hundreds of probes at once: how long to attach and to let go, what they cost while nobody calls, and what an outsider pays."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from otel_usdt.plan import Target
from otel_usdt.probes import attach, image
from tests.bench import hit
from tests.bench.bench import Bench
from tests.bench.results import Row, Spread, at_most
from tests.kernel.program import Workload, running
from tests.kernel.session import COMMAND, read_into, wait_until
from tests.kernel.test_bulk import FUNCTIONS, many_functions

ROUNDS = 3
IDLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Session:
    """One that has so many of the program's functions probed."""

    process: subprocess.Popen[str]
    said: list[str]
    attached_s: float  # from its start

    def stopped_s(self) -> float:
        """Stops it; seconds until it says that all is detached."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGINT)
        wait_until(lambda: any("detached" in line for line in list(self.said)), "the detach")
        return time.perf_counter() - began

    def cpu_s(self) -> float:
        """CPU time of all its processes so far, those that have ended included."""
        whole = psutil.Process(self.process.pid)
        return sum(sum(one.cpu_times()[:4]) for one in (whole, *whole.children(recursive=True)))


@contextmanager
def attached(workload: Workload, folder: Path, functions: str) -> Iterator[Session]:
    """A session of histograms of these functions."""
    spans = [{"function": f"func:{functions}", "mode": "histogram"}]
    document = {"targets": [{"select": {"pid": workload.pid}, "spans": spans}], "limits": {"max_probes": FUNCTIONS}}
    config = folder / "bulk.yaml"
    config.write_text(json.dumps({**document, "export": {"console": {"view": "histograms"}}}))
    began = time.perf_counter()
    arguments = [*COMMAND, "run", str(config)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said: list[str] = []
        reader = read_into(process.stderr, said)
        try:
            wait_until(lambda: "attached\n" in said or process.poll() is not None, "the attach")
            assert process.poll() is None, said
            yield Session(process, said, time.perf_counter() - began)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
            reader.join()


def idle_cpu(workload: Workload, folder: Path, functions: str) -> float:
    """Milliseconds of CPU a second that a session takes whose probes never fire."""
    with attached(workload, folder, functions) as running_session:
        time.sleep(1)  # what a start leaves to do
        before = running_session.cpu_s()
        time.sleep(IDLE_S)
        return 1000 * (running_session.cpu_s() - before) / IDLE_S


def outsider_ns(target: hit.HitTarget, other: int, made: image.Image, by: attach.Way) -> float:
    """A call of a probed function in a process that is not in the tree which the probes are for."""
    case = hit.Case("emulated", "histogram")
    with hit.ours(target, case, made, by, Target("other", "tree", (other,), {})):
        return target.call_ns(case.function)


def measure(bench: Bench) -> Iterator[Row]:
    """Attach, detach, silence, outsiders."""
    with running(many_functions(bench.folder)) as workload:
        starts, stops = [], []
        for turn in range(bench.rounds(ROUNDS)):
            bench.say(f"{FUNCTIONS} functions, round {turn + 1}")
            with attached(workload, bench.folder, "many_*") as one:
                starts.append(one.attached_s)
                stops.append(one.stopped_s())
        yield Row(f"start to attached, {FUNCTIONS} functions", "s", Spread(tuple(starts)), floor=at_most(3.0, margin=None))
        yield Row(f"to detach {FUNCTIONS} functions", "s", Spread(tuple(stops)), floor=at_most(2.0, margin=None))
        if not bench.quick:
            what = f"our CPU time with {FUNCTIONS} silent probes"
            measures = partial(idle_cpu, workload, bench.folder, "many_*"), partial(idle_cpu, workload, bench.folder, "many_0")
            many, few = bench.interleaved(what, ROUNDS, *measures)
            yield Row(what, "ms/s", many, few, "one silent probe", floor=at_most(1.5))
    yield from outsiders(bench)


def outsiders(bench: Bench) -> Iterator[Row]:
    """With a session's links, and with the links of kernels before 6.13."""
    made, _ = image.find_image(bench.say)
    with hit.hit_target(bench.folder) as target, subprocess.Popen(["sleep", "600"]) as other:
        try:
            best = attach.way()
            ways = best, attach.Way(multi=True, session=False)
            measures = [partial(outsider_ns, target, other.pid, made, way) for way in ways]
            bare = partial(target.call_ns, "emulated")
            what = "an outsider's call of a probed function"
            ours, without, plain = bench.interleaved(what, bench.rounds(hit.ROUNDS), *measures, bare)
            floor = at_most(0.7) if best.session else None
            yield Row(what, "ns", ours, without, "without uprobe sessions", plain, floor)
        finally:
            other.kill()
