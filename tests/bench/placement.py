"""What probed malloc and free of libc cost a program: ours sit where the kernel emulates, bpftrace's at the first instruction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.results import Row, at_most
from tests.bench.runs import Tracer, fastest_ns
from tests.kernel.mapped import Mapped
from tests.kernel.program import Workload, running
from tests.kernel.session import COMMAND, wait_until

ROUNDS, PAIRS = 5, 20_000
# malloc begins with a push. free begins with test rdi, rdi, which is single-stepped; the je behind it is emulated. How much dearer
# a single step is than an emulation is the machine's: 3 times on bare metal, up to 35 under a hypervisor. The floors are for the former.
FIGURES = {
    ("free",): ("malloc and free, free probed, histogram", at_most(0.5)),
    ("malloc", "free"): ("malloc and free, both probed, histogram", at_most(0.75)),
}


def measure(bench: Bench) -> Iterator[Row]:
    """Nanoseconds a pair, of the fastest batch of some."""
    for functions, (figure, floor) in FIGURES.items():
        with running(bench.program) as workload:
            libc = _libc(workload)
            pair_ns = partial(_pair_ns, workload, libc, bench.calls(PAIRS))
            tracers = _ours(workload, functions), _peer(workload, libc, functions), None
            ours, theirs, bare = bench.interleaved(figure, bench.rounds(ROUNDS), *(partial(pair_ns, one) for one in tracers))
            yield Row(figure, "ns", ours, theirs, "bpftrace", bare, floor)


def _libc(workload: Workload) -> Mapped:
    lines = Path(f"/proc/{workload.pid}/maps").read_text().splitlines()
    return Mapped(workload.pid, next(Path(line.split()[-1]) for line in lines if line.endswith("/libc.so.6")))


def _ours(workload: Workload, functions: tuple[str, ...]) -> Tracer:
    probes = (f"libc.so.6:func:{name}" for name in functions)
    return Tracer("otel-usdt", [*COMMAND, "hist", "-p", str(workload.pid), "--json", *probes])


def _peer(workload: Workload, libc: Mapped, functions: tuple[str, ...]) -> Tracer:
    clauses = (
        f"uprobe:{libc.path}:{name} {{ @start_{name}[tid] = nsecs; }} uretprobe:{libc.path}:{name} /@start_{name}[tid]/"
        f" {{ @ns_{name} = hist(nsecs - @start_{name}[tid]); delete(@start_{name}[tid]); }}"
        for name in functions
    )
    return Tracer("bpftrace", ["bpftrace", "-B", "line", "-p", str(workload.pid), "-e", "\n".join(clauses)])


def _pair_ns(workload: Workload, libc: Mapped, pairs: int, tracer: Tracer | None) -> float:
    if tracer is None:
        return fastest_ns(workload, "heap", pairs)
    with tracer.started():
        wait_until(lambda: libc.breakpoints("free") > 0, f"{tracer.name}'s attach")
        time.sleep(0.5)  # the return probe comes after the entry's
        return fastest_ns(workload, "heap", pairs)
