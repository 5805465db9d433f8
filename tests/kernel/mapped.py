"""A file that a process maps, and its functions as they stand in that process's memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from otel_usdt.elf.binary import open_binary


@dataclass(frozen=True, slots=True)
class Mapped:
    """`path` as the process has it mapped: its program, or a library."""

    pid: int
    path: Path

    def function(self, name: str) -> bytes:
        """The code of a function in this process's memory, breakpoints included."""
        return self._codes(name)[1]

    def breakpoints(self, name: str) -> int:
        """How many bytes of a function differ from the file: a breakpoint is one (x86_64: int3)."""
        return sum(now != then for then, now in zip(*self._codes(name), strict=True))

    def _codes(self, name: str) -> tuple[bytes, bytes]:
        with open_binary(str(self.path)) as binary, Path(f"/proc/{self.pid}/mem").open("rb", buffering=0) as memory:
            symbol = binary.functions().find(name)[0]
            memory.seek(symbol.address + (0 if binary.fixed else self._base()))
            return binary.code(symbol.address, symbol.size), memory.read(symbol.size)

    def _base(self) -> int:
        lines = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        return next(int(line.partition("-")[0], 16) for line in lines if line.endswith(str(self.path)))
