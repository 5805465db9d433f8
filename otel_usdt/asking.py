"""One question to a running server (server.py). Quick to import: `otel-usdt attach` is for the moment when something burns."""

from __future__ import annotations

import os
import socket

from otel_usdt.channel import Channel, as_file
from otel_usdt.errors import NotPermitted, OtelUsdtError, TargetNotFound
from otel_usdt.request import read_configuration, request_for

TYPE_CHECKING = False  # as in channel.py
if TYPE_CHECKING:
    from typing import Any

SOCKET = "/run/otel-usdt/server.sock"
SOCKET_VARIABLE = "OTEL_USDT_SOCKET"


def socket_path() -> str:
    """Where the server listens, unless an option says so."""
    return os.environ.get(SOCKET_VARIABLE) or SOCKET


def ask(path: str, message: dict[str, Any], *descriptors: int) -> dict[str, Any]:
    """The server's answer, however long that takes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(path)
        except PermissionError as error:
            raise NotPermitted(f"{path}: {error.strerror}", hint="the server is for root: sudo otel-usdt ...") from error
        except OSError as error:
            raise TargetNotFound(f"no server listens at {path}: {error.strerror or error}", hint="start one: otel-usdt serve") from error
        server = Channel(connection)
        server.send(message, [*descriptors])
        received = server.receive()
    if received is None:
        raise OtelUsdtError("the server has ended before it answered", hint="start it again: otel-usdt serve")
    return received[0]


def attach(path: str, config: str) -> dict[str, Any] | int:
    """Start a session with a configuration file: what there is to say of it, or, when it has failed and said why, the exit code."""
    text, folder = read_configuration(config), os.getcwd()  # noqa: PTH109  as request.py says: pathlib would cost time
    answer = ask(path, {"attach": config, "folder": folder}, as_file(request_for(text, config, folder)), 2)
    if "session" in answer:
        session: dict[str, Any] = answer["session"]
        return session
    return int(answer["ended"]) if 0 < answer["ended"] < 128 else 1


def attached(session: dict[str, Any]) -> str:
    """For people."""
    name = session["session"]
    return f"session {name}: {session['sites']} sites; to end it: otel-usdt detach {name}"
