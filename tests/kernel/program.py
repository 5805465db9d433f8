"""The workload program: compiled once a test run, started once a test, told what to do, asked what it did."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from tests.kernel.session import MARK, PATIENCE_S, wait_until

SOURCES = Path(__file__).parent / "workload"
FLAGS = ["-O1", "-g", "-fno-optimize-sibling-calls", "-pthread"]
OWN_FLAGS = {"tail.c": ["-O2", "-g"]}  # sibling calls are what it is about
NANOSLEEP = ("230", "115")  # clock_nanosleep(2) of x86_64 and aarch64


def compile_workload(folder: Path, *, extra: tuple[str, ...] = (), name: str = "workload") -> Path:
    """Builds the program; `extra` flags go to every source. Returns its path."""
    objects = []
    for source in sorted(SOURCES.glob("*.c")):
        target = folder / f"{name}-{source.stem}.o"
        subprocess.run(["gcc", *OWN_FLAGS.get(source.name, FLAGS), *extra, "-c", str(source), "-o", str(target)], check=True)
        objects.append(str(target))
    program = folder / name
    subprocess.run(["gcc", *FLAGS, *extra, "-o", str(program), *objects], check=True)
    return program


def symbols(path: Path) -> dict[str, tuple[int, int]]:
    """Name -> (address in the file's own numbering, size in bytes)."""
    with path.open("rb") as file:
        table: Any = ELFFile(file).get_section_by_name(".symtab")
        return {one.name: (one["st_value"], one["st_size"]) for one in table.iter_symbols()}


@dataclass(frozen=True, slots=True)
class Workload:
    """A running workload program."""

    path: Path
    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, command: str) -> None:
        """Tells it what to do; `answer` waits."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self, takes_s: float = 0.0) -> dict[str, Any]:
        """What it says of the command that it has done, which takes so long by itself."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], takes_s + PATIENCE_S)[0]:
            pytest.fail("the workload does not answer")
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(f"the workload ended with {self.process.wait()}")
        told: dict[str, Any] = json.loads(line)
        assert "unknown" not in told, told
        return told

    def run(self, command: str) -> dict[str, Any]:
        """Tells it what to do, and waits until it is done."""
        self.send(command)
        return self.answer()

    def hang(self) -> None:
        """Lets it sleep for ever in `sleeper`; returns when it does."""
        self.run("hang")
        wait_until(lambda: Path(f"/proc/{self.pid}/syscall").read_text().split()[0] in NANOSLEEP, "the sleep")

    def kill(self) -> None:
        """Ends it by SIGKILL, in the midst of whatever it does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def function(self, name: str) -> bytes:
        """The code of a function as it stands in this process's memory, breakpoints included."""
        address, size = symbols(self.path)[name]
        with Path(f"/proc/{self.pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(self.base() + address)
            return memory.read(size)

    def breakpoints(self, name: str) -> int:
        """How many bytes of a function differ from the file: a breakpoint is one (x86_64: int3)."""
        address, size = symbols(self.path)[name]
        code = self.path.read_bytes()[address : address + size]  # -z separate-code maps text at its own file offset
        return sum(now != then for now, then in zip(self.function(name), code, strict=True))

    def base(self) -> int:
        """The address at which the file's first byte is mapped."""
        for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines():
            if line.endswith(str(self.path)):
                return int(line.partition("-")[0], 16)
        pytest.fail(f"{self.path} is not mapped in {self.pid}")


def die_with_parent() -> None:
    """In the child: when pytest is killed, so is the workload."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextmanager
def running(path: Path, environment: dict[str, str] | None = None) -> Iterator[Workload]:
    """Starts the program; ends it on the way out."""
    with subprocess.Popen(
        [str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **MARK, **(environment or {})},
        preexec_fn=die_with_parent,
    ) as process:
        try:
            workload = Workload(path, process)
            assert workload.answer() == {"ready": process.pid}
            yield workload
        finally:
            if process.poll() is None:
                process.kill()
