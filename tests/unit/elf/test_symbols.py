"""Symbol tables."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from otel_usdt.elf.binary import open_binary
from otel_usdt.elf.symbols import Symbol

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def libc() -> Path:
    """A library with versioned symbols, aliases and IFUNCs: the C library that this Python runs on."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/libc.so.6" in line or "/libc-2" in line:
            return Path(line.split(maxsplit=5)[5])
    raise AssertionError("no C library is mapped here")


def nm_functions(path: Path, *flags: str) -> dict[str, set[int]]:
    found = defaultdict(set)
    for line in subprocess.run(["nm", *flags, "--defined-only", path], check=True, capture_output=True, text=True).stdout.splitlines():
        address, kind, name = line.split()
        if kind in "TtWi":
            found[name.partition("@")[0]].add(int(address, 16))
    return found


def test_all_functions_of_libc_are_found_by_name(libc: Path) -> None:
    """Every function that nm shows is found under its bare name, at each address that any version of it has."""
    expected = nm_functions(libc, "-D")
    assert len(expected) > 1000
    with open_binary(str(libc)) as binary:
        functions = binary.functions()
        for name, addresses in expected.items():
            assert addresses <= {symbol.address for symbol in functions.find(name)}, name
            assert {symbol.name for symbol in functions.find(name)} == {name}


def test_versions_are_stripped_in_both_tables(build: Build, tmp_path: Path) -> None:
    """Two versions of one function are two addresses of one name, although .symtab spells the versions out."""
    script = tmp_path / "map"
    script.write_text("V1 { global: f; local: *; }; V2 { } V1;")
    text = """__asm__(".symver old, f@V1"); __asm__(".symver new, f@@V2");
              int old(void) { return 1; } int new(void) { return 2; }"""
    with open_binary(str(build(text, "-shared", "-fPIC", f"-Wl,--version-script={script}"))) as binary:
        (old,), (new,) = binary.functions().find("old"), binary.functions().find("new")
        assert [symbol.address for symbol in binary.functions().find("f")] == sorted([old.address, new.address])
        assert not binary.functions().glob("*@*")


def test_ifuncs_are_marked(libc: Path) -> None:
    """An IFUNC's address is its resolver's, and the symbol says so."""
    with open_binary(str(libc)) as binary:
        assert all(symbol.ifunc for symbol in binary.functions().find("strlen"))
        assert not any(symbol.ifunc for symbol in binary.functions().find("malloc"))


def test_static_functions_of_one_name_are_all_found(build: Build, tmp_path: Path) -> None:
    """Two files may each have a static function of the same name: two symbols."""
    second = tmp_path / "second.c"
    second.write_text("static int __attribute__((noinline)) twin(int x) { return x ^ 3; } int b(int x) { return twin(x) + 1; }")
    first = "static int __attribute__((noinline)) twin(int x) { return x * 5; } int b(int); int main(int c) { return twin(c) + b(c); }"
    path = build(first, str(second), "-fno-inline", "-fno-ipa-cp")
    with open_binary(str(path)) as binary:
        twins = binary.functions().find("twin")
        assert {symbol.address for symbol in twins} == nm_functions(path)["twin"]
        assert len(twins) == 2
        assert all(symbol.size > 0 for symbol in twins)


def test_imported_functions_and_variables_are_not_functions(probed: Path) -> None:
    """Only what this file defines can be probed in it."""
    with open_binary(str(probed)) as binary:
        assert binary.functions().find("main")
        for name in ("printf", "counter", "letters", "no_such", "", "mai", "main\0"):
            assert binary.functions().find(name) == []


@pytest.mark.parametrize(
    "pattern", ["mallo?", "str*", "*alloc*", "[a-c]*lock", "*", "m[!a]*", "malloc", "*_np", "str[n]len", "[", "zz*", "*[]x]*"]
)
def test_globs_match_as_the_shell_does(libc: Path, pattern: str) -> None:
    """The quick way finds the same names as matching them one by one."""
    with open_binary(str(libc)) as binary:
        every = {symbol.name for symbol in binary.functions().glob("*")}
        assert {symbol.name for symbol in binary.functions().glob(pattern)} == {name for name in every if fnmatchcase(name, pattern)}


@pytest.mark.parametrize(("wrong", "right"), [("maloc", "malloc"), ("gettimeofdy", "gettimeofday"), ("PTHREAD_CREAT", "pthread_create")])
def test_near_names_are_those_meant(libc: Path, wrong: str, right: str) -> None:
    """A misspelt name leads to the one that was meant."""
    with open_binary(str(libc)) as binary:
        near = binary.functions().near(wrong)
        assert right in near
        assert len(near) <= 3
        assert binary.functions().near("qqqqzzzz") == binary.functions().near("") == []


def test_the_function_at_an_address_covers_it(libc: Path) -> None:
    """Any byte of a function leads to a function with that range."""
    with open_binary(str(libc)) as binary:
        (malloc,) = binary.functions().find("malloc")
        for address in (malloc.address, malloc.address + malloc.size - 1):
            found = binary.function_at(address)
            assert found is not None
            assert (found.address, found.size) == (malloc.address, malloc.size)
        assert binary.function_at(0) is binary.function_at(-1) is binary.function_at(1 << 64) is None


def test_a_table_without_functions_answers_nothing(build: Build) -> None:
    """A library of data alone is no fault."""
    with open_binary(str(build("int data = 1;", "-shared", "-fPIC", "-nostdlib", "-s"))) as binary:
        functions = binary.functions()
        assert functions.glob("*") == functions.find("data") == []
        assert functions.near("data") == []
        assert functions.at(0x1000) is None


def test_symbols_compare_by_value() -> None:
    """A symbol is plain data."""
    assert Symbol("a", 1, 2) == Symbol("a", 1, 2, ifunc=False)
