"""Hundreds of functions of one program, probed at once: each is counted exactly, and each is let go."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from otel_usdt.probes import attach
from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed, nonzero
from tests.kernel.processes import supervisor
from tests.kernel.program import Workload, running, symbols

pytestmark = pytest.mark.kernel

FUNCTIONS = 500
PROGRAM = """
#include <stdio.h>
#include <unistd.h>
%(functions)s
int main(void)
{
    char line[32];
    printf("{\\"ready\\": %%d}\\n", getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
%(calls)s
        puts("{}");
        fflush(stdout);
    }
}
"""


def times(number: int) -> int:
    """How often a function is called: so that no neighbour's count will do."""
    return 1 + number % 11


def many_functions(folder: Path, count: int = FUNCTIONS) -> Path:
    """A program of so many functions, each of which it calls `times`."""
    functions = [f"__attribute__((noinline, noipa)) long many_{n}(long x) {{ return x * {n + 3}; }}" for n in range(count)]
    calls = [f"for (long i = 0; i < {times(n)}; i++) many_{n}(i);" for n in range(count)]
    source = folder / "many.c"
    source.write_text(PROGRAM % {"functions": "\n".join(functions), "calls": "\n".join(calls)})
    subprocess.run(["gcc", "-O1", "-o", str(folder / "many"), str(source)], check=True)
    return folder / "many"


def test_five_hundred_functions_are_counted_each_and_let_go(otel_usdt: Commands, tmp_path: Path) -> None:
    """Every call of every function is in its own histogram; afterwards the program's code is as it was, and it calls on."""
    with running(many_functions(tmp_path)) as workload:
        every = {"function": "func:many_*", "mode": "histogram"}
        session = otel_usdt.spans(workload.pid, every, limits={"max_probes": FUNCTIONS})
        assert probed(workload) == FUNCTIONS
        if attach.way().session:
            links = [one for one in supervisor(session).descriptors() if "bpf_link" in one or "bpf-link" in one]
            assert len(links) == 3  # one for all functions, and the tracepoints of a thread's and a program's end
        workload.run("call")
        told = session.stop()
        assert probed(workload) == 0
        workload.run("call")
    check_closed(told.ledger)
    calls = {f"many_{n}": times(n) for n in range(FUNCTIONS)}
    assert {name: c["count"] for name, c in told.histograms.items()} == calls
    each = ("entries", "returns", "calls", "sampled_out")  # in a mode without records
    assert {name: nonzero(c) for name, c in told.ledger.items()} == {name: dict.fromkeys(each, count) for name, count in calls.items()}


def probed(workload: Workload) -> int:
    """How many bytes of all its functions differ from the file: each breakpoint is one."""
    found = [where for name, where in symbols(workload.path).items() if name.startswith("many_")]
    start, stop = min(address for address, _ in found), max(address + size for address, size in found)
    with Path(f"/proc/{workload.pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(workload.base() + start)
        code = memory.read(stop - start)
    return sum(now != then for now, then in zip(code, workload.path.read_bytes()[start:stop], strict=True))
