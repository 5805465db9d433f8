"""otel-usdt attach."""

from __future__ import annotations

import json

import click

from otel_usdt.asking import attach, attached
from otel_usdt.cli.serving import socket_option


@click.command(
    "attach",
    epilog="""\b
Examples:
  otel-usdt attach examples/postgresql.yaml
  otel-usdt attach --json config.yaml | jq -r .session
""",
)
@click.argument("config", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/json.md).")
@socket_option
@click.pass_context
def command(context: click.Context, config: str, as_json: bool, path: str) -> None:
    """Start a session in a running server (otel-usdt serve), as `run` does on its own; returns when every probe is on.

    It lasts until its lease, its targets, `otel-usdt detach` or the server end it. OTEL_* variables are those of this command.
    """
    told = attach(path, config)
    if isinstance(told, int):
        context.exit(told)
    click.echo(json.dumps(told) if as_json else attached(told))
