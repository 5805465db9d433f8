"""ELF64 headers, every count and offset checked against the file's real size.

Standard library only, for the supervisor reads build ids with it. The file is read by pread(2), not mapped: a file that shrinks
while it is read gives a short read and an error, where a mapping would give SIGBUS. Layouts: System V gABI, chapter 4 and 5.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from otel_usdt.errors import BadBinary

ET_EXEC, ET_DYN = 2, 3
PT_LOAD, PT_NOTE = 1, 4
PF_X = 1
SHF_ALLOC, SHF_EXECINSTR = 2, 4
SHT_SYMTAB, SHT_DYNAMIC, SHT_NOBITS, SHT_DYNSYM = 2, 6, 8, 11

MOST_BYTES = 512 << 20  # of one table; a browser's string table with debug names has 400 MB, a hostile sparse file any number
MOST_SECTIONS = 1 << 20  # -ffunction-sections gives 10^5 in an object file; a linked file has tens

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")


@dataclass(frozen=True, slots=True)
class ElfFile:
    """An open file to read from, and what messages call it."""

    fd: int
    name: str
    size: int

    def bad(self, what: str) -> BadBinary:
        """The error that says `what` of this file."""
        return BadBinary(f"{self.name}: {what}")

    def read(self, offset: int, size: int, what: str) -> bytes:
        """Exactly `size` bytes at `offset`; BadBinary when the file does not have them, or they are absurdly many."""
        if size > MOST_BYTES:
            raise self.bad(f"{what} of {size} bytes; more than {MOST_BYTES} is not believed")
        if offset + size > self.size:
            raise self.bad(f"truncated or damaged: {what} should lie at bytes {offset} to {offset + size}, the file has {self.size}")
        try:
            data = os.pread(self.fd, size, offset)
        except OSError as error:
            raise self.bad(f"cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise self.bad(f"cut short while it was read ({what})")
        return data


@dataclass(frozen=True, slots=True)
class Header:
    """What of the file header is used. `segments_at` and `sections_at` are file offsets."""

    type: int
    machine: int
    segments_at: int
    segments: int
    sections_at: int
    sections: int
    names_section: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int
    align: int


@dataclass(frozen=True, slots=True)
class Section:
    """A section header; `name` is resolved."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    entry_size: int


def elf_file(fd: int, name: str) -> ElfFile:
    """`fd` as a file to read; BadBinary when it is a directory, a pipe or a device."""
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise BadBinary(f"{name}: a directory, not an ELF file")
    if not stat.S_ISREG(status.st_mode):
        raise BadBinary(f"{name}: not a regular file")
    return ElfFile(fd, name, status.st_size)


def read_header(file: ElfFile) -> Header:
    """The file header; BadBinary when this is no little-endian ELF64 file."""
    if file.size == 0:
        raise file.bad("an empty file, not an ELF file")
    start = file.read(0, min(file.size, _HEADER.size), "the file header")
    if start[:4] != b"\x7fELF":
        raise file.bad(f"not an ELF file: it begins with {start[:4].hex(' ')}")
    if len(start) < _HEADER.size:
        raise file.bad(f"truncated: an ELF header has {_HEADER.size} bytes, the file {file.size}")
    if start[4] != 2:
        raise file.bad("not a 64-bit ELF file; only 64-bit programs can be probed")
    if start[5] != 1:
        raise file.bad("a big-endian ELF file; only x86_64 and aarch64, little endian, can be probed")
    (_, type_, machine, _, _, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx) = _HEADER.unpack(start)
    if phnum == 0xFFFF:
        raise file.bad("65535 or more program headers: not believed")
    if phnum and phentsize != _SEGMENT.size:
        raise file.bad(f"program headers of {phentsize} bytes; ELF64 has {_SEGMENT.size}")
    if shoff and shentsize != _SECTION.size:
        raise file.bad(f"section headers of {shentsize} bytes; ELF64 has {_SECTION.size}")
    return Header(type_, machine, phoff, phnum, shoff, shnum, shstrndx)


def read_segments(file: ElfFile, header: Header) -> tuple[Segment, ...]:
    """The program headers."""
    table = file.read(header.segments_at, header.segments * _SEGMENT.size, "the program headers")
    return tuple(
        Segment(type_, flags, offset, address, file_size, align)
        for type_, flags, offset, address, _, file_size, _, align in _SEGMENT.iter_unpack(table)
    )


def read_sections(file: ElfFile, header: Header) -> tuple[Section, ...]:
    """The section headers with their names; () when the file has none (sstrip)."""
    if not header.sections_at:
        return ()
    count, names_section = header.sections, header.names_section
    first = _SECTION.unpack(file.read(header.sections_at, _SECTION.size, "the section headers"))
    if count == 0:  # too many for the file header: the first section header has the count
        count = first[5]
    if names_section == 0xFFFF:
        names_section = first[6]
    if count > MOST_SECTIONS:
        raise file.bad(f"{count} sections: not believed")
    table = file.read(header.sections_at, count * _SECTION.size, "the section headers")
    rows = list(_SECTION.iter_unpack(table))
    if names_section >= len(rows):
        raise file.bad(f"section {names_section} should hold the sections' names, there are {len(rows)}")
    names = file.read(rows[names_section][4], rows[names_section][5], "the sections' names") if names_section else b""
    return tuple(
        Section(string_at(names, name), type_, flags, address, offset, size, link, entry_size)
        for name, type_, flags, address, offset, size, link, _, _, entry_size in rows
    )


def string_at(strings: bytes, offset: int) -> str:
    """The NUL-terminated string at `offset`; "" past the end."""
    end = strings.find(b"\0", offset)
    return text(strings[offset : end if end >= 0 else len(strings)])


def text(raw: bytes) -> str:
    """A name out of a file, whatever bytes it has."""
    return raw.decode("utf-8", "backslashreplace")


def note_records(file: ElfFile, data: bytes, align: int) -> Iterator[tuple[bytes, int, bytes]]:
    """(name, type, descriptor) of each note in a note section or segment; BadBinary when one overruns it."""
    step = 8 if align == 8 else 4  # gABI says 8 for ELF64; everyone writes 4, but .note.gnu.property has 8
    at = 0
    while at + 12 <= len(data):
        name_size, desc_size, type_ = struct.unpack_from("<III", data, at)
        desc_at = at + 12 + name_size
        desc_at += -desc_at % step
        if desc_at + desc_size > len(data):
            raise file.bad(f"damaged: a note of {name_size} + {desc_size} bytes overruns its section of {len(data)}")
        yield data[at + 12 : at + 12 + name_size].rstrip(b"\0"), type_, data[desc_at : desc_at + desc_size]
        at = desc_at + desc_size
        at += -at % step
