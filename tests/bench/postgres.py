"""Start to first span on the real thing: every probe of examples/postgresql.yaml on one backend under pgbench, ours and bpftrace's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from otel_usdt.demo.cluster import Cluster, postgres_cluster
from otel_usdt.demo.load import pgbench, prepare
from tests.bench.runs import Tracer
from tests.kernel.session import COMMAND, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "postgresql.yaml"
LONG_S = 600


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend that runs queries all the time, and both tracers for it."""

    ours: Tracer
    peer: Tracer
    target: dict[str, Any]  # of our configuration


@contextmanager
def busy_backend(folder: Path) -> Iterator[Backend]:
    """A cluster with one client; `folder` takes the configuration."""
    with postgres_cluster() as cluster:
        prepare(cluster)
        with pgbench(cluster, LONG_S, 1, options=["-S"]):
            pids = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pgbench_accounts%' AND pid <> pg_backend_pid()"
            wait_until(lambda: cluster.psql(pids).isdigit(), "pgbench's backend")
            pid = int(cluster.psql(pids))
            (target,) = yaml.safe_load(EXAMPLE.read_text())["targets"]
            config = folder / "postgresql.yaml"
            target |= {"select": {"pid": pid}, "scope": "pid"}
            config.write_text(json.dumps({"targets": [target], "export": {"console": {}}}))
            yield Backend(
                Tracer("otel-usdt", [*COMMAND, "run", str(config)]),
                Tracer("bpftrace", ["bpftrace", "-B", "line", "-p", str(pid), "-e", program(cluster, target["spans"])]),
                target,
            )


def program(cluster: Cluster, spans: list[dict[str, Any]]) -> str:
    """The same span probes for bpftrace: a line a call."""
    path = cluster.bin / "postgres"
    return "\n".join(line for i, span in enumerate(spans) for line in _clauses(path, i, span))


def _clauses(path: Path, i: int, span: dict[str, Any]) -> Iterator[str]:
    begin, shown = f"{{ @start_{i}[tid] = nsecs; }}", f'printf("call {i} %d %d\\n", @start_{i}[tid], nsecs - @start_{i}[tid]);'
    end = f"/@start_{i}[tid]/ {{ {shown} delete(@start_{i}[tid]); }}"
    if "function" in span:
        yield f"uprobe:{path}:{span['function']} {begin}"
        yield f"uretprobe:{path}:{span['function']} {end}"
    elif "probe" in span:
        yield f"{_usdt(path, span['probe'])} {{ @count_{i} = count(); }}"
    else:
        yield f"{_usdt(path, span['enter'])} {begin}"
        for one in span["return"] if isinstance(span["return"], list) else [span["return"]]:
            yield f"{_usdt(path, one)} {end}"


def _usdt(path: Path, probe: str) -> str:
    return probe.replace("usdt:", f"usdt:{path}:", 1)
