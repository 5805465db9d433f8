"""Moved probes on PostgreSQL's functions: as many calls as another tracer counts at their first instructions, with the same results."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from otel_usdt.demo.cluster import Cluster
from tests.kernel.bpftrace import bpftrace
from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed
from tests.kernel.mapped import Mapped
from tests.unit.planning.configured import of, planned

pytestmark = [pytest.mark.kernel, pytest.mark.postgres]

# Of equal, which calls itself, bms_is_empty and pg_mblen both ways of the first jump are taken; that of list_free is a tail call.
FUNCTIONS = ("equal", "bms_is_empty", "bms_copy", "list_free", "ReadBuffer")
STATEMENT = "SELECT a.aid, sum(b.bbalance) FROM pgbench_accounts a JOIN pgbench_branches b USING (bid) WHERE a.aid < {} GROUP BY a.aid"


@contextmanager
def psql(cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    """A client that waits for statements, one a line."""
    command = cluster.command("psql", "-qAtX", "-v", "ON_ERROR_STOP=1")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(client: subprocess.Popen[str], statement: str) -> str:
    """The answer's last line."""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"{statement};\nSELECT 'done';\n")
    client.stdin.flush()
    last = ""
    for line in client.stdout:
        if line == "done\n":
            return last
        last = line.rstrip()
    pytest.fail("psql ended")


def test_two_tracers_count_the_same_calls_and_results(cluster: Cluster, otel_usdt: Commands) -> None:
    """One backend, 40 statements: entries, calls and each result of five functions, ours behind bpftrace's."""
    with psql(cluster) as client:
        pid = int(ask(client, "SELECT pg_backend_pid()"))
        ask(client, STATEMENT.format(7))
        postgres = Mapped(pid, cluster.bin / "postgres")
        plan = planned(of(postgres.path, *({"function": name, "mode": "histogram"} for name in FUNCTIONS), outsiders="allow"))
        assert all(site.address > site.entry and site.cost == "emulated" for site in plan.sites)
        program = "\n".join(
            f"uprobe:{postgres.path}:{name} /pid == {pid}/ {{ @{name}_entries = count(); }}"
            f" uretprobe:{postgres.path}:{name} /pid == {pid}/ {{ @{name}_returns = count(); @{name}_sum = sum(retval & 0xff); }}"
            for name in FUNCTIONS
        )
        probes = [{"function": name, "attributes": {"r": {"return": True, "as": "uint8"}}} for name in FUNCTIONS]
        with bpftrace(program, postgres, sentinels=("geqo", "tuplesort_end")) as peer:
            session = otel_usdt.spans(pid, *probes)
            assert not any(postgres.function(name)[0] != 0xCC for name in FUNCTIONS), "bpftrace's are at the first instruction"
            for n in range(40):
                ask(client, STATEMENT.format(n))
            told, maps = session.stop(), peer.stop()
    check_closed(told.ledger)
    sums: Counter[str] = Counter()
    for span in told.spans:
        sums[span["name"]] += span["attributes"]["r"]
    for name in FUNCTIONS:
        counts = told.ledger[name]
        assert counts["entries"] == counts["calls"] == maps[f"{name}_entries"] == maps[f"{name}_returns"] > 40
        assert name == "list_free" or sums[name] == maps[f"{name}_sum"]
