"""Binaries: what they are, their build ids, and that damaged ones give BadBinary and nothing else."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_usdt.elf.binary import FARTHEST_ADDRESS, open_binary
from otel_usdt.elf.branches import Stretch, entered
from otel_usdt.elf.build_id import build_id
from otel_usdt.elf.placement import entry_site, usdt_site
from otel_usdt.elf.returns import return_sites
from otel_usdt.errors import BadBinary, NotPermitted, ProbeNotFound, TargetNotFound

Build = Callable[..., Path]
EMPTY = "int main(void) { return 0; }"


def readelf(*arguments: str | Path) -> str:
    return subprocess.run(["readelf", "-W", *arguments], check=True, capture_output=True, text=True).stdout


def build_id_of(path: Path) -> str:
    with path.open("rb") as file:
        return build_id(file.fileno())


def test_build_id_is_the_one_that_readelf_shows(probed: Path) -> None:
    """The build id comes from the program headers' notes, in hex."""
    shown = re.search(r"Build ID: ([0-9a-f]+)", readelf("-n", probed))
    assert shown
    with open_binary(str(probed)) as binary:
        assert binary.build_id == build_id_of(probed) == shown[1]


def test_no_build_id_is_empty(build: Build) -> None:
    """A file without a build id is no fault."""
    assert build_id_of(build(EMPTY, "-Wl,--build-id=none")) == ""


def test_identity_is_the_files(probed: Path) -> None:
    """Device and inode are the opened file's, the name the one that was given."""
    with open_binary(str(probed), "/in/the/container") as binary:
        status = probed.stat()
        assert (binary.device, binary.inode) == (status.st_dev, status.st_ino)
        assert (binary.name, binary.path, binary.machine) == ("/in/the/container", str(probed), "x86_64")
        assert [binary.stripped, binary.is_go, binary.unwinds_cxx, binary.fixed] == [False] * 4


def test_stripped_is_told(build: Build) -> None:
    """Without .symtab only exported functions have names."""
    with open_binary(str(build("int shown(void) { return 1; } static int hidden(void) { return 2; } int (*p)(void) = hidden;",
                               "-shared", "-fPIC", "-s"))) as binary:  # fmt: skip
        assert binary.stripped
        assert binary.functions().find("shown")
        assert not binary.functions().find("hidden")


@pytest.mark.parametrize(
    "text",
    [
        '__attribute__((section(".go.buildinfo"), used)) char go[8]; int main(void) { return 0; }',
        '__asm__(".pushsection .note.go,\\"a\\",@note; .long 3, 4, 4; .asciz \\"Go\\"; .balign 4; .long 1; .popsection"); '
        "int main(void) { return 0; }",
    ],
)
def test_go_is_told_by_section_or_note(build: Build, text: str) -> None:
    """Go's build information or its note marks a Go binary."""
    with open_binary(str(build(text))) as binary:
        assert binary.is_go


def test_cxx_is_told_by_its_personality_or_its_library(build: Build) -> None:
    """A binary may unwind C++ exceptions when it has the C++ personality routine or needs the C++ library."""
    library = build("int unused;", "-shared", "-fPIC", "-Wl,-soname,libstdc++.so.6", name="libstub.so")
    personality = build("int __gxx_personality_v0(void) { return 0; } int main(void) { return 0; }")
    needing = build("extern int unused; int main(void) { return unused; }", str(library))
    plain = build(EMPTY)
    for path, expected in ((personality, True), (needing, True), (plain, False)):
        with open_binary(str(path)) as binary:
            assert binary.unwinds_cxx is expected


@pytest.mark.parametrize("flags", [("-pie",), ("-no-pie",)])
def test_file_offsets_lead_to_the_code(build: Build, flags: tuple[str, ...]) -> None:
    """The file's bytes at a function's file offset are the function's code, in both kinds of program."""
    path = build('int main(int c, char **v) { __asm__ volatile (".byte 0x0f, 0x1f, 0x80, 0x44, 0x33, 0x22, 0x11"); return c; }', *flags)
    with open_binary(str(path)) as binary:
        (main,) = binary.functions().find("main")
        data = path.read_bytes()[binary.file_offset(main.address) :][: main.size]
        assert bytes.fromhex("0f1f8044332211") in data
        assert binary.code(main.address, main.size) == data
        assert binary.function_at(main.address + main.size - 1) == main
        assert binary.fixed is ("-no-pie" in flags)
        with pytest.raises(ProbeNotFound, match="nothing of the file is loaded at address 0x7fffffff0000"):
            binary.file_offset(0x7FFFFFFF0000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\x7fE", "not an ELF file: it begins with 7f 45"),
        (b"#!/bin/sh\n" * 100, "not an ELF file"),
        (b"\x7fELF\x02\x01\x01", "truncated: an ELF header has 64 bytes, the file 7"),
        (b"\x7fELF\x01\x01\x01" + bytes(60), "not a 64-bit"),
        (b"\x7fELF\x02\x02\x01" + bytes(60), "big-endian"),
        (b"\x7fELF\x02\x01\x01" + bytes(60), "for machine 0"),
    ],
)
def test_what_is_no_elf64_file_is_refused_with_its_reason(tmp_path: Path, content: bytes, message: str) -> None:
    """The message names the file and says what it is instead."""
    path = tmp_path / "thing"
    path.write_bytes(content)
    with pytest.raises(BadBinary, match=f"{path}: .*{message}"):
        open_binary(str(path))
    if "machine" not in message:
        with pytest.raises(BadBinary, match=message):
            build_id_of(path)


