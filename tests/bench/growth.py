"""What our two lasting processes take at rest, and what it grows with: the calls, and neither silent probes nor other processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.results import Row, Spread, at_most
from tests.bench.sidecar import CALLED, Sidecar, configuration, pinned, sidecar
from tests.bench.sink import sink
from tests.kernel.program import Workload, die_with_parent, running
from tests.pipeline.receivers import http_receiver

ROUNDS = 3
RATE, SECONDS = 100_000, 4.0
MANY_PROBES, MANY_PROCESSES = 1000, 2000
SETTLE_S = 1.0
HTTP = "http/protobuf"  # gRPC has threads of its own, which wake five times a second and more

# Functions that nobody calls, and processes that only wait. They go when the first one's standard input is closed.
CROWD = """
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>
%s
int main(int argc, char **argv)
{
    for (long n = atol(argv[1]); n > 1; n--)
        if (!fork()) { prctl(PR_SET_PDEATHSIG, SIGKILL); pause(); }
    char byte = '\\n';
    if (write(1, &byte, 1) == 1) (void)!read(0, &byte, 1);
    return 0;
}
"""
SILENT = "__attribute__((noipa)) long silent_{0}(long n) {{ return n + {0}; }}"


def measure(bench: Bench) -> Iterator[Row]:
    """CPU and memory of supervisor and pipeline together."""
    crowd, calls, seconds = compiled_crowd(bench.folder), int(RATE * SECONDS), bench.calls(20)

    def call_us(factor: int = 1, probes: int = 1, processes: int = 1) -> float:
        with sink() as receiver, waiting(crowd, processes) as silent, attached(bench, silent, probes, receiver.port) as (ours, workload):
            workload.run("paced 1000 0")
            time.sleep(2 * SETTLE_S)  # the pipeline reads its plan after the attach
            began = ours.cpu_s()
            workload.run(f"paced {factor * calls} {RATE}")
            time.sleep(SETTLE_S)
            return 1e6 * (ours.cpu_s() - began) / (factor * calls)

    def at_rest(probes: int) -> Resting:
        bench.say(f"at rest, {probes} silent probes")
        with http_receiver() as (port, _), waiting(crowd, 1) as silent, attached(bench, silent, probes, port, HTTP) as (ours, _):
            return resting(ours, seconds)

    idle = at_rest(1)
    yield Row("at rest: wakeups of supervisor and pipeline", "/s", Spread((idle.wakeups,)), floor=at_most(5, margin=2))
    yield Row("at rest: our CPU", "ms/s", Spread((idle.cpu_ms,)))
    yield Row("at rest: memory, PSS", "MB", Spread((idle.pss_mb,)), floor=at_most(80, margin=1.5))
    if bench.quick:
        return
    silent = at_rest(MANY_PROBES)
    yield Row(f"at rest: our CPU, {MANY_PROBES:,} silent probes", "ms/s", Spread((silent.cpu_ms,)))
    yield Row(f"at rest: memory, {MANY_PROBES:,} silent probes, PSS", "MB", Spread((silent.pss_mb,)))
    one, thousand = bench.interleaved("CPU by silent probes", ROUNDS, call_us, partial(call_us, probes=MANY_PROBES))
    yield Row(f"our CPU a call, {MANY_PROBES:,} silent probes beside it", "us", thousand, one, "one", floor=at_most(1.2))
    few, many = bench.interleaved("CPU by calls", ROUNDS, call_us, partial(call_us, factor=4))
    yield Row("our CPU a call, four times as many calls", "us", many, few, "a quarter", floor=at_most(1.2))
    alone, crowded = bench.interleaved("CPU by processes", ROUNDS, call_us, partial(call_us, processes=MANY_PROCESSES))
    yield Row(f"our CPU a call, {MANY_PROCESSES:,} processes outside the scope", "us", crowded, alone, "one", floor=at_most(1.2))


@dataclass(frozen=True, slots=True)
class Resting:
    """A second of a session in which nothing is called."""

    wakeups: float
    cpu_ms: float
    pss_mb: float


def resting(ours: Sidecar, seconds: float) -> Resting:
    """After what the start left to do."""
    time.sleep(2 * SETTLE_S)
    wakeups, cpu_s, began = ours.wakeups(), ours.cpu_s(), time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    return Resting((ours.wakeups() - wakeups) / passed, 1000 * (ours.cpu_s() - cpu_s) / passed, ours.pss_mb())


def compiled_crowd(folder: Path) -> Path:
    """The program of silent functions."""
    source, program = folder / "crowd.c", folder / "crowd"
    source.write_text(CROWD % "\n".join(SILENT.format(i) for i in range(MANY_PROBES)))
    subprocess.run(["gcc", "-O1", "-o", str(program), str(source)], check=True)
    return program


@contextmanager
def waiting(crowd: Path, processes: int) -> Iterator[int]:
    """So many of them; the first one's pid."""
    with subprocess.Popen(
        [str(crowd), str(processes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        yield process.pid
        process.kill()


@contextmanager
def attached(bench: Bench, silent: int, probes: int, port: int, protocol: str = "grpc") -> Iterator[tuple[Sidecar, Workload]]:
    """A session on one function of a workload, and on so many of the silent ones."""
    span = {"function": "silent_*"} if probes > 1 else {"function": "silent_0"}
    target = {"select": {"pid": silent}, "scope": "pid", "spans": [span]}
    with running(bench.program) as workload:
        pinned(workload)
        document = configuration(workload.pid, port, [CALLED], limits={"max_probes": max(probes, 50)})
        document["targets"].append(target)
        document["export"]["otlp"]["protocol"] = protocol
        with sidecar(bench.folder, document) as ours:
            yield ours, workload
