"""Where a probe's argument lies at the moment of the hit: data for the kernel side, whatever format it was written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

How = Literal["register", "memory", "constant"]


@dataclass(frozen=True, slots=True)
class Location:
    """One argument.

    register: the value is in `register`.
    memory:   the value is `size` bytes at register + index * scale + offset (`index` "" is none). The register "ip" is the
              probed instruction's own address, so that a rip-relative symbol needs no load bias: offset = symbol - site.
    constant: the value is `offset`.

    `register` and `index` are whole machine registers by their ptrace names: x86_64 "ax", "bx", "cx", "dx", "si", "di", "bp",
    "sp", "r8".."r15", "ip"; aarch64 "x0".."x30", "sp", "pc" written as "ip" too. `byte` is 1 for x86's ah, bh, ch, dh, else 0.
    `size` is 1, 2, 4 or 8 bytes.
    """

    how: How
    size: int
    signed: bool
    register: str = ""
    index: str = ""
    scale: int = 1
    offset: int = 0
    byte: int = 0
