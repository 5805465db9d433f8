"""examples/postgresql.yaml on a real PostgreSQL under load: exact against the server's own log and statistics."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_usdt.demo.cluster import Cluster
from otel_usdt.demo.load import pgbench
from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.session import Session, Told, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.postgres]

EXAMPLE = Path(__file__).parents[2] / "examples" / "postgresql.yaml"
STATEMENT = re.compile(r"^\[(\d+)\] LOG:  statement: ", re.MULTILINE)

Span = dict[str, Any]


def attach(otel_usdt: Commands, cluster: Cluster, *, text: bool = False) -> Session:
    """The example as it is shipped, but for this postmaster, without a ceiling, and onto the console."""
    document = yaml.safe_load(EXAMPLE.read_text())
    (target,) = document["targets"]
    target["select"], target["capture"] = {"pid": cluster.pid}, {"text": text}
    document.pop("budget")
    export = {"console": {"view": "all", "interval": "1s"}}
    return otel_usdt.run({"targets": [target], "limits": {"ring": "64MiB", "text_ring": "64MiB"}, "export": export})


def statements(cluster: Cluster, since: int) -> Counter[int]:
    """How many statements each backend logged after `since` bytes of the log."""
    with cluster.log.open("rb") as log:
        log.seek(since)
        return Counter(int(pid) for pid in STATEMENT.findall(log.read().decode()))


def load(cluster: Cluster, *options: str) -> None:
    """A pgbench run to its end."""
    subprocess.run(cluster.command("pgbench", "-n", *options), check=True, capture_output=True)


def around(span: Span, by_id: dict[str, Span], name: str) -> Span | None:
    """The nearest span of this name that `span` descends from."""
    while span["parent_span_id"]:
        span = by_id[span["parent_span_id"]]
        if span["name"] == name:
            return span
    return None


def lossless(told: Told) -> None:
    """Exit code 0, the ledger closes, and every call became a span."""
    assert told.exit_code == 0
    check_closed(told.ledger)
    lost = {name: nonzero(c) for name, c in told.ledger.items() if c["recorded"] != c["exported"] or c["ring_full"] or c["rate_limited"]}
    assert not lost


def test_query_spans_are_the_statements_of_the_log(cluster: Cluster, otel_usdt: Commands) -> None:
    """Backend by backend there are as many query spans as the server logged statements; pg_stat_statements agrees."""
    session = attach(otel_usdt, cluster)
    since = cluster.log.stat().st_size
    cluster.psql("SELECT pg_stat_statements_reset()")
    load(cluster, "-c", "3", "-j", "2", "-t", "101")
    counted = int(cluster.psql("SELECT sum(calls) FROM pg_stat_statements"))
    truth = statements(cluster, since)
    told = session.stop()
    lossless(told)
    assert Counter(span["pid"] for span in told.named("query")) == truth
    assert len(truth) >= 5  # three of pgbench's at least, and two of psql's
    # The statement that reads the statistics is not in them yet.
    assert len(told.named("query")) == truth.total() == counted + 1
    assert nonzero(told.ledger["query"]) == all_exported(truth.total())


def test_steps_lie_inside_their_query(cluster: Cluster, otel_usdt: Commands) -> None:
    """Every parse, rewrite, plan and execute has its query among its ancestors: same trace, same process, within its time."""
    session = attach(otel_usdt, cluster)
    load(cluster, "-c", "2", "-t", "53")
    told = session.stop()
    lossless(told)
    by_id = {span["span_id"]: span for span in told.spans}
    queries = len(told.named("query"))
    steps = [span for span in told.spans if span["name"] in ("parse", "rewrite", "plan", "execute")]
    assert Counter(span["name"] for span in steps)["parse"] == queries
    for step in steps:
        query = around(step, by_id, "query")
        assert query is not None, step
        assert (step["trace_id"], step["pid"], step["tid"]) == (query["trace_id"], query["pid"], query["tid"])
        assert query["start_time_unix_nano"] <= step["start_time_unix_nano"]
        assert step["end_time_unix_nano"] <= query["end_time_unix_nano"]


def test_backends_forked_after_the_attach_are_traced_from_their_first_query(cluster: Cluster, otel_usdt: Commands) -> None:
    """Seven connections made one after another under the probes: the first statement of each is a span."""
    session = attach(otel_usdt, cluster)
    backends = [int(cluster.psql("SELECT pg_backend_pid()")) for _ in range(7)]
    told = session.stop()
    lossless(told)
    assert Counter(span["pid"] for span in told.named("query")) == dict.fromkeys(backends, 1)
    assert Counter(span["pid"] for span in told.named("backend start")) == dict.fromkeys(backends, 1)


def test_failed_statements_are_unwound_and_their_transactions_aborted(cluster: Cluster, otel_usdt: Commands) -> None:
    """Five divisions by zero leave query and plan by longjmp: unwound, never mispaired; each transaction ends by its abort."""
    session = attach(otel_usdt, cluster)
    failing = "SELECT 1/0;\n" * 5 + "SELECT 1;\n"
    subprocess.run(cluster.command("psql", "-XqAt", "-f", "-"), input=failing, text=True, check=True, capture_output=True)
    told = session.stop()
    lossless(told)
    assert nonzero(told.ledger["query"]) == {**all_exported(1), "entries": 6, "unwound": 5}
    assert nonzero(told.ledger["plan"]) == {**all_exported(1), "entries": 6, "unwound": 5}
    assert nonzero(told.ledger["parse"]) == all_exported(6)
    assert nonzero(told.ledger["execute"]) == all_exported(1)
    assert nonzero(told.ledger["transaction"]) == all_exported(7)  # and the one in which a backend starts


def test_text_of_statements_is_captured_when_asked_for(cluster: Cluster, otel_usdt: Commands) -> None:
    """With `capture: {text: true}` each query span has its statement."""
    session = attach(otel_usdt, cluster, text=True)
    cluster.psql("SELECT 'a';\nSELECT 'b' AS long, '" + "x" * 400 + "';")
    told = session.stop()
    lossless(told)
    texts = [
        span["attributes"]["db.query.text"] for span in sorted(told.named("query"), key=lambda span: int(span["start_time_unix_nano"]))
    ]
    assert texts == ["SELECT 'a';", ("SELECT 'b' AS long, '" + "x" * 400)[:255]]


def test_text_of_statements_stays_where_it_is_by_default(cluster: Cluster, otel_usdt: Commands) -> None:
    """As the example is shipped no statement's text leaves the server."""
    session = attach(otel_usdt, cluster)
    cluster.psql("SELECT 'secret'")
    told = session.stop()
    lossless(told)
    assert len(told.named("query")) == 1
    assert not any("db.query.text" in span["attributes"] for span in told.spans)
    assert "secret" not in "".join(session.out)


