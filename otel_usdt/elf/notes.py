"""USDT probes: the notes of section .note.stapsdt. Several sites of one probe are several notes. Layout: systemtap's sys/sdt.h."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from otel_usdt.elf.arguments import Site, parse_arguments
from otel_usdt.elf.headers import SHT_NOBITS, ElfFile, Section, note_records, text
from otel_usdt.elf.locations import Location

NT_STAPSDT = 3
MOST_TEXT = 4096  # sys/sdt.h has at most 12 arguments, of some tens of characters
_ADDRESSES = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class UsdtNote:
    """One site of a USDT probe. Addresses are virtual, in the file's own numbering; `semaphore` 0 is none.

    An argument that cannot be read is a str that says why.
    """

    provider: str
    name: str
    address: int
    semaphore: int
    arguments_text: str
    arguments: tuple[Location | str, ...]


def read_notes(
    file: ElfFile, sections: tuple[Section, ...], machine: str, address_of: Callable[[str], int | None], fixed: bool
) -> list[UsdtNote]:
    """All sites in the file, in the order of its notes; BadBinary when a note is damaged."""
    base = next((section.address for section in sections if section.name == ".stapsdt.base"), None)
    found: list[UsdtNote] = []
    for section in sections:
        if section.name != ".note.stapsdt" or section.type == SHT_NOBITS:
            continue
        data = file.read(section.offset, section.size, "the USDT notes")
        for owner, type_, descriptor in note_records(file, data, 4):
            if owner == b"stapsdt" and type_ == NT_STAPSDT:
                found.append(_note(file, descriptor, base, machine, address_of, fixed))
    return found


def _note(
    file: ElfFile, descriptor: bytes, base: int | None, machine: str, address_of: Callable[[str], int | None], fixed: bool
) -> UsdtNote:
    strings = descriptor[_ADDRESSES.size :].split(b"\0")
    if len(descriptor) < _ADDRESSES.size or len(strings) < 3:
        raise file.bad(f"damaged: a USDT note of {len(descriptor)} bytes does not hold its three addresses and three strings")
    if len(strings[2]) > MOST_TEXT:
        raise file.bad(f"damaged: a USDT note with an argument string of {len(strings[2])} bytes")
    address, noted_base, semaphore = _ADDRESSES.unpack_from(descriptor)
    # prelink and split-debug tools move sections without rewriting notes; the base section moves along, so it tells how far.
    moved = base - noted_base if base is not None and noted_base else 0
    address = (address + moved) % (1 << 64)
    semaphore = (semaphore + moved) % (1 << 64) if semaphore else 0
    arguments_text = text(strings[2])
    arguments = parse_arguments(arguments_text, Site(machine, address, address_of, fixed))
    return UsdtNote(text(strings[0]), text(strings[1]), address, semaphore, arguments_text, arguments)
