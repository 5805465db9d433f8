"""Calls whose two ends run on different threads or processes, told to be one by a key."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.program import Workload, die_with_parent
from tests.kernel.session import MARK, wait_until

pytestmark = pytest.mark.kernel


def job(**key: Any) -> dict[str, Any]:
    """Of the workload's jobs; each span has the number that was put, and the one that was got."""
    numbers = {"put": {"arg": 2}, "got": {"arg": 2, "at": "return"}}
    return {"name": "job", "enter": "func:put", "return": "func:got", "key": {"arg": 1, **key}, "attributes": numbers}


def numbers(spans: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return sorted((span["attributes"]["put"], span["attributes"]["got"]) for span in spans)


def test_jobs_of_a_thread_pool_are_calls_from_put_to_get(workload: Workload, otel_usdt: Commands) -> None:
    """1009 jobs through five threads: each one span, begun in the producer's call, to which the consumer's call links."""
    producer, consumer = ({"name": name, "function": name} for name in ("produce", "consume"))
    session = otel_usdt.spans(workload.pid, job(), producer, consumer)
    workload.run("pool 1009 5")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["job"]) == all_exported(1009)
    assert numbers(told.named("job")) == [(i, i) for i in range(1009)]
    produced = {span["span_id"]: span for span in told.named("produce")}
    linked = {link["span_id"]: span for span in told.named("consume") for link in span["links"]}
    assert len(linked) == 1009
    for span in told.named("job"):
        parent, end = produced[span["parent_span_id"]], linked[span["span_id"]]
        assert (span["trace_id"], span["tid"]) == (parent["trace_id"], workload.pid)
        assert end["tid"] != span["tid"]
        assert end["trace_id"] != span["trace_id"]
        assert parent["start_time_unix_nano"] <= span["start_time_unix_nano"] <= span["end_time_unix_nano"] <= end["end_time_unix_nano"]
    assert sum(bucket["count"] for bucket in told.histograms["job"]["buckets"]) == 1009


def test_a_hundred_thousand_may_be_in_flight(workload: Workload, otel_usdt: Commands) -> None:
    """All are put before the first is got, and none is lost; in histogram mode nothing but the count leaves."""
    spans = {**job(), "mode": "histogram"}
    spans["key"]["pending"] = 100_003
    session = otel_usdt.spans(workload.pid, spans, limits={"ring": "64MiB"})
    workload.run("backlog 100003")
    told = session.stop()
    check_closed(told.ledger, mode="histogram")
    assert nonzero(told.ledger["job"]) == {"entries": 100003, "returns": 100003, "calls": 100003, "sampled_out": 100003}
    assert told.histograms["job"]["count"] == 100003
    assert told.spans == []


def test_what_finds_no_room_is_counted(workload: Workload, otel_usdt: Commands) -> None:
    """Of 101 that are open at once 61 have room: the ends of the others are orphans."""
    session = otel_usdt.spans(workload.pid, job(pending=61))
    workload.run("backlog 101")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["job"]) == {**all_exported(61), "entries": 101, "returns": 101, "map_full": 40, "orphaned": 40}
    assert numbers(told.spans) == [(i, i) for i in range(61)]


@pytest.mark.parametrize(
    ("duplicates", "pairs", "left"),
    [
        ("fifo", [(i, i * 1000) for i in range(5)], {"in_flight": 2}),
        ("last", [(6, 0)], {"unwound": 6, "orphaned": 4}),
    ],
)
def test_one_key_may_be_put_several_times(
    workload: Workload, otel_usdt: Commands, duplicates: str, pairs: list[tuple[int, int]], left: Mapping[str, int]
) -> None:
    """Seven puts and five gets of one key: the oldest first, or the newest in place of the others."""
    session = otel_usdt.spans(workload.pid, job(duplicates=duplicates))
    workload.run("same 7 5")
    told = session.stop()
    check_closed(told.ledger)
    assert numbers(told.spans) == pairs
    assert nonzero(told.ledger["job"]) == {**all_exported(len(pairs)), "entries": 7, "returns": 5, **left}


