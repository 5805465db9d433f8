"""The real servers that `make peers` has made, each a process of this run of the tests: on loopback, in a folder of its own."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from tests.kernel.program import die_with_parent
from tests.kernel.session import MARK

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "collector-config"
READY_S = 120.0  # Tempo alone waits 15 s before it is ready; the rest is for a busy machine
PORTS = range(20000, 32000)  # below Linux's ephemeral ones: no connection of anybody's takes one between our look and its use


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready. `ports` are named by what they are for."""

    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    folder: Path

    def url(self, port: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        self.process.kill()
        self.process.wait()


def peer(name: str) -> Path:
    """The program of a server: otelcol, jaeger, tempo or prometheus."""
    where = subprocess.run([HERE / "build.sh", "where"], capture_output=True, text=True, check=True).stdout.strip()
    program = Path(where) / name
    if not program.exists():
        pytest.fail(f"there is no {program}: `make peers` makes it")
    return program


def free_ports(*names: str) -> dict[str, int]:
    """A free port of 127.0.0.1 for each name."""
    found: dict[str, int] = {}
    for name in names:
        for port in random.sample(PORTS, len(PORTS)):
            with socket.socket() as one, suppress(OSError):
                one.bind(("127.0.0.1", port))
                if port not in found.values():
                    found[name] = port
                    break
    return found


def get(url: str, accept: str = "application/json") -> bytes:
    """The body of a GET that succeeds."""
    with urlopen(Request(url, headers={"Accept": accept}), timeout=60) as answer:
        body: bytes = answer.read()
        return body


def get_json(url: str) -> Any:
    """The same, decoded."""
    return json.loads(get(url))


@contextmanager
def running(
    command: Sequence[str | Path], ports: dict[str, int], ready: str, folder: Path, environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """Starts a server, in `folder`, and waits until `ready` ("PORT/PATH", by its name) answers 200; stops it by its pid on the way out."""
    port, _, path = ready.partition("/")
    log = folder / "log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **MARK, **(environment or {})},
            preexec_fn=die_with_parent,
        )
    try:
        server = Server(process, ports, folder)
        _wait_ready(server, server.url(port, f"/{path}"), log)
        yield server
    finally:
        process.kill()  # what it holds is wanted no more, and leaving in good order takes Tempo half a minute
        process.wait()


def _wait_ready(server: Server, url: str, log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and server.process.poll() is None:
        with suppress(URLError, OSError):
            get(url, accept="*/*")
            return
        time.sleep(0.1)
    what = f"ended with {server.process.returncode}" if server.process.poll() is not None else f"is not ready after {READY_S:.0f} s"
    pytest.fail(f"{server.process.args!r} {what}:\n{log.read_text(errors='replace')[-4000:]}")


@contextmanager
def collector(name: str, folder: Path, environment: dict[str, str], over: dict[str, Any] | None = None) -> Iterator[Server]:
    """collector-config/NAME.yaml as it is shipped, but for its ports, `grpc`, `http` and `health`, and what is laid `over` it."""
    folder.mkdir(exist_ok=True)
    ports = free_ports("grpc", "http", "health")
    own = {
        "receivers": {"otlp": {"protocols": {one: {"endpoint": f"127.0.0.1:{ports[one]}"} for one in ("grpc", "http")}}},
        "extensions": {"health_check": {"endpoint": f"127.0.0.1:{ports['health']}"}},
        "service": {"telemetry": {"metrics": {"level": "none"}}},  # its own metrics have a fixed port
        **(over or {}),
    }
    laid_over = folder / "ports.yaml"
    laid_over.write_text(json.dumps(own))
    command: list[str | Path] = [peer("otelcol"), "--config", CONFIG / f"{name}.yaml", "--config", laid_over]
    with running(command, ports, "health/", folder, environment) as server:
        yield server


@contextmanager
def jaeger(folder: Path) -> Iterator[Server]:
    """Jaeger with its spans in memory: ports `grpc` (OTLP), `query` and `health`."""
    ports = free_ports("grpc", "query", "query_grpc", "health")
    at = {name: {"endpoint": f"127.0.0.1:{port}"} for name, port in ports.items()}
    document = {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query", "healthcheckv2"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}},
        },
        "extensions": {
            "healthcheckv2": {"use_v2": True, "http": at["health"]},
            "jaeger_query": {"storage": {"traces": "memory"}, "http": at["query"], "grpc": at["query_grpc"]},
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 100000}}}},
        },
        "receivers": {"otlp": {"protocols": {"grpc": at["grpc"]}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }
    config = folder / "jaeger.yaml"
    config.write_text(json.dumps(document))
    with running([peer("jaeger"), "--config", config], ports, "health/status", folder) as server:
        yield server


@contextmanager
def tempo(folder: Path) -> Iterator[Server]:
    """Tempo, all of it in one process, on files: ports `grpc` (OTLP) and `query`."""
    ports = free_ports("grpc", "query", "own")
    document = {
        "server": {
            "http_listen_address": "127.0.0.1",
            "http_listen_port": ports["query"],
            "grpc_listen_address": "127.0.0.1",
            "grpc_listen_port": ports["own"],
        },
        "usage_report": {"reporting_enabled": False},  # tests call nobody's home
        "search_enabled": True,
        "distributor": {"receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{ports['grpc']}"}}}}},
        "ingester": {"lifecycler": {"address": "127.0.0.1", "ring": {"kvstore": {"store": "inmemory"}, "replication_factor": 1}}},
        "querier": {"frontend_worker": {"frontend_address": f"127.0.0.1:{ports['own']}"}},
        "storage": {"trace": {"backend": "local", "local": {"path": str(folder / "blocks")}, "wal": {"path": str(folder / "wal")}}},
    }
    config = folder / "tempo.yaml"
    config.write_text(json.dumps(document))
    with running([peer("tempo"), f"-config.file={config}"], ports, "query/ready", folder) as server:
        yield server


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[Server]:
    """Prometheus that scrapes 127.0.0.1:`target` every second, as gateway.yaml says it should: port `query`."""
    ports = free_ports("query")
    scrape = {"job_name": "gateway", "honor_labels": True, "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    config = folder / "prometheus.yaml"
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
    command: list[str | Path] = [
        peer("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{ports['query']}",
        "--enable-feature=exemplar-storage",
    ]
    with running(command, ports, "query/-/ready", folder) as server:
        yield server
