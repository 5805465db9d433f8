"""Where otel-usdt's own telemetry may listen: on loopback, and for other hosts when that is asked for."""

from __future__ import annotations

import pytest

from tests.unit.configtext import faults, load, span


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("127.0.0.1:9464", "127.0.0.1:9464"),
        ("127.9.9.9:65535", "127.9.9.9:65535"),
        ("localhost:1", "127.0.0.1:1"),
        ("'[::1]:0'", "[::1]:0"),
        ("'[0:0:0:0:0:0:0:1]:09'", "[::1]:9"),
    ],
)
def test_telemetry_listens_on_loopback(written: str, read: str) -> None:
    """An address and a port, written one way; without the key nothing listens."""
    assert load(span("function: f") + f"telemetry: {{listen: {written}}}").telemetry.listen == read
    assert load(span("function: f")).telemetry.listen is None


@pytest.mark.parametrize(
    "written",
    ["'9464'", "127.0.0.1", "host:1", "127.0.0.1:65536", "127.0.0.1:-1", "'::1:1'", "'[127.0.0.1]:1'", "'[fe80::1%eth0]:1'", "':1'"],
)
def test_what_is_no_place_to_listen_is_refused(written: str) -> None:
    """With an example of one."""
    [fault] = faults(span("function: f") + f"telemetry: {{listen: {written}}}")
    assert "is no place to listen: ADDRESS:PORT is wanted" in fault


@pytest.mark.parametrize("host", ["0.0.0.0", "'[::]", "192.0.2.1"])
def test_telemetry_for_other_hosts_must_be_asked_for(host: str) -> None:
    """Nobody opens a port to the network by a slip."""
    listen = f"{host}:1{chr(39) * host.startswith(chr(39))}"
    [fault] = faults(span("function: f") + f"telemetry: {{listen: {listen}}}")
    assert "is open to other hosts: listen on 127.0.0.1, or say remote: true" in fault
    assert load(span("function: f") + f"telemetry: {{listen: {listen}, remote: true}}").telemetry.remote
