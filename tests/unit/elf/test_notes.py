"""USDT notes of compiled programs and of PostgreSQL."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_usdt.elf.arguments import describe
from otel_usdt.elf.binary import open_binary
from otel_usdt.elf.locations import Location

Build = Callable[..., Path]
NOTE = re.compile(
    r"Provider: (\S+)\s+Name: (\S+)\s+Location: 0x([0-9a-f]+), Base: 0x[0-9a-f]+, Semaphore: 0x([0-9a-f]+)\s+Arguments: ?(.*)"
)


def readelf_notes(path: Path) -> list[tuple[str, str, int, int, str]]:
    shown = subprocess.run(["readelf", "-W", "-n", path], check=True, capture_output=True, text=True).stdout
    return [(one[0], one[1], int(one[2], 16), int(one[3], 16), one[4].strip()) for one in NOTE.findall(shown)]


def symbol_address(path: Path, name: str) -> int:
    for line in subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout.splitlines():
        if line.endswith(f" {name}"):
            return int(line.split()[0], 16)
    raise AssertionError(name)


@pytest.fixture
def postgres() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    assert found, "PostgreSQL is not installed: apt-get install postgresql (make test does)"
    return found[-1]


@pytest.mark.parametrize("flags", [(), ("-no-pie",), ("-s",)])
def test_notes_are_those_that_readelf_shows(build: Build, probed: Path, flags: tuple[str, ...]) -> None:
    """Every site is there with its address, semaphore and argument text; stripping takes nothing away."""
    path = build((probed.parent / "source.c").read_text(), *flags)
    with open_binary(str(path)) as binary:
        found = [(note.provider, note.name, note.address, note.semaphore, note.arguments_text) for note in binary.notes()]
    assert found == readelf_notes(path)
    sites = Counter(name for _, name, *_ in found)
    assert sites["work__done"] >= 2, "two sites of one probe"
    assert sites["work__start"] == sites["shape"] == 1


def test_semaphores_are_at_their_symbols(probed: Path) -> None:
    """A probe's semaphore is the counter that the program tests, and lies in the file."""
    with open_binary(str(probed)) as binary:
        for note in binary.notes():
            assert note.semaphore == symbol_address(probed, f"{note.provider}_{note.name}_semaphore")
            assert binary.file_offset(note.semaphore) > 0


def test_arguments_of_a_compiled_probe_are_located(probed: Path) -> None:
    """A variable, a constant and a narrow register are located, and a double says that it is floating point."""
    with open_binary(str(probed)) as binary:
        (note,) = (note for note in binary.notes() if note.name == "shape")
    counter, constant, narrow, double = note.arguments
    assert isinstance(counter, Location)
    assert isinstance(narrow, Location)
    assert (counter.size, counter.signed) == (4, True)
    if counter.how == "memory":  # else gcc has loaded it already
        assert note.address + counter.offset == symbol_address(probed, "counter")
    assert constant == Location("constant", 2, True, offset=-2)
    assert (narrow.size, narrow.signed) == (1, False)
    assert "floating-point" in describe(double)


def test_notes_follow_their_base_section(probed: Path, tmp_path: Path) -> None:
    """When a tool has moved the sections, addresses and semaphores move as .stapsdt.base did."""
    moved = tmp_path / "moved"
    subprocess.run(["objcopy", "--change-section-address", ".stapsdt.base+0x1000", probed, moved], check=True, capture_output=True)
    with open_binary(str(probed)) as before, open_binary(str(moved)) as after:
        assert before.notes()
        assert [(n.address + 0x1000, n.semaphore + 0x1000) for n in before.notes()] == [(n.address, n.semaphore) for n in after.notes()]


def test_a_program_without_probes_has_no_notes(build: Build) -> None:
    """No note section is no fault."""
    with open_binary(str(build("int main(void) { return 0; }"))) as binary:
        assert binary.notes() == []


def test_every_probe_of_postgres_is_read(postgres: Path) -> None:
    """PostgreSQL's sites are exactly those of readelf, and every argument of every one can be read."""
    with open_binary(str(postgres)) as binary:
        notes = binary.notes()
        expected = readelf_notes(postgres)
        assert [(n.provider, n.name, n.address, n.semaphore, n.arguments_text) for n in notes] == expected
        assert len(notes) > 50
        for note in notes:
            assert len(note.arguments) == len(note.arguments_text.split())
            assert all(isinstance(one, Location) for one in note.arguments), f"{note.name}: {note.arguments}"
            assert binary.code(note.address, 1) == b"\x90"
            assert binary.file_offset(note.semaphore)
        start = {note.name: note for note in notes}["query__start"]
        assert [describe(one).split()[0] for one in start.arguments] in (["register"], ["memory"])
