"""The kernel image: made by a child of its own, kept as data, and never taken from where others may have written it."""

from __future__ import annotations

import base64
import errno
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from otel_usdt.errors import CompilerMissing, KernelRefused, NotPermitted, OtelUsdtError
from otel_usdt.probes import compiler, image, rows, syscalls
from otel_usdt.probes.compiler import one_text, program_of
from otel_usdt.probes.image import cached_image_path, find_image, image_key, load, python_with_bcc, trusted
from otel_usdt.probes.sources import bpf_folder

GOOD = {"machine": "x86_64", "bcc": "9.9", "maps": {}, "programs": {}}

# The text


def test_each_header_is_inlined_once() -> None:
    """bcc rewrites map accesses in the main text only: every *.bpf.h is in it, once; record.h, which has none, is included."""
    folder = bpf_folder()
    text = one_text(folder)
    headers = sorted(folder.glob("*.bpf.h"))
    assert len(headers) >= 4
    for header in headers:
        assert text.count(header.read_text().replace("#pragma once\n", "")) == 1, header.name
    assert "#pragma once" not in text
    assert '.bpf.h"' not in text
    assert text.count('#include "record.h"\n') == 1
    for name in compiler.PROGRAMS:
        assert text.count(f"int {name}(") == 1


def test_the_text_is_where_the_include_was(tmp_path: Path) -> None:
    """The order stays, and backslashes in a header are no patterns."""
    (tmp_path / "a.bpf.h").write_text('#pragma once\nchar *a = "\\\\1\\n";\n')
    (tmp_path / "otel_usdt.bpf.c").write_text('#include "record.h"\n#include "a.bpf.h"\nint b;\n')
    assert one_text(tmp_path) == '#include "record.h"\nchar *a = "\\\\1\\n";\nint b;\n'


# Instructions

LD_MAP = struct.pack("<BBhi", 0x18, 0x10 | 2, 0, 7) + struct.pack("<BBhi", 0, 0, 0, 0)  # r2 = map of descriptor 7
LD_NUMBER = struct.pack("<BBhi", 0x18, 0x00 | 3, 0, 7) + struct.pack("<BBhi", 0, 0, 0, 9)  # r3 = 0x900000007
MOVE = struct.pack("<BBhi", 0xB7, 0x10, 0, 7)
EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)


def test_descriptors_are_taken_out_and_their_places_noted() -> None:
    """Only loads of maps have them; a number that looks like one stays, and so does every other byte."""
    made = program_of(LD_NUMBER + LD_MAP + MOVE + LD_MAP + EXIT, {7: "counters"})
    blank = LD_MAP[:4] + bytes(4) + LD_MAP[8:]
    assert made["uses"] == [[16, "counters"], [40, "counters"]]
    assert base64.b64decode(made["code"]) == LD_NUMBER + blank + MOVE + blank + EXIT


def test_a_map_that_nobody_named_is_a_fault() -> None:
    """An image that misses a map would be loaded with a descriptor of the wrong one."""
    with pytest.raises(KeyError):
        program_of(LD_MAP, {8: "counters"})


# The cache


@dataclass(frozen=True)
class Cache:
    """A cache folder of the test's own, BPF sources of its own, and a Python that makes images; `made` says how often."""

    folder: Path
    sources: Path
    calls: Path

    @property
    def made(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0

    @property
    def file(self) -> Path:
        return self.folder / f"{image_key()}.json"


MakePython = Callable[[str], None]


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePython:
    """Puts a shell script in the interpreter's place."""

    def make(script: str) -> None:
        program = tmp_path / "python3"
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "calls"}\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setattr(image, "PYTHONS", (str(program),))

    return make


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: MakePython) -> Cache:
    shutil.copytree(bpf_folder(), tmp_path / "bpf", ignore=shutil.ignore_patterns("images"))
    monkeypatch.setattr(image, "bpf_folder", lambda: tmp_path / "bpf")
    monkeypatch.setenv("OTEL_USDT_CACHE", str(tmp_path / "cache"))
    python(f"echo '{json.dumps(GOOD)}'")
    return Cache(tmp_path / "cache", tmp_path / "bpf", tmp_path / "calls")


def test_an_image_is_made_once_and_then_found(cache: Cache) -> None:
    """The first look compiles, by the script that imports nothing of ours; the next finds the file, which all may read."""
    assert find_image() == (GOOD, "compiled")
    assert find_image() == (GOOD, str(cache.file))
    assert cache.made == 1
    assert cache.calls.read_text() == f"-I {compiler.__file__} {cache.sources}\n"
    assert cache.file.stat().st_mode & 0o777 == 0o644
    assert list(cache.folder.iterdir()) == [cache.file]


