"""The receivers that are killed and started again, each with the same ground truth behind it: the sink.

- `own`: a small server of the tests, which is the sink. Killed, it breaks its connections, answers or not.
- `collector`: the OpenTelemetry Collector, killed by SIGKILL. It has no queue, so that it answers when the sink has answered it: what it
  has acknowledged is at the sink, and it never repeats anything itself. (With a queue in memory a kill would lose what it had
  acknowledged, which is its own affair; with one on disk it would itself repeat what it had just sent when it was killed.)
- `rotel`: Streamfold's receiver in Rust. It answers first and passes on later, so it is ended by SIGTERM, after which it passes on all that
  it has. A kill would lose what it had acknowledged, and no sender could know.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from otel_usdt.plan import OtlpExport
from tests.kernel.program import die_with_parent
from tests.kernel.session import MARK
from tests.peers.servers import free_ports, peer
from tests.pipeline.receivers import Answer, Received, accept, grpc_receiver, http_receiver

Kind = Literal["own", "collector", "rotel"]
How = Literal["grpc", "http/protobuf"]
Script = Callable[[int], Any]


class Life(Protocol):
    """A receiver that may be there or not."""

    def start(self) -> None: ...
    def end(self) -> None: ...


class Own:
    """A server of the tests."""

    def __init__(self, how: How, port: int, sink: Received, script: Script | None) -> None:
        self._how, self._port, self._sink, self._script = how, port, sink, script
        self._stack = ExitStack()

    def start(self) -> None:
        if self._how == "grpc":
            self._stack.enter_context(grpc_receiver(self._script or accept, self._port, into=self._sink))
        else:
            self._stack.enter_context(http_receiver(self._script or (lambda _: Answer()), self._port, into=self._sink))

    def end(self) -> None:
        self._stack.close()


class Program:
    """A real one, which passes on to a sink of the tests that is always there."""

    def __init__(self, command: list[str], folder: Path, ended_by: signal.Signals) -> None:
        self._command, self._folder, self._ended_by = command, folder, ended_by
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **MARK},
                preexec_fn=die_with_parent,
            )

    def end(self) -> None:
        if self._process:
            self._process.send_signal(self._ended_by)
            self._process.wait(30)
        self._process = None


def collector(ports: dict[str, int], sink: int, folder: Path) -> Program:
    document = {
        "receivers": {"otlp": {"protocols": {one: {"endpoint": f"127.0.0.1:{ports[one]}"} for one in ("grpc", "http")}}},
        "exporters": {
            "otlp_grpc": {
                "endpoint": f"127.0.0.1:{sink}",
                "tls": {"insecure": True},
                "compression": "none",
                "sending_queue": {"enabled": False},
                "retry_on_failure": {"enabled": False},
            }
        },
        "service": {
            "pipelines": {signal: {"receivers": ["otlp"], "exporters": ["otlp_grpc"]} for signal in ("traces", "metrics")},
            "telemetry": {"metrics": {"level": "none"}},
        },
    }
    config = folder / "collector.yaml"
    config.write_text(json.dumps(document))
    return Program([str(peer("otelcol")), "--config", str(config)], folder, signal.SIGKILL)


def rotel(ports: dict[str, int], sink: int, folder: Path) -> Program:
    found = importlib.util.find_spec("rotel")
    assert found is not None, "rotel comes with the `dev` extra"
    assert found.origin is not None
    options = {
        "otlp-grpc-endpoint": f"127.0.0.1:{ports['grpc']}",
        "otlp-http-endpoint": f"127.0.0.1:{ports['http']}",
        "exporter": "otlp",
        "otlp-exporter-endpoint": f"http://127.0.0.1:{sink}",
        "otlp-exporter-compression": "none",
    }
    program = Path(found.origin).with_name("rotel-agent")
    # Its batching is slow, and when it is ended it waits for what is in a batch not long.
    command = [str(program), "start", "--disable-batching", *(f"--{name}={value}" for name, value in options.items())]
    return Program(command, folder, signal.SIGTERM)


@contextmanager
def receiver(kind: Kind, how: How, folder: Path, sink: Received, script: Script | None = None) -> Iterator[tuple[OtlpExport, Life]]:
    """One that is not there yet, and how to send to it. `script` is the sink's."""
    ports = free_ports("grpc", "http")
    port = ports["grpc" if how == "grpc" else "http"]
    life: Life
    with ExitStack() as stack:
        if kind == "own":
            life = Own(how, port, sink, script)
        else:
            behind, _ = stack.enter_context(grpc_receiver(script or accept, into=sink))
            life = (collector if kind == "collector" else rotel)(ports, behind, folder)
        stack.callback(life.end)
        yield OtlpExport(f"http://127.0.0.1:{port}", how, timeout_s=10.0), life
