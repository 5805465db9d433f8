"""Machine code as instructions, by capstone."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; `mnemonic` and `operands` in Intel's syntax, as capstone writes them."""

    address: int
    code: bytes
    mnemonic: str
    operands: str

    def __str__(self) -> str:
        return f"{self.mnemonic} {self.operands}".rstrip()


def instructions(machine: str, code: bytes, address: int) -> Iterator[Instruction]:
    """What `code`, loaded at `address`, says, up to the first byte that is no instruction."""
    for at, size, mnemonic, operands in decoder(machine).disasm_lite(code, address):
        yield Instruction(at, code[at - address : at - address + size], mnemonic, operands)


@functools.cache
def decoder(machine: str) -> Any:
    """Capstone's disassembler; loaded here, for 15 MB is much for those who do not disassemble."""
    import capstone

    if machine == "aarch64":
        return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
