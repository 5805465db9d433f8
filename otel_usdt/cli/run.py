"""otel-usdt run: the sidecar."""

from __future__ import annotations

import click

from otel_usdt.cli.session import become_supervisor


@click.command(
    "run",
    epilog="""\b
Examples:
  otel-usdt run /etc/otel-usdt/config.yaml
  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 otel-usdt run examples/postgresql.yaml
""",
)
@click.argument("config", metavar="FILE")
def command(config: str) -> None:
    """Run the sidecar with a configuration: plan, attach, export, until SIGTERM, the lease or the targets end it.

    SIGTERM detaches first, then flushes. If this process dies, all is detached.
    """
    become_supervisor(config)
