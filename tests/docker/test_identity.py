"""Targets in real Docker containers: named as OBI names them, without Docker's socket, and traced all the same."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from otel_usdt.targets.identity import resource_of
from tests.docker.daemon import Docker
from tests.kernel.commands import Commands
from tests.pipeline.decoded import spans
from tests.pipeline.receivers import grpc_receiver

pytestmark = pytest.mark.kernel

COMPOSE = ("--label", "com.docker.compose.service=orders")


def resource(docker: Docker, name: str, *options: str) -> dict[str, Any]:
    """Of the workload in a container of these options."""
    with docker.container(name, *options):
        made = resource_of(docker.pid(name))
        assert made is not None
        assert made["container.id"] == docker.run("inspect", "--format", "{{.Id}}", name)
        assert made["container.name"] == name
        assert made["process.executable.name"] == "workload"
        return made


@pytest.mark.parametrize(
    ("options", "service", "instance"),
    [
        ((), "shop-orders-1", "shop-orders-1"),
        (COMPOSE, "orders", "orders.shop-orders-1"),
        ((*COMPOSE, "--env", "OTEL_SERVICE_NAME=own"), "own", "orders.shop-orders-1"),
        (("--env", "OTEL_RESOURCE_ATTRIBUTES=service.name=own,service.namespace=shop"), "own", "shop.own.shop-orders-1"),
        (("--env", "OTEL_RESOURCE_ATTRIBUTES=service.instance.id=i-1"), "shop-orders-1", "i-1"),
        (("--cgroupns", "private", "--pid", "host"), "shop-orders-1", "shop-orders-1"),
    ],
    ids=["plain", "compose", "own name", "namespace", "own instance", "namespaces"],
)
def test_a_container_is_named_in_the_order_of_obi(docker: Docker, options: tuple[str, ...], service: str, instance: str) -> None:
    """The target's own variables, then the compose service, then the container's name; the id is Docker's."""
    made = resource(docker, "shop-orders-1", *options)
    assert (made["service.name"], made["service.instance.id"]) == (service, instance)


def test_a_call_in_a_container_arrives_under_its_name(docker: Docker, otel_usdt: Commands, stack: ExitStack) -> None:
    """A whole session on a container: every call is a span, under the resource of the container."""
    port, received = stack.enter_context(grpc_receiver())
    workload = stack.enter_context(docker.container("shop-orders-1", *COMPOSE))
    pid, identity = docker.pid("shop-orders-1"), docker.run("inspect", "--format", "{{.Id}}", "shop-orders-1")
    session = otel_usdt.spans(pid, {"function": "leaf"}, export={"otlp": {"endpoint": f"http://127.0.0.1:{port}"}})
    workload.run("leaf 71")
    assert session.stop().exit_code == 0
    arrived = spans(received.traces)
    assert len(arrived) == 71
    [told] = {tuple(sorted(span.resource.items())) for span in arrived}
    wanted = {"service.name": "orders", "service.instance.id": "orders.shop-orders-1", "container.id": identity, "process.pid": pid}
    assert wanted.items() <= dict(told).items()
