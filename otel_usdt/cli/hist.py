"""otel-usdt hist."""

from __future__ import annotations

from typing import Any

import click

from otel_usdt.cli.session import document, options, start


@click.command(
    "hist",
    epilog="""\b
PROBE: usdt:PROVIDER:NAME, func:NAME, addr:0x1234; BINARY: in front; A ~~ B for a pair; NAME may be a glob.
\b
Examples:
  otel-usdt hist -p 4711 func:XLogFlush --for 30s
  otel-usdt hist -p 4711 --interval 5s --json func:XLogFlush
""",
)
@options
@click.option("--interval", metavar="DURATION", help="Show the figures so far this often, too.")
def command(probes: tuple[str, ...], as_json: bool, output: str | None, **how: Any) -> None:
    """Histograms of call durations, bucketed in the kernel: no record leaves it."""
    start(document(probes, mode="histogram", view="histograms", **how), as_json, output)
