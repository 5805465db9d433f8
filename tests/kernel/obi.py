"""OBI as far as a test can play it: its map of the requests that threads serve, pinned in a bpffs of the test's own."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from otel_usdt.probes import obi, syscalls

OBJ_PIN = 6  # include/uapi/linux/bpf.h, enum bpf_cmd
ENTRIES = 16384  # as OBI's own has


@dataclass(slots=True)
class Obi:
    """A bpffs of the test's own, and what is pinned there."""

    folder: Path
    map_fd: int = -1

    def start(self, value_bytes: int = 24) -> None:
        """Pins the map, as OBI does when it starts; `value_bytes` other than 24 is somebody else's map."""
        shape = {"map_type": syscalls.LRU_HASH, "key_size": 8, "value_size": value_bytes, "max_entries": ENTRIES}
        btf = syscalls.load_btf(obi.context_btf()) if value_bytes == 24 else 0
        self.map_fd = syscalls.create_map(shape, "traces_ctx_v1", btf=(btf, 1, 6) if btf else (0, 0, 0))
        if btf:
            os.close(btf)
        pin = self.folder / obi.PIN
        pin.parent.mkdir(mode=0o700, exist_ok=True)
        name = ctypes.create_string_buffer(os.fsencode(pin))
        syscalls.bpf(OBJ_PIN, struct.pack("<QII", ctypes.addressof(name), self.map_fd, 0))

    def stop(self) -> None:
        """Takes the pin away."""
        if self.map_fd >= 0:
            (self.folder / obi.PIN).unlink()
            os.close(self.map_fd)
            self.map_fd = -1

    def serves(self, pid: int, trace: str, span: str) -> None:
        """The process's first thread serves a request: its ids in hex."""
        syscalls.update(self.map_fd, struct.pack("<Q", pid << 32 | pid), bytes.fromhex(trace + span))

    def done(self, pid: int) -> None:
        """The request has ended."""
        syscalls.delete(self.map_fd, struct.pack("<Q", pid << 32 | pid))


@contextmanager
def bpffs(folder: Path) -> Iterator[Obi]:
    """A bpffs mounted on `folder`, gone afterwards."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(folder)], check=True)
    played = Obi(folder)
    try:
        yield played
    finally:
        played.stop()
        subprocess.run(["umount", str(folder)], check=True)
