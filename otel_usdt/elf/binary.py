"""A program or shared library: everything that the planner asks of it, read from its file when first asked for."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_usdt.elf.build_id import build_id_in
from otel_usdt.elf.headers import (
    ET_DYN,
    ET_EXEC,
    MOST_BYTES,
    PF_X,
    PT_LOAD,
    PT_NOTE,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHT_DYNAMIC,
    SHT_DYNSYM,
    SHT_NOBITS,
    SHT_SYMTAB,
    ElfFile,
    Section,
    elf_file,
    note_records,
    read_header,
    read_sections,
    read_segments,
    string_at,
)
from otel_usdt.elf.notes import UsdtNote, read_notes
from otel_usdt.elf.symbols import ENTRY, STT_COMMON, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT, Symbol, Symbols
from otel_usdt.errors import BadBinary, NotPermitted, ProbeNotFound, TargetNotFound

_MACHINES = {62: "x86_64", 183: "aarch64"}
_PERSONALITY = b"__gxx_personality_v0\0"
_CXX_LIBRARIES = ("libstdc++.so", "libc++.so", "libc++abi.so")
_DT_NEEDED = 1
FARTHEST_ADDRESS = 1 << 47  # the end of a process's memory on x86_64


class Binary:
    """An open ELF file; `open_binary` makes it. Addresses are virtual, in the file's own numbering.

    `path` opens the file from here, `name` is for people. `device` and `inode` are st_dev and st_ino. `stripped`: no .symtab.
    """

    def __init__(self, file: ElfFile, path: str) -> None:
        status = os.fstat(file.fd)
        header = read_header(file)
        if header.machine not in _MACHINES:
            raise file.bad(f"for machine {header.machine}; only x86_64 and aarch64 can be probed")
        if header.type not in (ET_EXEC, ET_DYN):
            raise file.bad("neither a program nor a shared library (an object file or a core dump?)")
        self._file = file
        self._segments = read_segments(file, header)
        self._sections = read_sections(file, header)
        self._notes: list[UsdtNote] | None = None
        self._functions: Symbols | None = None
        self._objects: Symbols | None = None
        self._tables: list[tuple[NDArray[Any], bytes]] | None = None
        self.path = path
        self.name = file.name
        self.machine = _MACHINES[header.machine]
        self.device, self.inode = status.st_dev, status.st_ino
        self.build_id = build_id_in(file, self._segments)
        self.stripped = all(section.type != SHT_SYMTAB for section in self._sections)
        self.is_go = self._has_go_marks()
        self.fixed = header.type == ET_EXEC  # loaded at its own addresses: not position-independent

    def __enter__(self) -> Binary:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; what was read stays usable."""
        if self._file.fd >= 0:
            os.close(self._file.fd)
            self._file = ElfFile(-1, self.name, 0)

    def notes(self) -> list[UsdtNote]:
        """All USDT probe sites."""
        if self._notes is None:
            self._notes = read_notes(self._file, self._sections, self.machine, self._object_address, self.fixed)
        return self._notes

    def functions(self) -> Symbols:
        """The functions of .symtab and .dynsym together."""
        if self._functions is None:
            self._functions = Symbols(self._symbol_tables(), (STT_FUNC, STT_GNU_IFUNC), self._versioned())
        return self._functions

    def function_at(self, address: int) -> Symbol | None:
        """The function that covers the address."""
        return self.functions().at(address)

    def file_offset(self, address: int) -> int:
        """Where in the file the byte at `address` lies; ProbeNotFound when no loaded part of the file holds it."""
        for segment in self._segments:
            if segment.type == PT_LOAD and segment.address <= address < segment.address + segment.file_size:
                return address - segment.address + segment.offset
        raise ProbeNotFound(f"{self.name}: nothing of the file is loaded at address {address:#x}")

    def executable(self, address: int) -> bool:
        """Is the byte at `address` loaded as code?"""
        return any(
            segment.type == PT_LOAD and segment.flags & PF_X and segment.address <= address < segment.address + segment.file_size
            for segment in self._segments
        )

    def code(self, address: int, n: int) -> bytes:
        """The `n` bytes at `address`, fewer where the file's segment ends; ProbeNotFound as `file_offset`."""
        offset = self.file_offset(address)
        ends = (s.address + s.file_size for s in self._segments if s.type == PT_LOAD and s.address <= address < s.address + s.file_size)
        return self._file.read(offset, min(n, next(ends) - address), f"the code at {address:#x}")

    def loaded(self, *, code: bool) -> Iterator[tuple[int, bytes]]:
        """(address, bytes) of all that the file loads as code, or of all else; where it has no section headers (sstrip) all is both.

        BadBinary when that is absurdly much, or lies at absurd addresses.
        """
        kept = [
            (section.address, section.offset, section.size)
            for section in self._sections
            if section.flags & SHF_ALLOC and bool(section.flags & SHF_EXECINSTR) is code and section.type != SHT_NOBITS
        ]
        if not self._sections:
            kept = [(segment.address, segment.offset, segment.file_size) for segment in self._segments if segment.type == PT_LOAD]
        total = sum(size for _, _, size in kept)
        if total > MOST_BYTES or any(address >= FARTHEST_ADDRESS for address, _, _ in kept):
            raise self._file.bad(f"{total} bytes are loaded as {'code' if code else 'data'}, or at absurd addresses: not believed")
        for address, offset, size in kept:
            yield address, self._file.read(offset, size, "a loaded part")

    @property
    def ibt(self) -> bool:
        """Is all of it compiled with -fcf-protection=branch? Then an indirect jump without `notrack` lands on endbr64: no jump table."""
        for section in self._sections:
            if section.name == ".note.gnu.property" and section.type != SHT_NOBITS:
                data = self._file.read(section.offset, section.size, "the properties note")
                for name, type_, descriptor in note_records(self._file, data, 8):
                    if name == b"GNU" and type_ == 5 and _x86_feature(descriptor) & 1:
                        return True
        return False

    @cached_property
    def unwinds_cxx(self) -> bool:
        """Does it hold C++ code, so that an exception may pass through its functions?"""
        if any(needed.startswith(_CXX_LIBRARIES) for needed in self._needed()):
            return True
        return any(_PERSONALITY in strings for _, strings in self._symbol_tables())

    def imports(self, *names: str) -> bool:
        """Does it call any of these functions of other files?"""
        return not self._imported.isdisjoint(name.encode() for name in names)

    @cached_property
    def _imported(self) -> frozenset[bytes]:
        return frozenset(
            strings[start : strings.index(b"\0", start)]
            for entries, strings in self._symbol_tables()
            for start in entries["name"][entries["section"] == 0].tolist()
        )

    def _has_go_marks(self) -> bool:
        if any(section.name.endswith((".go.buildinfo", ".gopclntab", ".note.go.buildid")) for section in self._sections):
            return True
        return any(
            name == b"Go"
            for segment in self._segments
            if segment.type == PT_NOTE
            for name, _, _ in note_records(self._file, self._file.read(segment.offset, segment.file_size, "a note"), segment.align)
        )

    def _versioned(self) -> bool:
        return any(section.name == ".gnu.version" for section in self._sections)

    def _object_address(self, name: str) -> int | None:
        if self._objects is None:
            types = (STT_OBJECT, STT_NOTYPE, STT_COMMON, STT_FUNC)
            self._objects = Symbols(self._symbol_tables(), types, self._versioned())
        found = {symbol.address for symbol in self._objects.find(name)}
        return found.pop() if len(found) == 1 else None  # of several statics of one name, nobody knows which is meant

    def _symbol_tables(self) -> list[tuple[NDArray[Any], bytes]]:
        if self._tables is None:
            tables = (section for section in self._sections if section.type in (SHT_SYMTAB, SHT_DYNSYM))
            self._tables = [self._symbol_table(section) for section in tables]
        return self._tables

    def _symbol_table(self, section: Section) -> tuple[NDArray[Any], bytes]:
        what = f"symbol table {section.name}"
        if section.entry_size != ENTRY.itemsize or section.size % ENTRY.itemsize:
            raise self._file.bad(f"damaged: {what} has {section.size} bytes in entries of {section.entry_size}, not of {ENTRY.itemsize}")
        strings = self._linked_strings(section, what)
        entries = np.frombuffer(self._file.read(section.offset, section.size, what), dtype=ENTRY)
        if len(entries) and int(entries["name"].max()) >= len(strings):
            raise self._file.bad(f"damaged: a name of {what} lies at {entries['name'].max()}, past its {len(strings)} bytes of strings")
        return entries, strings

    def _linked_strings(self, section: Section, what: str) -> bytes:
        if section.link >= len(self._sections):
            raise self._file.bad(f"damaged: {what} has its strings in section {section.link}, there are {len(self._sections)}")
        linked = self._sections[section.link]
        strings = b"" if linked.type == SHT_NOBITS else self._file.read(linked.offset, linked.size, f"the strings of {what}")
        if strings[-1:] not in (b"", b"\0"):
            raise self._file.bad(f"damaged: the strings of {what} do not end in NUL")
        return strings

    def _needed(self) -> list[str]:
        found = []
        for section in self._sections:
            if section.type == SHT_DYNAMIC:
                strings = self._linked_strings(section, "the dynamic section")
                data = self._file.read(section.offset, section.size & ~15, "the dynamic section")
                found += [string_at(strings, value) for tag, value in struct.iter_unpack("<qQ", data) if tag == _DT_NEEDED]
        return found


def open_binary(path: str, name: str | None = None) -> Binary:
    """Opens the ELF file at `path`; `name` is what messages call it. A context manager.

    BadBinary when it is no program or library that can be probed, TargetNotFound when there is none, NotPermitted without rights.
    """
    called = name or path
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe of that name must not make us wait
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TargetNotFound(f"{called}: no such file") from error
    except PermissionError as error:
        raise NotPermitted(f"{called}: no right to read it") from error
    except (OSError, ValueError) as error:
        raise BadBinary(f"{called}: cannot be opened: {error}") from error
    try:
        return Binary(elf_file(fd, called), path)
    except BaseException:
        os.close(fd)
        raise


def _x86_feature(properties: bytes) -> int:
    """GNU_PROPERTY_X86_FEATURE_1_AND (0xc0000002) out of a property note: bit 0 IBT, bit 1 shadow stack; 0 when absent."""
    at = 0
    while at + 12 <= len(properties):
        kind, size, value = struct.unpack_from("<III", properties, at)
        if kind == 0xC0000002 and size == 4:
            return int(value)
        at += 8 + size + -size % 8
    return 0
