"""otel-usdt as a sidecar on a workload, exporting over OTLP, and what its two lasting processes cost."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kernel import processes
from tests.kernel.program import Workload
from tests.kernel.session import Session, start

CALLED = {"function": "outer"}  # starts with push, which the kernel emulates


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A session that is attached."""

    session: Session
    pids: tuple[int, int]  # supervisor, pipeline

    def cpu_s(self) -> float:
        """CPU seconds of both since they began, of the threads that they have; to the nanosecond, which /proc/PID/stat is not."""
        return sum(int(path.read_text().split()[0]) for path in self._threads("schedstat")) / 1e9

    def pss_mb(self) -> float:
        """Megabytes of both; what they share with others is divided among all that share it."""
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids]
        return sum(int(found[1]) for text in rollups if (found := re.search(r"^Pss: *(\d+) kB", text, re.M))) / 1000

    def wakeups(self) -> int:
        """How often a thread of both has gone to sleep by itself, and so was woken again."""
        told = (re.search(r"^voluntary_ctxt_switches:\s*(\d+)", path.read_text(), re.M) for path in self._threads("status"))
        return sum(int(found[1]) for found in told if found)

    def _threads(self, name: str) -> list[Path]:
        return [path for pid in self.pids for path in Path(f"/proc/{pid}/task").glob(f"*/{name}")]


def configuration(pid: int, port: int, spans: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A document for one process, exporting to `port` on loopback. Metrics go out once, at the end."""
    target = {"select": {"pid": pid}, "scope": "pid", "spans": spans, **more.pop("target", {})}
    return {"targets": [target], "export": {"otlp": {"endpoint": f"http://127.0.0.1:{port}"}, "interval": "1h"}, **more}


@contextmanager
def sidecar(folder: Path, document: dict[str, Any]) -> Iterator[Sidecar]:
    """Runs a configuration; stops it on the way out, and its last metrics are at the sink then."""
    path = folder / "sidecar.yaml"
    path.write_text(json.dumps(document))
    with start("run", path) as session:
        session.wait_attached()
        pids = processes.supervisor(session).pid, processes.pipeline(session).pid
        yield Sidecar(session, pids)
        told = session.stop()
        assert told.exit_code == 0, told.stderr


def pinned(workload: Workload, core: int = 0) -> None:
    """Keeps the target on one core."""
    os.sched_setaffinity(workload.pid, {core})
