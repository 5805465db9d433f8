"""Where a probe that a user names is: the binaries of a target, and in them the symbols, notes and addresses that answer to the name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from otel_usdt.elf.binary import Binary, open_binary
from otel_usdt.elf.notes import UsdtNote
from otel_usdt.elf.symbols import Symbol
from otel_usdt.errors import ProbeNotFound, UsageError
from otel_usdt.near import nearest
from otel_usdt.probespec import ProbeSpec
from otel_usdt.targets.process import MappedFile


@dataclass(frozen=True, slots=True)
class End:
    """One place where a probe can fire: a note, a function's entry, or an address."""

    binary: Binary
    spec: ProbeSpec  # of this one, no glob any more
    note: UsdtNote | None = None
    symbol: Symbol | None = None

    @property
    def key(self) -> str:
        """Places of one key belong to one span probe: a USDT probe's several sites, static functions of one name."""
        return str(self.spec)


@dataclass(slots=True)
class Files:
    """The files of a target: its programs first (several where `exe_path` matches several builds), then what they map."""

    programs: list[MappedFile]
    libraries: list[MappedFile]
    root: str = ""  # the target's file system as seen from here: /proc/PID/root
    _open: dict[tuple[int, int], Binary] = field(default_factory=dict)

    def binary(self, file: MappedFile) -> Binary:
        """The file, opened once."""
        key = file.device, file.inode
        if key not in self._open:
            self._open[key] = open_binary(file.open_path, file.name)
        return self._open[key]

    def find(self, spec: ProbeSpec, most: int) -> list[End]:
        """Every place that `spec` means: in the binary it names, else in the programs, else in the one library that has it.

        ProbeNotFound tells the nearest names; UsageError that several libraries have it, or that a glob stands for more than `most`.
        """
        for group in [self._named(spec.binary)] if spec.binary else [self.programs, self.libraries]:
            found = {file: ends for file in group if (ends := list(_ends(self.binary(file), spec)))}
            if len(found) > 1 and group is self.libraries and not spec.is_glob:
                names = ", ".join(PurePosixPath(file.name).name for file in found)
                raise UsageError(f"{spec} is in {names}", hint=f"say which: {PurePosixPath(next(iter(found)).name).name}:{spec}")
            if found:
                ends = [end for ends in found.values() for end in ends]
                if len(keys := {end.key for end in ends}) > most:
                    raise UsageError(
                        f"{spec} stands for {len(keys)} probes, more than {most}", hint="narrow it, or raise --max (limits.max_probes)"
                    )
                return ends
        raise self._missing(spec)

    def _named(self, name: str) -> list[MappedFile]:
        every = [*self.programs, *self.libraries]
        # The kernel tells what a link leads to (libpq.so.5.15), people and the linker say the link's name (libpq.so.5).
        found = [file for file in every if name in (file.name, PurePosixPath(file.name).name)] or [
            file for file in every if PurePosixPath(file.name).name.startswith(f"{name}.")
        ]
        if not found and self.root and name.startswith("/"):
            found = self._in_root(name)
        if not found:
            short = [PurePosixPath(file.name).name for file in every]
            near = nearest(PurePosixPath(name).name, short, cutoff=0.4) or short[:5]
            raise ProbeNotFound(f"the target does not map {name}; near: {', '.join(near)}")
        return found

    def _in_root(self, name: str) -> list[MappedFile]:
        """A file that the target does not map, but its children may: a shell's command."""
        try:
            status = Path(f"{self.root}{name}").stat()
        except OSError:
            return []
        return [MappedFile(name, f"{self.root}{name}", status.st_dev, status.st_ino, False)]

    def _missing(self, spec: ProbeSpec) -> ProbeNotFound:
        looked_in = self._named(spec.binary) if spec.binary else self.programs
        binary = self.binary(looked_in[0])
        what = {"usdt": "USDT probe", "func": "function", "addr": "address"}[spec.kind]
        told = f"{binary.name} has no {what} {str(spec).partition(':')[2] if not spec.binary else spec}"
        if spec.kind == "usdt":
            known = sorted({f"{note.provider}:{note.name}" for note in binary.notes()})
            near = nearest(f"{spec.provider}:{spec.name}", known)
            told += f"; near: {', '.join(near)}" if near else "" if known else "; it has no USDT probes at all"
        else:
            near = binary.functions().near(spec.name)
            told += f"; near: {', '.join(near)}" if near else ""
        if not spec.binary and self.libraries:
            told += f", and neither has any of the {len(self.libraries)} libraries that it maps"
        if spec.kind == "func" and binary.stripped:
            return ProbeNotFound(
                f"{told}; it is stripped, so only exported functions have names", hint="use addr:, or a build with its symbols"
            )
        return ProbeNotFound(told)


def _ends(binary: Binary, spec: ProbeSpec) -> Iterator[End]:
    prefix = spec.binary
    match spec.kind:
        case "usdt":
            for note in binary.notes():
                if fnmatchcase(note.provider, spec.provider) and fnmatchcase(note.name, spec.name):
                    yield End(binary, ProbeSpec("usdt", note.provider, note.name, binary=prefix), note=note)
        case "func":
            functions = binary.functions()
            for symbol in functions.glob(spec.name) if spec.is_glob else functions.find(spec.name):
                yield End(binary, ProbeSpec("func", name=symbol.name, binary=prefix), symbol=symbol)
        case "addr":
            if binary.executable(spec.address):
                yield End(binary, spec)