@pytest.mark.parametrize("name", ["record.h", "otel_usdt.bpf.c", "pairing.bpf.h", "include/include/linux/types.h"])
def test_another_source_is_another_image(cache: Cache, name: str) -> None:
    """A change of any file that goes into it makes the cached one unfit."""
    find_image()
    key = image_key()
    with (cache.sources / name).open("a") as file:
        file.write("\n")
    assert image_key() != key
    assert cached_image_path() is None
    assert find_image()[1] == "compiled"
    assert cache.made == 2


@pytest.mark.parametrize("content", [b"", b'{"maps": {}, "progr', b"\0" * 100, b"\xff\xfe", b"[]", b"null", b"{}", b'{"maps": {}}'])
def test_a_torn_file_is_made_anew(cache: Cache, content: bytes) -> None:
    """A disk that ran full, or a host that lost power, leaves no image that is half a one."""
    cache.folder.mkdir()
    cache.file.write_bytes(content)
    assert find_image() == (GOOD, "compiled")
    assert find_image() == (GOOD, str(cache.file))
    assert cache.made == 1


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o777])
def test_a_file_that_others_may_write_is_not_loaded(cache: Cache, mode: int) -> None:
    """What is in it runs in the kernel: it is made anew, and the good one takes its place."""
    cache.folder.mkdir()
    cache.file.write_text(json.dumps(GOOD | {"bcc": "evil"}))
    cache.file.chmod(mode)
    assert not trusted(cache.file)
    assert find_image() == (GOOD, "compiled")
    assert trusted(cache.file)
    assert find_image() == (GOOD, str(cache.file))


def test_a_folder_that_others_may_write_is_not_trusted(cache: Cache) -> None:
    """They could put another file into the good one's place at any time."""
    find_image()
    for mode in (0o775, 0o757, 0o1777):
        cache.folder.chmod(mode)
        assert not trusted(cache.file)
        assert find_image()[1] == "compiled"
    cache.folder.chmod(0o755)
    assert trusted(cache.file)


@pytest.mark.kernel
def test_a_file_of_another_user_is_not_trusted(cache: Cache) -> None:
    """Nobody but root and ourselves."""
    find_image()
    os.chown(cache.file, 65534, 65534)
    assert not trusted(cache.file)
    assert find_image()[1] == "compiled"
    os.chown(cache.folder, 65534, 65534)
    assert not trusted(cache.file)


def test_an_image_that_came_with_the_package_is_taken_first(cache: Cache) -> None:
    """Then the production host needs no compiler at all."""
    find_image()
    shipped = cache.sources / "images" / cache.file.name
    shipped.parent.mkdir()
    shipped.write_text(json.dumps(GOOD | {"bcc": "shipped"}))
    assert find_image() == (GOOD | {"bcc": "shipped"}, str(shipped))


def test_without_a_place_for_the_cache_the_image_is_made_each_time(cache: Cache) -> None:
    """A read-only host works, only slower."""
    cache.folder.write_text("a file where the folder should be")
    assert find_image() == find_image() == (GOOD, "compiled")
    assert cache.made == 2


