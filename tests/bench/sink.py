"""An OTLP receiver that costs little: it takes spans without looking at them, keeps the newest metrics, or hangs.

`python -m tests.bench.sink` is its process, told what to do by lines: "open", or "metrics", which it answers in hexadecimal.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.kernel.program import die_with_parent
from tests.pipeline.decoded import points
from tests.pipeline.receivers import Received

OUTCOMES = ("otel_usdt.calls", "otel_usdt.calls.waiting")  # together every call, by where it is


@dataclass(frozen=True, slots=True)
class Sink:
    """A running receiver."""

    process: subprocess.Popen[str]
    port: int

    def open(self) -> None:
        """Answers all that hangs, and all that comes."""
        self._tell("open")

    def metrics(self) -> list[Any]:
        """The newest metrics, decoded."""
        self._tell("metrics")
        return [ExportMetricsServiceRequest.FromString(bytes.fromhex(self._line()))]

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def fates(metrics: list[Any]) -> Counter[str]:
    """Calls by what became of them, as metrics tell it: the ledger."""
    told: Counter[str] = Counter()
    for name in OUTCOMES:
        for point in points(Received(metrics=metrics), name):
            told[str(point.attributes.get("otel_usdt.outcome") or point.attributes["otel_usdt.where"])] += int(point.own.as_int)
    return told


def measured(metrics: list[Any]) -> int:
    """Calls that the histograms have."""
    return sum(int(point.own.count) for point in points(Received(metrics=metrics), "otel_usdt.call.duration"))


@contextmanager
def sink(*, hangs: bool = False) -> Iterator[Sink]:
    """On loopback, in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent
    ) as process:
        assert process.stdout is not None
        made = Sink(process, int(process.stdout.readline()))
        if not hangs:
            made.open()
        yield made
        process.kill()


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Bodies as they are; an empty one answers everything that OTLP has."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.metrics = b""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._spans if "TraceService" in handler_call_details.method else self._metrics)

    def _spans(self, _: bytes, __: grpc.ServicerContext) -> bytes:
        self.opened.wait()
        return b""

    def _metrics(self, body: bytes, _: grpc.ServicerContext) -> bytes:
        self.opened.wait()
        self.metrics = body
        return b""


def main() -> None:
    """Serves until it is killed."""
    handlers = _Handlers()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handlers], options=(("grpc.so_reuseport", 0),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    for line in sys.stdin:
        if line == "open\n":
            handlers.opened.set()
        else:
            print(handlers.metrics.hex(), flush=True)


if __name__ == "__main__":
    main()