def test_a_statement_hangs_under_the_span_that_its_comment_names(cluster: Cluster, otel_usdt: Commands) -> None:
    """As sqlcommenter writes it: the query is a child of the caller's span, all that happens within it follows; its neighbours do not."""
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    session = attach(otel_usdt, cluster)
    cluster.psql(f"SELECT 1;\nSELECT count(*) FROM pg_class /*route='%2Forders',traceparent='00-{trace}-{parent}-01'*/;\nSELECT 2;")
    told = session.stop()
    lossless(told)
    joined = [span for span in told.spans if span["trace_id"] == trace]
    assert [(span["name"], span["parent_span_id"]) for span in joined if span["name"] == "query"] == [("query", parent)]
    assert {span["name"] for span in joined} >= {"query", "parse", "rewrite", "plan", "execute"}
    assert len(told.named("query")) == 3
    assert told.ledger["query"]["joined_argument"] == 1


WORK = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent);
COPY parent FROM PROGRAM 'seq 1 100';
INSERT INTO child SELECT g FROM generate_series(1, 100) g;
SELECT id FROM child ORDER BY id DESC;
BEGIN; INSERT INTO parent VALUES (1001); ROLLBACK;
VACUUM parent;
ANALYZE parent;
CHECKPOINT;
DROP TABLE child, parent;
"""


def one_waits_for_a_table(cluster: Cluster) -> None:
    """A client locks a table, and lets it go when another is seen to wait for it."""
    locks = "SELECT count(*) FROM pg_locks WHERE relation = 'pgbench_tellers'::regclass AND granted = {}"
    command = cluster.command("psql", "-Xq")
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        holder.stdin.write("BEGIN; LOCK TABLE pgbench_tellers;\n")
        holder.stdin.flush()
        wait_until(lambda: cluster.psql(locks.format(True)) == "1", "the lock")
        waiter = subprocess.Popen(cluster.command("psql", "-Xq", "-c", "SELECT count(*) FROM pgbench_tellers"), stdout=subprocess.DEVNULL)
        wait_until(lambda: cluster.psql(locks.format(False)) == "1", "somebody who waits for it")
        holder.stdin.write("COMMIT;\n")
        holder.stdin.close()
        assert (holder.wait(60), waiter.wait(60)) == (0, 0)


def test_every_probe_of_the_example_fires(cluster: Cluster, otel_usdt: Commands) -> None:
    """Work that needs each of them once at least: sorts, locks, aborts, contention, maintenance."""
    session = attach(otel_usdt, cluster)
    cluster.psql(WORK)
    one_waits_for_a_table(cluster)

    def all_fired() -> bool:
        with pgbench(cluster, 3, 16, options=["-j", "2"]) as running:
            running.wait()
        looks = session.ledgers()
        return bool(looks) and all(counts["entries"] for counts in looks[-1].values())

    wait_until(all_fired, "a hit of each probe")
    told = session.stop()
    lossless(told)
    silent = [name for name, c in told.ledger.items() if not c["entries"]]
    assert not silent
    named = {span["name"] for span in yaml.safe_load(EXAMPLE.read_text())["targets"][0]["spans"]}
    assert named == told.ledger.keys()
    (wait,) = [span for span in told.named("lock wait") if span["attributes"]["postgresql.lock.type"] == 0]
    assert wait["attributes"]["postgresql.lock.mode"] == 1  # AccessShare
