"""The compiler child: turns bpf/*.bpf.c into a kernel image with BCC, prints it as JSON, and is gone with its 130 MB.

Stand-alone on purpose: it runs under whichever Python has the distribution's `bcc`, as `python3 -I compiler.py BPF_FOLDER`, and imports
nothing of ours. The image is data: instructions, map shapes, and where map descriptors go. It says nothing of the host it was made on.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import re
import struct
import sys
from pathlib import Path
from typing import Any

PROGRAMS = {
    "on_site": "kprobe", "on_session": "kprobe",
    "on_fork": "tracepoint", "on_free": "tracepoint", "on_exit": "tracepoint", "on_exec": "tracepoint",
}  # fmt: skip
MAPS = (
    "sites", "counters", "histogram", "ladders", "dimensions", "series_rows", "series", "extents", "words", "losses", "settings",
    "ceiling", "scope", "threads", "texts", "blank_thread", "blank_text",
    "contexts", "records", "text_records",
)  # fmt: skip
LD_IMM64, PSEUDO_MAP_FD = 0x18, 1  # include/uapi/linux/bpf.h
WANTED_MARK = b":wanted:"  # bpf/record.h
INSTRUCTION = struct.Struct("<BBhi")


def one_text(folder: Path) -> str:
    """The program with its `*.bpf.h` inlined: bcc rewrites map accesses in the main text only, not in what it includes."""

    def inline(match: re.Match[str]) -> str:
        return (folder / match[1]).read_text().replace("#pragma once\n", "")

    return re.sub(r'^#include "(\w+\.bpf\.h)"\n', inline, (folder / "otel_usdt.bpf.c").read_text(), flags=re.MULTILINE)


def shape(fd: int) -> dict[str, int]:
    """A map's shape, from the kernel's own account of it."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    return {name: int(told[name], 0) for name in ("map_type", "key_size", "value_size", "max_entries", "map_flags")}


def program_of(code: bytes, map_of: dict[int, str]) -> dict[str, Any]:
    """Instructions with the map descriptors taken out; where they go, as [byte offset, map name], and where what the plan wants goes."""
    text, uses, wanted = bytearray(code), [], []
    for at in range(0, len(text), 8):
        operation, registers, _, value = INSTRUCTION.unpack_from(text, at)
        if operation == LD_IMM64 and registers >> 4 == PSEUDO_MAP_FD:
            uses.append([at, map_of[value]])
            struct.pack_into("<i", text, at + 4, 0)
        elif operation == LD_IMM64 and text[at + 4 : at + 8] + text[at + 12 : at + 16] == WANTED_MARK:
            wanted.append(at)
    return {"code": base64.b64encode(text).decode(), "uses": uses, "wanted": wanted}


def compile_image(folder: Path) -> dict[str, Any]:
    """The kernel image of the sources in `folder`."""
    machine = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]
    os.environ["BCC_KERNEL_SOURCE"] = str(folder / "include")
    import bcc

    program = bcc.BPF(text=one_text(folder), cflags=[f"-I{folder}", "-Wno-unused-function"])
    # Not program[name]: that builds a ctypes class for the values, and refuses some.
    map_of = {bcc.lib.bpf_table_fd(program.module, name.encode()): name for name in MAPS}
    return {
        "machine": machine,
        "bcc": bcc.__version__,
        "maps": {name: shape(fd) for fd, name in map_of.items()},
        "programs": {name: {"kind": kind, **program_of(program.dump_func(name), map_of)} for name, kind in PROGRAMS.items()},
    }


if __name__ == "__main__":
    json.dump(compile_image(Path(sys.argv[1]).resolve()), sys.stdout)
