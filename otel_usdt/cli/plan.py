"""otel-usdt plan: what a configuration would do, without doing it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from otel_usdt.children import Planner
from otel_usdt.planner import DISASSEMBLED
from otel_usdt.request import read_configuration, request_for


@click.command(
    "plan",
    epilog="""\b
Examples:
  otel-usdt plan examples/postgresql.yaml
  otel-usdt plan config.yaml --json | jq .refused
""",
)
@click.argument("config", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="The plan as JSON (docs/json.md).")
def command(config: str, as_json: bool) -> None:
    """Resolve a configuration and print what would be attached where, at what cost, to how many processes, and what is refused and why."""
    text = read_configuration(config)
    planner = Planner(DISASSEMBLED)
    planner.ask(request_for(text, config, str(Path.cwd())))
    told = planner.plan().to_dict()
    planner.dismiss()
    if told["export"]["otlp"]:  # headers carry credentials
        told["export"]["otlp"]["headers"] = dict.fromkeys(told["export"]["otlp"]["headers"], "***")
    if as_json:
        click.echo(json.dumps(told))
    elif sys.stdout.isatty():
        from rich.console import Console

        from otel_usdt.cli.views.plan import render

        render(Console(), told)
    else:
        from otel_usdt.cli.views.plan import plain

        plain(click.echo, told)