def test_a_disk_that_is_full_keeps_no_part_of_an_image(cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither under its name nor under another; the image in hand is used."""
    (tmp_path / "big.json").write_text(json.dumps(GOOD | {"filler": "x" * 100_000}))
    text = (tmp_path / "python3").read_text().splitlines()
    (tmp_path / "python3").write_text("\n".join([*text[:2], f"cat {tmp_path / 'big.json'}"]))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        found, where = find_image()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert (found["machine"], where) == ("x86_64", "compiled")
    assert list(cache.folder.iterdir()) == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the variable says; the system's for root, else the user's own."""
    monkeypatch.setenv("OTEL_USDT_CACHE", "/x/y")
    assert image.cache_folder() == Path("/x/y")
    monkeypatch.delenv("OTEL_USDT_CACHE")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert image.cache_folder() == Path("/var/cache/otel-usdt")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/u/c")
    assert image.cache_folder() == Path("/home/u/c/otel-usdt")


# A compiler that is missing or fails


@pytest.mark.parametrize(
    ("script", "kind", "what"),
    [
        ("echo \"ModuleNotFoundError: No module named 'bcc'\" >&2; exit 1", CompilerMissing, "no Python here has the distribution's bcc"),
        ("echo \"AttributeError: module 'bcc' has no attribute 'BPF'\" >&2; exit 1", CompilerMissing, "no Python here"),
        ("echo 'bpf: Operation not permitted' >&2; exit 1", NotPermitted, "rights to create BPF maps"),
        ("echo 'record.h:9: error: expected ;' >&2; exit 1", KernelRefused, "record.h:9: error: expected ;"),
        ("sleep 60", KernelRefused, "has not compiled the BPF program within 0.2 s"),
    ],
)
def test_a_compiler_that_fails_is_told_with_its_remedy(
    cache: Cache, python: MakePython, monkeypatch: pytest.MonkeyPatch, script: str, kind: type[OtelUsdtError], what: str
) -> None:
    """Each in its own words, and nothing is cached."""
    monkeypatch.setattr(image, "COMPILE_TIMEOUT_S", 0.2 if "sleep" in script else 10)
    python(f"exec {script}" if "sleep" in script else script)
    with pytest.raises(kind, match=what.replace("(", r"\(")) as caught:
        find_image()
    assert type(caught.value) is kind
    assert caught.value.hint
    assert cached_image_path() is None


def test_the_next_python_is_tried_when_one_has_no_bcc(cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The distribution's first; one that is not there at all is passed over."""
    (tmp_path / "bare").write_text("#!/bin/sh\necho \"No module named 'bcc'\" >&2\nexit 1\n")
    (tmp_path / "bare").chmod(0o755)
    monkeypatch.setattr(image, "PYTHONS", ("/no/python", str(tmp_path / "bare"), str(tmp_path / "python3")))
    assert find_image() == (GOOD, "compiled")
    assert cache.made == 1


def test_the_compiler_imports_nothing_of_ours() -> None:
    """It runs under the distribution's Python, isolated: the package is not there."""
    text = "import runpy, sys; runpy.run_path(sys.argv[1]); print([name for name in sys.modules if name.startswith('otel')])"
    told = subprocess.run([sys.executable, "-I", "-c", text, compiler.__file__], check=True, capture_output=True, text=True, cwd="/")
    assert told.stdout == "[]\n"


# With the real compiler and the real kernel


def open_descriptors() -> list[str]:
    return sorted(one.name for one in Path("/proc/self/fd").iterdir())


@pytest.mark.kernel
def test_the_real_image_is_the_same_each_time_and_loads(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trace of a descriptor or of the host is in it; the kernel takes it, with the sizes of the plan."""
    monkeypatch.setattr(image, "PYTHONS", ("/usr/bin/python3", "python3"))
    assert python_with_bcc() is not None, "install python3-bpfcc"
    made = image.make_image()
    cache.file.unlink()
    assert image.make_image() == made
    assert set(made["maps"]) == set(compiler.MAPS)
    assert set(made["programs"]) == set(compiler.PROGRAMS)
    assert find_image() == (made, str(cache.file))
    loaded = load(made, {"sites": 77, "records": 1 << 16})
    try:
        assert compiler.shape(loaded.maps["sites"])["max_entries"] == 77
        assert compiler.shape(loaded.maps["records"])["max_entries"] == 1 << 16
        assert compiler.shape(loaded.maps["losses"]) == made["maps"]["losses"]
        every = sum(rows.WANTS.values())
        descriptors = [loaded.program(name, 0, every) for name in compiler.PROGRAMS]
        assert len({*descriptors}) == len(compiler.PROGRAMS)
    finally:
        loaded.close()


@pytest.mark.kernel
def test_an_image_that_the_kernel_refuses_leaves_nothing_open(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier's last words are told, and every descriptor that was made on the way is closed."""
    monkeypatch.setattr(image, "PYTHONS", ("/usr/bin/python3", "python3"))
    made, _ = find_image()
    bad = {**made, "programs": {"on_exit": made["programs"]["on_exit"] | {"code": base64.b64encode(MOVE).decode(), "uses": []}}}
    before = open_descriptors()
    loaded = load(bad, {})
    with pytest.raises(KernelRefused, match="loading the BPF program"):
        loaded.program("on_exit")
    loaded.close()
    assert open_descriptors() == before


@pytest.mark.kernel
def test_a_signal_while_a_program_is_verified_is_no_refusal(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier gives up where a signal comes: it is asked again in the same way, without the log that a refusal would be told by."""
    monkeypatch.setattr(image, "PYTHONS", ("/usr/bin/python3", "python3"))
    made, _ = find_image()
    logged: list[int] = []
    answered: list[int | None] = []

    def watched(command: int, attribute: bytes) -> int:
        if command == syscalls.PROG_LOAD:
            logged.append(struct.unpack_from("<I", attribute, 24)[0])  # log_level
            signal.setitimer(signal.ITIMER_REAL, 0 if answered else 0.005)  # all that it can do is verified for far longer
        try:
            return asked(command, attribute)
        except OSError as error:
            answered.append(error.errno)
            raise

    asked = syscalls.bpf
    monkeypatch.setattr(syscalls, "bpf", watched)
    loaded, before = load(made, {}), signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        assert loaded.program("on_site", wanted=sum(rows.WANTS.values())) > 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        loaded.close()
    assert answered == [errno.EAGAIN]
    assert logged == [0, 0]
