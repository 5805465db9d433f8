"""The build id: which build a binary is. Standard library only; the supervisor checks a plan's pin with it."""

from __future__ import annotations

from pathlib import Path

from otel_usdt.elf.headers import PT_NOTE, ElfFile, Segment, elf_file, note_records, read_header, read_segments

NT_GNU_BUILD_ID = 3


def build_id(fd: int) -> str:
    """The GNU build id of the open file in hex, "" when it has none; BadBinary for what is no sound little-endian ELF64 file."""
    file = elf_file(fd, _name(fd))
    return build_id_in(file, read_segments(file, read_header(file)))


def build_id_in(file: ElfFile, segments: tuple[Segment, ...]) -> str:
    """The same of a file whose program headers are read already."""
    for segment in segments:
        if segment.type == PT_NOTE:
            data = file.read(segment.offset, segment.file_size, "a note segment")
            for name, type_, descriptor in note_records(file, data, segment.align):
                if name == b"GNU" and type_ == NT_GNU_BUILD_ID:
                    return descriptor.hex()
    return ""


def _name(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return f"descriptor {fd}"