def test_directories_pipes_and_nothing_are_refused(tmp_path: Path) -> None:
    """Neither a directory nor a pipe is read, nor is a pipe waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadBinary, match="a directory, not an ELF file"):
        open_binary(str(tmp_path))
    with pytest.raises(BadBinary, match="not a regular file"):
        open_binary(str(tmp_path / "pipe"))
    with pytest.raises(TargetNotFound, match="no such file"):
        open_binary(str(tmp_path / "absent"))
    with pytest.raises(BadBinary, match="cannot be opened"):
        open_binary("a\0b")


def test_no_right_to_read_is_said(tmp_path: Path) -> None:
    """Missing rights are not taken for a bad file."""
    path = tmp_path / "secret"
    path.touch(mode=0)
    rights = os.geteuid()
    if rights == 0:
        tmp_path.chmod(0o700)
        os.seteuid(65534)
    try:
        with pytest.raises(NotPermitted, match="no right to read"):
            open_binary(str(path))
    finally:
        os.seteuid(rights)


def test_object_files_are_refused(build: Build) -> None:
    """An object file has no addresses to probe yet."""
    with pytest.raises(BadBinary, match="neither a program nor a shared library"):
        open_binary(str(build(EMPTY, "-c")))


def test_huge_counts_are_refused_at_once(probed: Path, tmp_path: Path) -> None:
    """A section of exabytes, or a million sections, is an error before it is memory."""
    data = bytearray(probed.read_bytes())
    (sections_at,) = struct.unpack_from("<Q", data, 40)
    damaged = tmp_path / "damaged"
    for i in range(1, struct.unpack_from("<H", data, 60)[0]):
        struct.pack_into("<Q", data, sections_at + 64 * i + 32, 1 << 62)
    damaged.write_bytes(data)
    with pytest.raises(BadBinary, match="not believed"):
        open_binary(str(damaged))
    data[60:62] = bytes(2)  # the count is then in the first section header
    struct.pack_into("<Q", data, sections_at + 32, 1 << 40)
    damaged.write_bytes(data)
    with pytest.raises(BadBinary, match="1099511627776 sections"):
        open_binary(str(damaged))


def ask_everything(path: str) -> None:
    with open_binary(path) as binary:
        for note in binary.notes():
            usdt_site(binary, note)
        functions = binary.functions()
        functions.near("mian")
        some = functions.glob("*[a-z]*")[:20]
        entered(binary, [Stretch(one, one.address, one.address + 9) for one in some if one.address + one.size < FARTHEST_ADDRESS])
        for symbol in some:
            assert functions.find(symbol.name) or "\\x" in symbol.name
            entry_site(binary, symbol)
            return_sites(binary, symbol)
        assert isinstance(binary.unwinds_cxx, bool)
        assert isinstance(binary.ibt, bool)


def in_memory(content: bytes) -> int:
    fd = os.memfd_create("damaged")
    os.write(fd, content)
    return fd


quickly = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@quickly
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_binary_is_bad_wherever_it_was_cut(probed: Path, cut: float) -> None:
    """The section headers are at the end, so every truncation is noticed, and named."""
    data = probed.read_bytes()
    fd = in_memory(data[: int(len(data) * cut)])
    try:
        with pytest.raises(BadBinary):
            ask_everything(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@quickly
@given(flips=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=20), headers=st.booleans())
def test_a_damaged_binary_is_bad_or_answers(probed: Path, flips: list[tuple[int, int]], headers: bool) -> None:
    """Whatever bytes are changed, BadBinary is all that comes out; half of the changes go where the structure is."""
    data = bytearray(probed.read_bytes())
    (sections_at,) = struct.unpack_from("<Q", data, 40)
    structure = [*range(64 + 56 * 13), *range(sections_at, len(data))]
    for at, value in flips:
        data[structure[at % len(structure)] if headers else at % len(data)] = value
    fd = in_memory(bytes(data))
    try:
        ask_everything(f"/proc/self/fd/{fd}")
    except BadBinary:
        pass
    finally:
        os.close(fd)
