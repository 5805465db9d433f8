"""bpftrace, the peer: attached beside ours to the same program, its maps read when it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.kernel.session import MARK, PATIENCE_S, read_into, wait_until


class Target(Protocol):
    """A process, and a file that it maps (tests/kernel/mapped.py), in whose functions bpftrace's first and last probe go."""

    @property
    def pid(self) -> int: ...
    @property
    def path(self) -> Path: ...
    def breakpoints(self, name: str) -> int: ...


@dataclass(slots=True)
class Peer:
    """A running bpftrace."""

    process: subprocess.Popen[str]
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    readers: tuple[threading.Thread, ...] = ()

    def stop(self) -> dict[str, Any]:
        """Its maps by name, without the @. Histograms are lists of {"min", "max", "count"}."""
        interrupt(self.process)
        for reader in self.readers:
            reader.join(PATIENCE_S)
        maps: dict[str, Any] = {}
        for line in self.out:
            # Its JSON has empty lines and, on systems without tracefs, complaints between the objects.
            if line.startswith("{"):
                told = json.loads(line)
                if told["type"] in ("map", "hist", "stats"):
                    maps.update({name.lstrip("@"): value for name, value in told["data"].items()})
        return maps


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ends bpftrace as ^C does. It sometimes misses the signal (seen with 0.17 on a busy machine), so it is sent again."""
    for _ in range(int(PATIENCE_S // 5)):
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    process.kill()
    process.wait()


@contextmanager
def bpftrace(program: str, target: Target, *, sentinels: tuple[str, str] = ("tail_outer", "pong")) -> Iterator[Peer]:
    """Runs `program` on the target; returns when every probe is attached.

    bpftrace says so too early. It attaches in order, forwards or backwards, so a function that nothing else looks at is
    probed before all and another after all: when the breakpoints of both are in place, so is everything between.
    """
    first, last = (f"uprobe:{target.path}:{name} {{ @sentinel = 1; }}" for name in sentinels)
    program = f"{first}\n{program}\n{last}"
    process = subprocess.Popen(
        ["bpftrace", "-f", "json", "-p", str(target.pid), "-e", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **MARK},
    )
    peer = Peer(process)
    assert process.stdout is not None
    assert process.stderr is not None
    peer.readers = (read_into(process.stdout, peer.out), read_into(process.stderr, peer.err))
    try:
        wait_until(lambda: process.poll() is not None or all(target.breakpoints(name) for name in sentinels), "bpftrace's attach")
        assert process.poll() is None, "".join(peer.err)
        yield peer
    finally:
        interrupt(process)
        for reader in peer.readers:
            reader.join(PATIENCE_S)
        process.stdout.close()
        process.stderr.close()
