"""The whole way that spans and metrics take in production: sidecar, gateway, Jaeger, Tempo, Prometheus. Started once a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.kernel.conftest import program, start, workload
from tests.kernel.fixtures import nothing_left_behind, otel_usdt, stack
from tests.peers.servers import Server, collector, free_ports, jaeger, prometheus, tempo
from tests.postgres.conftest import cluster

__all__ = ["cluster", "nothing_left_behind", "otel_usdt", "program", "stack", "start", "workload"]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Every server of it, ready. Targets need service names of their own, for the servers keep what came before."""

    sidecar: Server
    gateway: Server
    jaeger: Server
    tempo: Server
    prometheus: Server

    @property
    def endpoint(self) -> str:
        """Where otel-usdt sends to: OTLP/gRPC."""
        return self.sidecar.url("grpc")


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """sidecar.yaml and gateway.yaml as they are shipped, and the servers behind them."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("sidecar", "gateway", "jaeger", "tempo", "prometheus")}
    own = free_ports("prometheus")
    with ExitStack() as stack:
        to_jaeger = stack.enter_context(jaeger(folders["jaeger"]))
        to_tempo = stack.enter_context(tempo(folders["tempo"]))
        environment = {
            "JAEGER_ENDPOINT": f"127.0.0.1:{to_jaeger.ports['grpc']}",
            "TEMPO_ENDPOINT": f"127.0.0.1:{to_tempo.ports['grpc']}",
            "PROMETHEUS_LISTEN": f"127.0.0.1:{own['prometheus']}",
        }
        sooner = {"connectors": {"span_metrics": {"metrics_flush_interval": "1s"}}}
        gateway = stack.enter_context(collector("gateway", folders["gateway"], environment, sooner))
        environment = {
            "GATEWAY_ENDPOINT": f"127.0.0.1:{gateway.ports['grpc']}",
            "GATEWAY_INSECURE": "true",
            "OTELCOL_STORAGE": str(folders["sidecar"] / "queue"),
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=tests,service.name=never",
        }
        sidecar = stack.enter_context(collector("sidecar", folders["sidecar"], environment))
        scraper = stack.enter_context(prometheus(folders["prometheus"], own["prometheus"]))
        yield Pipeline(sidecar, gateway, to_jaeger, to_tempo, scraper)
