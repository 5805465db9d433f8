"""One run of otel-usdt or of bpftrace, for the clock."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.kernel.bpftrace import interrupt
from tests.kernel.program import Workload
from tests.kernel.session import COMMAND, read_into, wait_until

Lines = list[str]
BATCHES = 10  # so that one at least is not interrupted


@dataclass(frozen=True, slots=True)
class Tracer:
    """A tracer and how it is told to look at functions of a workload."""

    name: str
    arguments: list[str]

    @contextmanager
    def started(self) -> Iterator[Lines]:
        """Runs it; yields the lines of its standard output as they come."""
        process = subprocess.Popen(
            self.arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ)
        )
        assert process.stdout is not None
        lines: Lines = []
        reader = read_into(process.stdout, lines)
        try:
            yield lines
        finally:
            interrupt(process)
            reader.join()
            process.stdout.close()


def ours(command: str, workload: Workload, functions: tuple[str, ...]) -> Tracer:
    """`otel-usdt trace` or `hist` on these functions."""
    probes = [f"func:{name}" for name in functions]
    return Tracer("otel-usdt", [*COMMAND, command, "-p", str(workload.pid), "--json", *probes])


def peer_spans(workload: Workload, functions: tuple[str, ...]) -> Tracer:
    """bpftrace with the same: a line a call with its start and duration."""
    return _bpftrace(workload, functions, 'printf("call {name} %d %d\\n", @start_{name}[tid], nsecs - @start_{name}[tid]);')


def peer_histogram(workload: Workload, functions: tuple[str, ...]) -> Tracer:
    """bpftrace with the same: a histogram a function."""
    return _bpftrace(workload, functions, "@ns_{name} = hist(nsecs - @start_{name}[tid]);")


def _bpftrace(workload: Workload, functions: tuple[str, ...], action: str) -> Tracer:
    clauses = [
        f"uprobe:{workload.path}:{name} {{ @start_{name}[tid] = nsecs; }}"
        f" uretprobe:{workload.path}:{name} /@start_{name}[tid]/ {{ {action.format(name=name)} delete(@start_{name}[tid]); }}"
        for name in functions
    ]
    return Tracer("bpftrace", ["bpftrace", "-B", "line", "-p", str(workload.pid), "-e", "\n".join(clauses)])


def first_span_s(tracer: Tracer) -> float:
    """Seconds from the start of `tracer` to the first call that it prints, of a program that calls all the time."""
    began = time.perf_counter()
    with tracer.started() as lines:
        wait_until(lambda: any(_is_call(line) for line in list(lines)), f"{tracer.name}'s first span")
        return time.perf_counter() - began


def call_ns(workload: Workload, function: str, calls: int, tracer: Tracer | None) -> float:
    """Nanoseconds a call of `function`, under `tracer` (None: bare)."""
    if tracer is None:
        return fastest_ns(workload, function, calls)
    with tracer.started():
        wait_until(lambda: workload.breakpoints(function) > 0, f"{tracer.name}'s attach")
        time.sleep(0.3)  # the return probe comes after the entry's
        return fastest_ns(workload, function, calls)


def fastest_ns(workload: Workload, command: str, times: int) -> float:
    """Nanoseconds for each of the `times` that the workload does `command`, as it measures them: the fastest batch of some."""
    batch = times // BATCHES
    return min(float(workload.run(f"{command} {batch}")["elapsed_ns"]) for _ in range(BATCHES)) / batch


def _is_call(line: str) -> bool:
    return line.startswith("call ") or (line.startswith("{") and "span_id" in json.loads(line))
