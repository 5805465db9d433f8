"""The server: it keeps a session's supervisor ready (standby.py), so that `otel-usdt attach` takes milliseconds, and knows those that run.

It attaches nothing and reads no configuration. Its sessions end with it. Standard library only, root.

client -> server   {"attach": SOURCE, "folder": PATH} with descriptors: a request for the planner, and where to say what is to be said
                   until it is attached; {"sessions": true}; {"detach": NAME}
server -> client   {"session": {...}} or {"ended": EXIT CODE}; {"sessions": [{...}, ...]}; {"ended": EXIT CODE} or {"unknown": NAME}
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otel_usdt.channel import Channel
from otel_usdt.children import SESSION, say, start_with_channel
from otel_usdt.errors import OtelUsdtError, UsageError
from otel_usdt.supervisor import catch_signals, require_root

WAITING_CLIENTS = 16
PATIENCE_S = 0.1  # with a client that does not read
QUIET_S = 0.5  # nothing has come for so long: time to start the next standby, which would slow down what is being attached


@dataclass(slots=True)
class Process:
    """A session's supervisor: first it stands by, then it attaches, then it has a session."""

    name: str
    child: subprocess.Popen[bytes]
    channel: Channel
    session: dict[str, Any] | None = None  # once it is attached
    waiting: list[Channel] = field(default_factory=list)  # clients who are answered when it is attached, or has ended

    def answer(self, message: dict[str, Any]) -> None:
        """To who waits."""
        for client in self.waiting:
            client.send(message, patience_s=PATIENCE_S)
        self.waiting.clear()


@dataclass(slots=True)
class Server:
    """Who is there, each by the descriptor of its channel."""

    standby: Process | None = None
    processes: dict[int, Process] = field(default_factory=dict)
    clients: dict[int, Channel] = field(default_factory=dict)
    started: int = 0
    prepares: bool = True  # something is to stand by; not where that has failed: then the next attach starts it, and is told what is wrong

    def stand_by(self) -> Process:
        """The process that waits for an order; a new one when there is none."""
        if self.standby is None:
            self.started += 1
            child, ours = start_with_channel("otel_usdt.standby", env={**os.environ, SESSION: str(self.started)})
            self.standby = self.processes[ours.fileno()] = Process(str(self.started), child, ours)
        return self.standby

    def hear(self, client: Channel) -> None:
        """What a client says. One that is gone does not want what it waits for."""
        received = client.receive()
        if received is None:
            del self.clients[client.fileno()]
            for process in self.processes.values():
                if client in process.waiting:
                    process.waiting.remove(client)
                    process.child.send_signal(signal.SIGTERM)
            client.close()
            return
        message, descriptors = received
        if "attach" in message and len(descriptors) == 2:
            self.attach(message, descriptors, client)
        elif "detach" in message:
            self.detach(str(message["detach"]), client)
        elif "sessions" in message:
            client.send({"sessions": [self.told(process) for process in self.processes.values() if process.session]}, patience_s=PATIENCE_S)
        for descriptor in descriptors:
            os.close(descriptor)

    def attach(self, message: dict[str, Any], descriptors: list[int], client: Channel) -> None:
        """Give what stands by its order; the client hears of it when it is attached, or has ended."""
        try:
            process = self.stand_by()
        except OSError as error:  # no memory, no process to be had
            say(f"no session for {message['attach']}: {error.strerror}")
            client.send({"ended": 1}, patience_s=PATIENCE_S)
            return
        process.waiting.append(client)
        process.channel.send(message, descriptors)
        self.standby, self.prepares = None, True

    def prepare(self) -> None:
        """Have something stand by, now that nothing else is to be done."""
        try:
            self.stand_by()
        except OSError as error:
            say(f"nothing stands by: {error.strerror}")
            self.prepares = False

    def detach(self, name: str, client: Channel) -> None:
        """End a session; the client hears of it when all is flushed."""
        for process in self.processes.values():
            if process.name == name and process.session:
                process.waiting.append(client)
                process.child.send_signal(signal.SIGTERM)
                return
        client.send({"unknown": name}, patience_s=PATIENCE_S)

    def follow(self, process: Process) -> None:
        """What a session's process says: that it is attached. When its channel ends, so has it."""
        received = process.channel.receive()
        if received is not None and "attached" in received[0]:
            process.session = received[0]["attached"]
            process.answer({"session": self.told(process)})
        elif received is None:
            del self.processes[process.channel.fileno()]
            process.channel.close()
            process.answer({"ended": process.child.wait()})
            if process is self.standby:
                self.standby, self.prepares = None, False

    @staticmethod
    def told(process: Process) -> dict[str, Any]:
        """A session, for clients."""
        return {"session": process.name, **(process.session or {})}

    def end(self) -> None:
        """Detach all, at once; returns when all is flushed."""
        for process in self.processes.values():
            if process is not self.standby:
                process.child.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            if process is self.standby:
                process.channel.close()
            process.child.wait()


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket at `path` that only our user may use. One that a dead server has left is replaced."""
    hint = "another --socket PATH"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.connect(str(path))
        raise UsageError(f"a server listens at {path} already", hint=f"use that one, or {hint}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            path.parent.mkdir(mode=0o755, exist_ok=True)
            if path.is_socket():
                path.unlink()
            before = os.umask(0o177)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}", hint=hint) from error
        listener.listen(WAITING_CLIENTS)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def serve(listener: socket.socket, signals: socket.socket) -> None:
    """Until a signal comes."""
    server = Server()
    server.prepare()
    try:
        while True:
            poll = select.poll()
            for descriptor in (signals.fileno(), listener.fileno(), *server.processes, *server.clients):
                poll.register(descriptor, select.POLLIN)
            ready = poll.poll(1000 * QUIET_S if server.prepares and not server.standby else None)
            if not ready:
                server.prepare()
            for descriptor, _ in ready:
                if descriptor == signals.fileno():
                    return
                if descriptor == listener.fileno():
                    client = Channel(listener.accept()[0])
                    server.clients[client.fileno()] = client
                elif descriptor in server.clients:
                    server.hear(server.clients[descriptor])
                elif descriptor in server.processes:
                    server.follow(server.processes[descriptor])
    finally:
        server.end()


def main(arguments: list[str]) -> int:
    """Argument: the socket's path."""
    try:
        require_root()
        path, signals = Path(arguments[0]), catch_signals()
        with listening(path) as listener:
            say(f"serving at {path}; otel-usdt attach FILE starts a session")
            serve(listener, signals)
    except OtelUsdtError as error:
        say(error.told())
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
