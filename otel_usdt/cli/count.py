"""otel-usdt count."""

from __future__ import annotations

from typing import Any

import click

from otel_usdt.cli.session import document, options, start


@click.command(
    "count",
    epilog="""\b
PROBE: usdt:PROVIDER:NAME, func:NAME, addr:0x1234; BINARY: in front; A ~~ B for a pair; NAME may be a glob.
\b
Examples:
  otel-usdt count -p 4711 "func:pg_*" --for 5s
  otel-usdt count --binary /usr/bin/myserver usdt:myserver:request --interval 1s
""",
)
@options
@click.option("--interval", metavar="DURATION", help="Show the figures so far this often, too.")
def command(probes: tuple[str, ...], as_json: bool, output: str | None, **how: Any) -> None:
    """Count calls of probes: the cheapest look, for a first idea of the rates."""
    start(document(probes, mode="count", view="counts", **how), as_json, output)
