"""The exactness of the kernel's side on Debian's 6.1 and 6.12, in emulated machines: one session each, with all that may differ there.

6.1 has no uprobe_multi, and here the return trampoline of four-level paging; 6.12 has both the other way. `make test-kernels` runs
the whole exactness suite on each.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.session import Told
from tests.vm.other_kernel import NOT_HERE, Command, prepare, read_back, running_machine

MACHINES = {"6.1": ("6.1", "no5lvl"), "6.12": ("6.12",)}
TRACE, SERVER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(900)]


def functions(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "function": name} for name in names]


def pair(name: str, enter: str, *returns: str) -> dict[str, Any]:
    return {"name": name, "enter": f"usdt:workload:{enter}", "return": [f"usdt:workload:{one}" for one in returns]}


ONE = functions("outer", "middle", "leaf", "descend", "thrower", "tail_outer", "tail_middle", "tail_leaf", "ping", "pong", "interrupted")
ONE += functions("last_call")
ONE += [pair("around", "around__start", "around__done"), pair("within", "within__start", "within__done")]
ONE += [pair("again", "again__start", "again__done"), pair("guarded", "guarded__start", "guarded__done")]
ONE += [pair("transaction", "split__start", "split__commit", "split__abort")]
ONE += [{"name": "job", "enter": "func:put", "return": "func:got", "key": {"arg": 1}}]
TREE = [{"name": "leaf of the tree", "function": "leaf"}, *functions("forker", "doomed")]
TARGETS = {"one": {"scope": "pid", "spans": ONE}, "tree": {"scope": "tree", "spans": TREE}}
COMMANDS: list[Command] = [
    *(("one", line) for line in ("outer 101", "descend 7 61", "descend 3 70", "thrower 13 11", "tail 17", "pingpong 7 12", "signals 23")),
    *(("one", line) for line in ("threads 5 211", "thread_exits 13 0", "thread_exits 7 1", "pairs 41", "abandoned 43", "split 53")),
    *(("one", line) for line in ("backlog 101 0", "guarded 47")),
    ("obi", f"{TRACE} {SERVER}"),
    ("one", "outer 5"),
    ("obi", ""),
    *(("tree", line) for line in ("forks 5 7", "spawn 3 11", "generations 3 5", "child_killed 7", "fork_inside 11")),
]
LEAVES = 4 * 106 + 1 + 23 + 5 * 211 + 2 * 41 + 53 + 47  # of `one`: in outer, after thrower, in signals, threads, within, split, guarded
UNWOUND = {"thrower": 143, "last_call": 20}


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str, int]]:
    """Both at once: their folders, what they said, and their exit codes."""
    with ExitStack() as stack:
        running = {}
        for name, (kernel, *parameters) in MACHINES.items():
            folder = tmp_path_factory.mktemp("machine")
            prepare(folder, TARGETS, COMMANDS)
            running[name] = stack.enter_context(running_machine(kernel, folder, *parameters))
        said = {name: machine.wait() for name, machine in running.items()}
    return {name: (machine.folder, said[name], machine.process.returncode) for name, machine in running.items()}


@pytest.fixture(params=MACHINES)
def there(request: pytest.FixtureRequest, machines: dict[str, tuple[Path, str, int]]) -> tuple[dict[str, Any], Told]:
    """What the programs on that kernel said they did, and what was told of them."""
    folder, said, status = machines[request.param]
    if status == NOT_HERE:
        pytest.skip(f"no machine with Linux {request.param}: {said.strip().splitlines()[-2:]}")
    if not (folder / "out/told").exists():
        pytest.fail(f"the machine with Linux {request.param} did not come to its end:\n{said}")
    return json.loads((folder / "out/told").read_text()), read_back(folder)


def check_session(programs: dict[str, Any], told: Told) -> None:
    """One session's exact numbers."""
    assert programs["exit_code"] == 0, programs["said"]
    assert told.exit_code == 0, told.stderr
    check_closed(told.ledger)
    counts = {name: nonzero(counts) for name, counts in told.ledger.items()}
    strangers = {name: count.pop("filtered", 0) for name, count in counts.items()}
    assert counts == {
        **{name: all_exported(106) for name in ("outer", "middle")},
        "leaf": all_exported(LEAVES),
        "descend": {**all_exported(7 * 61 + 3 * 64), "entries": 7 * 61 + 3 * 70, "too_deep": 3 * 6},
        **{name: {"entries": count, "unwound": count} for name, count in UNWOUND.items()},
        **{name: all_exported(17) for name in ("tail_outer", "tail_middle", "tail_leaf")},
        "ping": all_exported(7 * 7),
        "pong": all_exported(7 * 6),
        "interrupted": all_exported(23),
        "around": all_exported(41),
        "within": all_exported(82),
        "again": {**all_exported(43), "entries": 86, "unwound": 43},
        "guarded": all_exported(47),
        "transaction": all_exported(53),
        "job": all_exported(101),
        "leaf of the tree": all_exported(5 * 7 + 3 * 11 + 3 * 5),
        "forker": {**all_exported(11), "returns": 22, "orphaned": 11},
        "doomed": {"entries": 7, "unwound": 7},
    }
    assert LEAVES <= strangers["leaf of the tree"] <= 2 * LEAVES  # the other program's hits, of entries and mostly of returns
    by_id = {span["span_id"]: span for span in told.spans}
    assert Counter((span["name"], by_id.get(span["parent_span_id"], {"name": ""})["name"]) for span in told.spans) == {
        ("outer", ""): 106,
        ("middle", "outer"): 106,
        ("leaf", "middle"): 3 * 106,
        ("leaf", "outer"): 106,
        ("leaf", ""): 1 + 5 * 211,
        ("leaf", "interrupted"): 23,
        ("leaf", "within"): 82,
        ("leaf", "transaction"): 53,
        ("leaf", "guarded"): 47,
        ("descend", ""): 10,
        ("descend", "descend"): 7 * 60 + 3 * 63,
        ("tail_outer", ""): 17,
        ("tail_middle", "tail_outer"): 17,
        ("tail_leaf", "tail_middle"): 17,
        ("ping", ""): 7,
        ("pong", "ping"): 42,
        ("ping", "pong"): 42,
        ("interrupted", ""): 23,
        ("around", ""): 41,
        ("within", "around"): 82,
        ("again", ""): 43,
        ("guarded", ""): 47,
        ("transaction", ""): 53,
        ("job", ""): 101,
        ("leaf of the tree", ""): 83,
        ("forker", ""): 11,
    }
    joined = [span for span in told.spans if span["trace_id"] == TRACE]
    assert Counter((span["name"], span["parent_span_id"] == SERVER) for span in joined) == {
        ("outer", True): 5,
        ("middle", False): 5,
        ("leaf", False): 20,
    }
    assert all(sum(bucket["count"] for bucket in one["buckets"]) == told.ledger[name]["calls"] for name, one in told.histograms.items())
    assert {name: programs["semaphores"][name] for name in ("start", "done")} == {"start": 0, "done": 0}


