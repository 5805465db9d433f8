"""OBI's map of the requests that threads serve: found where OBI pins it, checked, and put into the slot that our program looks into.

Opened only, never made: OBI adopts what it finds under that name, and with a wrong shape it would trace nothing. It may come, go and come
again while we run. Standard library only.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from otel_usdt.probes import syscalls

PIN = "otel/traces_ctx_v1"  # under the bpffs that OBI is configured for (bpf_fs_path); OBI pkg/ebpf, since 0.10
SHAPE = (syscalls.LRU_HASH, 8, 24)  # type, bytes of a key (tgid << 32 | tid) and of a value (trace id, span id)
SLOT = bytes(4)


def template() -> int:
    """A map of OBI's shape, with BTF as OBI's has it: 6.1 compares whether both have some. Its descriptor."""
    btf = syscalls.load_btf(context_btf())
    try:
        return syscalls.create_map(dict(zip(("map_type", "key_size", "value_size"), SHAPE, strict=True)), "obi_template", btf=(btf, 1, 6))
    finally:
        os.close(btf)


def context_btf() -> bytes:
    """u64 and struct context {u8 trace[16]; u8 span[8]} as types 1 and 6 (Documentation/bpf/btf.rst)."""
    strings = b"\0u64\0u8\0u32\0context\0trace\0span\0"

    def named(name: bytes) -> int:
        return strings.index(b"\0" + name + b"\0") + 1

    def integer(name: bytes, size: int) -> bytes:
        return struct.pack("<IIII", named(name), 1 << 24, size, size * 8)

    types = integer(b"u64", 8) + integer(b"u8", 1) + integer(b"u32", 4)
    for length in (16, 8):
        types += struct.pack("<IIIIII", 0, 3 << 24, 0, 2, 3, length)
    types += struct.pack("<III", named(b"context"), 4 << 24 | 2, 24)
    types += struct.pack("<IIIIII", named(b"trace"), 4, 0, named(b"span"), 5, 128)
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


class Follower:
    """Keeps the slot as the pin is. `look` is cheap enough for every tick."""

    def __init__(self, folder: str, slot_map: int, say: Callable[[str], None]) -> None:
        self._path, self._slot_map, self._say = f"{folder}/{PIN}", slot_map, say
        self._seen: tuple[int, int] | None = None  # device and inode of the pin, whatever it was

    def look(self) -> None:
        """Follow what has become of the pin since the last look; says what changed."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 (a tuple of two numbers is all that is wanted)
            now = status.st_dev, status.st_ino
        except OSError:
            if self._seen is not None:
                self._empty()
                self._say(f"OBI's map {self._path} is gone: calls join no request of OBI's until it is there again")
            self._seen = None
            return
        if now != self._seen:
            if self._seen is not None:
                self._empty()
            self._seen = now
            self._say(self._take())

    def _take(self) -> str:
        try:
            map_fd = syscalls.open_pinned_map(self._path)
            try:
                found = syscalls.map_shape(map_fd)
                if found == SHAPE:
                    syscalls.update(self._slot_map, SLOT, map_fd.to_bytes(4, "little"))
            finally:
                os.close(map_fd)
        except OSError as error:
            return f"OBI's map {self._path} cannot be used, so calls do not join its requests: {error.strerror}"
        if found != SHAPE:
            told = "type {}, {} bytes of key and {} of value".format(*found)
            return f"{self._path} is not OBI's map (it has {told}), so calls do not join its requests; see that nothing but OBI makes it"
        return f"calls join the requests that OBI sees ({self._path})"

    def _empty(self) -> None:
        try:
            syscalls.delete(self._slot_map, SLOT)
        except FileNotFoundError:
            return  # a map of another shape was never in it