def test_what_is_never_got_expires(workload: Workload, otel_usdt: Commands) -> None:
    """Two of seven puts stay without a get: given up when their time is over, and said."""
    session = otel_usdt.spans(workload.pid, job(expire="300ms"))
    workload.run("same 7 5")
    wait_until(lambda: "lost: job: expired 2" in "".join(session.err), "the loss of two")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["job"]) == {**all_exported(5), "entries": 7, "expired": 2}


def test_a_key_may_be_a_name(workload: Workload, otel_usdt: Commands) -> None:
    """Strings are told apart in the kernel; their text does not leave it, so no capture is asked for."""
    named = {**job(**{"as": "string"}), "enter": "func:put_named", "return": "func:got_named"}
    session = otel_usdt.spans(workload.pid, named)
    workload.run("named 211")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["job"]) == all_exported(211)
    assert numbers(told.spans) == [(i, i) for i in range(211)]


def test_sampling_and_short_calls_count_all_the_same(workload: Workload, otel_usdt: Commands) -> None:
    """The put side decides; what makes no span has its count and its place in the histogram."""
    session = otel_usdt.spans(workload.pid, job(), {**job(), "name": "slow", "min_duration": "1h"}, target={"sample": "50%"})
    workload.run("backlog 1009")
    told = session.stop()
    check_closed(told.ledger)
    sampled = told.ledger["job"]["sampled_out"]
    assert 400 < sampled < 610  # 1009 fair coins: outside once in 10^10 runs
    assert nonzero(told.ledger["job"]) == {
        **all_exported(1009),
        "recorded": 1009 - sampled,
        "exported": 1009 - sampled,
        "sampled_out": sampled,
    }
    assert nonzero(told.ledger["slow"]) == {"entries": 1009, "returns": 1009, "calls": 1009, "too_short": 1009}
    assert {name: histogram["count"] for name, histogram in told.histograms.items()} == {"job": 1009, "slow": 1009}


HOOKS = "long put(long key, long n) { return key + n; } long got(long key, long n) { return key - n; }"
QUEUE = """
import ctypes, multiprocessing, os, sys
hooks = ctypes.CDLL(sys.argv[1])
def work(queue):
    while (n := queue.get()) is not None:
        hooks.got(ctypes.c_long(n), ctypes.c_long(n))
queue = multiprocessing.get_context("fork").Queue()
print(os.getpid(), flush=True)
for line in sys.stdin:
    children = [multiprocessing.get_context("fork").Process(target=work, args=(queue,)) for _ in range(3)]
    for child in children:
        child.start()
    for n in range(int(line)):
        hooks.put(ctypes.c_long(n), ctypes.c_long(n))
        queue.put(n)
    for child in children:
        queue.put(None)
    for child in children:
        child.join()
    print("done", flush=True)
"""


def test_jobs_of_a_python_queue_cross_processes(otel_usdt: Commands, stack: ExitStack, tmp_path: Path) -> None:
    """Put in the parent, got in one of three children: `within: any` pairs them, and the span is the parent's."""
    library = tmp_path / "hooks.so"
    subprocess.run(
        ["cc", "-O1", "-fno-ipa-icf", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)], input=HOOKS, text=True, check=True
    )
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", QUEUE, str(library)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=MARK,
            preexec_fn=die_with_parent,
        )
    )
    stack.callback(process.kill)
    assert process.stdin is not None
    assert process.stdout is not None
    assert int(process.stdout.readline()) == process.pid
    probe = {**job(within="any"), "enter": "hooks.so:func:put", "return": "hooks.so:func:got"}
    session = otel_usdt.spans(process.pid, probe, scope="tree")
    process.stdin.write("307\n")
    process.stdin.close()
    assert process.stdout.readline() == "done\n"
    process.wait()
    told = session.wait()  # it ends with its last target
    check_closed(told.ledger)
    assert nonzero(told.ledger["job"]) == all_exported(307)
    assert numbers(told.spans) == [(i, i) for i in range(307)]
    assert Counter(span["pid"] for span in told.spans) == {process.pid: 307}
