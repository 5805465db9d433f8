"""The throw-away PostgreSQL leaves nothing behind, whatever ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from otel_usdt.demo import cluster as cluster_module
from otel_usdt.demo.cluster import Cluster, DemoFailed, postgres_cluster
from otel_usdt.demo.load import pgbench, prepare
from otel_usdt.errors import TargetNotFound

_SLEEPER = """
import time
from otel_usdt.demo import postgres_cluster
with postgres_cluster() as cluster:
    print(cluster.pid, cluster.folder, flush=True)
    time.sleep(60)
"""

pytestmark = pytest.mark.postgres


def gone(cluster: Cluster) -> bool:
    """Whether neither the folder nor the server nor any of its children is there."""
    return not cluster.folder.exists() and not Path(f"/proc/{cluster.pid}").exists() and not servers_in(cluster.folder)


def servers_in(folder: Path) -> list[int]:
    """Processes whose command line or working directory names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes() or str((process / "cwd").readlink()).startswith(str(folder)):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_cluster_serves_through_its_socket_alone_and_leaves_nothing() -> None:
    """Settings reach the server, psql returns rows, no port is open, and afterwards folder and processes are gone."""
    with postgres_cluster(settings={"log_statement": "all"}) as cluster:
        assert cluster.psql("SHOW log_statement") == "all"
        assert cluster.psql("SHOW listen_addresses") == ""
        assert cluster.psql("SELECT 1, 'x' UNION SELECT 2, 'ž' ORDER BY 1") == "1|x\n2|ž"
        assert cluster.psql("SELECT pg_backend_pid()") != str(cluster.pid)
        assert "SHOW log_statement" in cluster.log.read_text()
        assert Path(f"/proc/{cluster.pid}/exe").readlink() == cluster.bin / "postgres"
    assert gone(cluster)


def test_cluster_is_gone_after_an_error() -> None:
    """An exception in the body stops the server and removes the folder, and goes up unchanged; a failed statement is such a one."""
    with pytest.raises(DemoFailed, match='column "nothing" does not exist'), postgres_cluster() as cluster:
        cluster.psql("SELECT nothing")
    assert gone(cluster)


def test_sigterm_cleans_up() -> None:
    """A process that is told to terminate in the body first stops its cluster, then ends with 143."""
    with subprocess.Popen([sys.executable, "-c", _SLEEPER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        assert Path(folder).is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert not Path(folder).exists()
    assert not Path(f"/proc/{pid}").exists()


def test_server_that_does_not_start_says_why_and_leaves_nothing() -> None:
    """A setting that the server refuses ends in its own message."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o711)
        with pytest.raises(DemoFailed, match="no_such_setting"), postgres_cluster(Path(made), {"no_such_setting": "1"}):
            pytest.fail("the cluster started")
        assert list(Path(made).iterdir()) == []


def test_pgbench_runs_its_transactions_and_is_ended_on_the_way_out() -> None:
    """A pgbench of a given number of transactions does them all; one that is left early is gone."""
    with postgres_cluster() as cluster:
        prepare(cluster)
        with pgbench(cluster, 1, 1, options=["-b", "select-only"], rate=40) as load:
            assert "transactions actually processed" in load.wait()
        with pgbench(cluster, 60, 3) as load:
            assert load.process.poll() is None
        assert load.process.poll() is not None
        assert int(cluster.psql("SELECT count(*) FROM pgbench_accounts")) == 100_000
    assert gone(cluster)


def test_missing_postgresql_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a server the error names the package to install."""
    monkeypatch.setattr(cluster_module, "_INSTALLED", tmp_path)
    with pytest.raises(TargetNotFound, match="no PostgreSQL") as raised, postgres_cluster():
        pytest.fail("a cluster without PostgreSQL")
    assert raised.value.hint == "apt-get install postgresql"
