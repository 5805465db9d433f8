"""otel-usdt trace."""

from __future__ import annotations

from typing import Any

import click

from otel_usdt.cli.session import document, options, start


@click.command(
    "trace",
    epilog="""\b
PROBE: usdt:PROVIDER:NAME, func:NAME, addr:0x1234; BINARY: in front; A ~~ B for a pair; NAME may be a glob.
\b
Examples:
  otel-usdt trace -p 4711 func:pg_parse_query func:pg_plan_queries --for 10s
  otel-usdt trace -p 4711 --scope tree "usdt:postgresql:query__start ~~ usdt:postgresql:query__done"
""",
)
@options
@click.option("--interval", metavar="DURATION", help="Write the ledger so far this often, too.")
def command(probes: tuple[str, ...], as_json: bool, output: str | None, **how: Any) -> None:
    """Show calls as spans, live: trees of nested calls, then the ledger."""
    start(document(probes, mode="spans", view="spans", **how), as_json, output)
