"""What the commands that speak to a server share."""

from __future__ import annotations

import click

from otel_usdt.asking import SOCKET, SOCKET_VARIABLE

socket_option = click.option(
    "--socket",
    "path",
    default=SOCKET,
    envvar=SOCKET_VARIABLE,
    show_default=True,
    show_envvar=True,
    metavar="PATH",
    help="The server's socket.",
)