def test_every_count_and_parent_is_exact_on_other_kernels(there: tuple[dict[str, Any], Told]) -> None:
    """Nesting, recursion, longjmp, tail calls, signals, threads, pairs, keys, OBI's map and a tree of processes, in one session."""
    check_session(*there)


def test_probes_are_attached_by_what_the_kernel_has(there: tuple[dict[str, Any], Told]) -> None:
    """6.1 takes a perf event for each probe, 6.12 one link for many: found by trying."""
    programs, _ = there
    sites = 2 * len(ONE) + 2 * len(TREE)
    assert (programs["links"] > sites) == programs["release"].startswith("6.1.")


def test_doctor_names_what_a_kernel_has_and_lacks(there: tuple[dict[str, Any], Told]) -> None:
    """Found by trying, in a child where that could harm: 6.1 has no uprobe_multi and returns by a breakpoint."""
    programs, _ = there
    old, found = programs["release"].startswith("6.1."), {name: words for name, (_, words) in programs["doctor"].items()}
    assert found["uprobe_multi"].startswith("not in this kernel" if old else "there")
    assert found["uprobe session"].startswith("not in this kernel")
    assert found["return trampoline"].startswith("with a breakpoint" if old else "with the uretprobe system call")
    assert found["fault: 5-byte nop"].startswith("not in this kernel: a probe on a 5-byte nop is a breakpoint")
    assert found["fault: seccomp"].startswith("not in this kernel") or not old
    assert {name: programs["doctor"][name][0] for name in ("ring buffer", "map in map")} == {"ring buffer": "ok", "map in map": "ok"}


def test_the_same_session_is_exact_on_this_kernel(tmp_path: Path) -> None:
    """What is asked of other kernels is true here as well, by the same way of asking."""
    prepare(tmp_path, TARGETS, COMMANDS)
    with running_machine("", tmp_path) as machine:
        said = machine.wait()
    assert (tmp_path / "out/told").exists(), said
    check_session(json.loads((tmp_path / "out/told").read_text()), read_back(tmp_path))
