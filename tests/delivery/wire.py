"""A wire that is cut: TCP from a port to a receiver's, and for each connection how far it carries, or what it says of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cut:
    """Bytes that are carried towards the receiver and back; None for all. With `says` nothing is carried: that is the answer."""

    up: int | None = None
    down: int | None = None
    says: bytes | None = None


@contextmanager
def wire(to: int, cut: Callable[[int], Cut]) -> Iterator[int]:
    """Its port. `cut` is asked with the number of the connection, from 0."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threads: list[threading.Thread] = []
        ends: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    client, _ = server.accept()
                    how = cut(len(ends) // 2)
                    receiver = socket.create_connection(("127.0.0.1", to))
                    ends.extend((client, receiver))
                    if how.says is not None:
                        start(_say, client, how.says)
                    else:
                        start(_carry, client, receiver, how.up)
                        start(_carry, receiver, client, how.down)

        def start(run: Callable[..., None], *arguments: object) -> None:
            threads.append(threading.Thread(target=run, args=arguments))
            threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server.getsockname()[1]
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes accept, which close does not
            accepting.join()
            for end in ends:
                _close(end)
            for thread in threads:
                thread.join()


def _carry(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    with suppress(OSError):
        while limit is None or limit > 0:
            data = source.recv(1 << 16 if limit is None else limit)
            if not data:
                break
            target.sendall(data)
            limit = None if limit is None else limit - len(data)
    _close(source)
    _close(target)


def _say(client: socket.socket, what: bytes) -> None:
    with suppress(OSError):
        client.recv(1 << 16)
        client.sendall(what)
    _close(client)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
