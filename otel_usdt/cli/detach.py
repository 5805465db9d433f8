"""otel-usdt detach."""

from __future__ import annotations

import click

from otel_usdt.asking import ask
from otel_usdt.cli.serving import socket_option
from otel_usdt.errors import OtelUsdtError, TargetNotFound


@click.command("detach", epilog="Example: otel-usdt detach 3")
@click.argument("session", metavar="SESSION")
@socket_option
def command(session: str, path: str) -> None:
    """End a session of a running server: every probe is detached, then what was recorded is exported. Returns when that is done."""
    answer = ask(path, {"detach": session})
    if "unknown" in answer:
        raise TargetNotFound(f"no session {session}", hint="otel-usdt sessions lists them")
    if answer["ended"]:
        raise OtelUsdtError(f"session {session} is detached, and ended with status {answer['ended']}", hint="the server's log says why")
    click.echo(f"session {session} is detached")
