"""otel-usdt sessions."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from otel_usdt.asking import ask
from otel_usdt.cli.serving import socket_option

HEADINGS = ("SESSION", "CONFIGURATION", "OWNER", "REASON", "SITES", "ATTACHED FOR", "ENDS IN")


@click.command("sessions", epilog="Example: otel-usdt sessions --json | jq -r 'select(.ends_unix_s == null) | .session'")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a session (docs/json.md).")
@socket_option
def command(as_json: bool, path: str) -> None:
    """The sessions of a running server (otel-usdt serve): whose they are, why, and for how long yet."""
    sessions = ask(path, {"sessions": True})["sessions"]
    if as_json:
        for session in sessions:
            click.echo(json.dumps(session))
        return
    if not sessions:
        click.echo("no sessions")
        return
    rows = [HEADINGS, *(row(session, time.time()) for session in sessions)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def row(session: dict[str, Any], now_s: float) -> tuple[str, ...]:
    """One for people."""
    ends = session["ends_unix_s"]
    age, left = duration(now_s - session["attached_unix_s"]), duration(ends - now_s) if ends else "-"
    return session["session"], session["source"], session["owner"] or "-", session["reason"] or "-", str(session["sites"]), age, left


def duration(seconds: float) -> str:
    """Two units at most: 3 h 5 min."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if count]
    return " ".join(parts[:2]) or "0 s"
