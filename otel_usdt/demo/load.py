"""Load for the demo's PostgreSQL: pgbench's bank, and now and then a report that sorts. Standard library only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from otel_usdt.demo.cluster import Cluster, DemoFailed, run

# What pgbench's own scripts lack: a join that sorts, and a transaction that is rolled back. Weight, then the script.
_SCRIPTS = {
    "report.sql": (
        9,
        "SELECT b.bid, count(*), sum(a.abalance) AS total FROM pgbench_accounts a JOIN pgbench_branches b USING (bid)\n"
        "WHERE a.aid < 5000 GROUP BY b.bid, a.aid % 100 ORDER BY total DESC, b.bid LIMIT 10;\n",
    ),
    "audit.sql": (
        1,
        "BEGIN;\nSELECT tid, delta, filler FROM pgbench_history ORDER BY mtime DESC, filler LIMIT 100;\nROLLBACK;\n",
    ),
}
_BANK_WEIGHT = 90


@dataclass(frozen=True, slots=True)
class Load:
    """A running pgbench, and the file of what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> str:
        """What pgbench said, when it has ended by itself. DemoFailed when it did not succeed."""
        if self.process.wait() != 0:
            raise DemoFailed(f"pgbench ended with {self.process.returncode}: {self.log.read_text(errors='replace')[-2000:]}")
        return self.log.read_text(errors="replace")


def prepare(cluster: Cluster, scale: int = 1, database: str = "postgres") -> None:
    """Makes pgbench's tables: `scale` times 100,000 accounts, about a second each."""
    run(cluster.command("pgbench", "-i", "-q", "-s", str(scale), database=database))


@contextmanager
def pgbench(
    cluster: Cluster,
    seconds: float,
    clients: int,
    *,
    rate: float = 0.0,
    options: Sequence[str] = (),
    database: str = "postgres",
) -> Iterator[Load]:
    """pgbench on tables that `prepare` made, ended after `seconds` (whole ones, at least 1) or on the way out, whichever is first.

    `rate`: transactions a second, over all clients; 0: as many as it can. `options`: pgbench's own, instead of the demo's mix of scripts
    (pgbench's bank transaction of seven statements, a sorting report, a transaction that is rolled back).
    """
    chosen = list(options) or [*_scripts(cluster.folder), "-b", f"tpcb-like@{_BANK_WEIGHT}"]
    pace = ["-R", f"{rate:g}"] if rate else []
    lasting = ["-T", str(max(1, round(seconds))), "-c", str(clients), "-j", "1", "-n"]
    log = cluster.folder / "pgbench.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            cluster.command("pgbench", *lasting, *pace, *chosen, database=database),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield Load(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def _scripts(folder: Path) -> Iterator[str]:
    for name, (weight, text) in _SCRIPTS.items():
        path = folder / name
        path.write_text(text)
        yield from ("-f", f"{path}@{weight}")
