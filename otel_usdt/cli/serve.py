"""otel-usdt serve."""

from __future__ import annotations

import os
import sys

import click

from otel_usdt.cli.serving import socket_option


@click.command(
    "serve",
    epilog="""\b
Examples:
  otel-usdt serve
  otel-usdt attach examples/postgresql.yaml; otel-usdt sessions; otel-usdt detach 1
""",
)
@socket_option
def command(path: str) -> None:
    """Keep a session ready, so that `attach` takes milliseconds rather than most of a second. SIGTERM detaches all sessions.

    What is ready takes some 100 MB of memory. Sessions write to our standard output what their console is to show.
    """
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "otel_usdt.server", path])
