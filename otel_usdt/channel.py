"""Between supervisor and pipeline: JSON messages and descriptors over a SOCK_SEQPACKET pair. Standard library only.

supervisor -> pipeline   {"maps": [...], ...} with descriptors, once; then {"attached": sites, "at_s": CLOCK_MONOTONIC};
                         {"resources": {PID: {...} | null}}; {"detached": reason}
pipeline -> supervisor   {"who": [PID, ...]}
"""

from __future__ import annotations

import array
import json
import os
import select
import socket

TYPE_CHECKING = False  # typing itself is a fifth of what `otel-usdt attach` imports
if TYPE_CHECKING:
    from typing import Any

MAX_MESSAGE = 128 << 10  # under the default socket buffer; what may be larger goes as a memfd
MAX_DESCRIPTORS = 32


class Channel:
    """One end. Messages are whole or not at all."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def send(self, message: dict[str, Any], descriptors: list[int] | None = None, patience_s: float | None = None) -> bool:
        """False when the other side is gone, when the message is too large, or when the other side reads too little for `patience_s`."""
        data = json.dumps(message).encode()
        if len(data) > MAX_MESSAGE:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        if patience_s is not None:
            room = select.poll()
            room.register(self._socket, select.POLLOUT)
            room.poll(patience_s * 1000)
        try:
            self._socket.sendmsg([data], rights, 0 if patience_s is None else socket.MSG_DONTWAIT)
        except (BrokenPipeError, ConnectionResetError, BlockingIOError):
            return False
        return True

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message, or None when the other side is gone; {} for what is none, for that side may be hostile. Waits for one."""
        descriptors = array.array("i")
        room = socket.CMSG_LEN(MAX_DESCRIPTORS * descriptors.itemsize)
        try:
            data, rights, _, _ = self._socket.recvmsg(MAX_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)  # Python 3.11's recv_fds forgets the flag
        except ConnectionResetError:
            return None
        for level, kind, some in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(some[: len(some) // descriptors.itemsize * descriptors.itemsize])
        if not data:
            return None
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            message = None
        return (message if isinstance(message, dict) else {}), list(descriptors)

    def close(self) -> None:
        """Tell the other side that we are gone."""
        self._socket.close()


def pair() -> tuple[Channel, socket.socket]:
    """Our end, and the other's to hand to a child."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), theirs


def as_file(data: bytes) -> int:
    """A file in memory with `data`, to be read from its beginning; its descriptor."""
    descriptor = os.memfd_create("otel-usdt", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
