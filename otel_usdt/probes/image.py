"""The kernel image: the compiled BPF program as data. Found in a cache or made once by the compiler child, loaded by bpf(2)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import shutil
import stat
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otel_usdt import __version__
from otel_usdt.errors import CompilerMissing, KernelRefused, NotPermitted
from otel_usdt.probes import compiler, obi, syscalls
from otel_usdt.probes.sources import bpf_folder

Image = dict[str, Any]
PYTHONS = ("/usr/bin/python3", "python3")  # the distribution's first: its bcc is not to be had elsewhere
COMPILE_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image in the kernel: descriptors of its maps, and of the programs asked for so far, by name, attach type and abilities."""

    image: Image
    maps: dict[str, int]
    programs: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def program(self, name: str, attach_type: int = 0, wanted: int = 0) -> int:
        """The program for that kind of link, with at least the abilities `wanted` (rows.WANTS); KernelRefused says what the verifier said.

        It is verified as if it had no others: to count takes 1 ms, to pair calls 90, to read a traceparent 300.
        """
        for (other, kind, abilities), loaded in self.programs.items():
            if (other, kind) == (name, attach_type) and wanted & ~abilities == 0 and bool(wanted) == bool(abilities):
                return loaded
        program = self.image["programs"][name]
        code = bytearray(base64.b64decode(program["code"]))
        for at, used in program["uses"]:
            struct.pack_into("<i", code, at + 4, self.maps[used])
        for at in program["wanted"]:
            struct.pack_into("<I4xI", code, at + 4, wanted, 0)
        try:
            loaded = syscalls.load_program(program["kind"], bytes(code), name, attach_type)
        except OSError as error:
            raise KernelRefused(f"loading the BPF program: {error.strerror}") from error
        self.programs[name, attach_type, wanted] = loaded
        return loaded

    def close(self) -> None:
        """Close them all; programs that links still hold live on until those are closed."""
        for held in (self.programs, self.maps):
            while held:
                os.close(held.popitem()[1])


def image_key() -> str:
    """What an image is cached under: the machine, and a checksum of all that goes into it."""
    folder, checksum = bpf_folder(), 0
    for source in (*sorted(path for path in folder.rglob("*.[ch]") if path.is_file()), Path(compiler.__file__)):
        checksum = zlib.crc32(source.name.encode() + b"\0" + source.read_bytes(), checksum)
    # It tells versions apart, not adversaries (`trusted` does that), and hashlib would bring OpenSSL into the supervisor.
    return f"{platform.machine()}-{__version__}-{checksum:08x}"


def cache_folder() -> Path:
    """Where made images are kept: OTEL_USDT_CACHE, else the system's cache for root, else the user's own."""
    if told := os.environ.get("OTEL_USDT_CACHE"):
        return Path(told)
    if os.geteuid() == 0:
        return Path("/var/cache/otel-usdt")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "otel-usdt"


def cached_image_path() -> Path | None:
    """A fitting image: one that came with the package, else one in the cache. None: it must be made."""
    name = f"{image_key()}.json"
    for folder in (bpf_folder() / "images", cache_folder()):
        try:
            if (folder / name).is_file():
                return folder / name
        except PermissionError:
            continue  # another user's folder
    return None


def python_with_bcc() -> tuple[str, str] | None:
    """An interpreter that has the distribution's bcc, and bcc's version."""
    for name in PYTHONS:
        if python := shutil.which(name):
            asked = subprocess.run(
                [python, "-I", "-c", "import bcc; print(bcc.BPF and bcc.__version__)"],
                capture_output=True,
                text=True,
                timeout=COMPILE_TIMEOUT_S,
            )
            if asked.returncode == 0:
                return python, asked.stdout.strip()
    return None


def make_image() -> Image:
    """Compile in a child that is gone afterwards, and cache the result where that is possible."""
    for python in filter(None, map(shutil.which, PYTHONS)):
        # No question first whether it has bcc: asking costs as much as the work.
        try:
            made = subprocess.run(
                [python, "-I", compiler.__file__, str(bpf_folder())],
                capture_output=True,
                text=True,
                timeout=COMPILE_TIMEOUT_S,
                cwd="/",
                start_new_session=True,  # a terminal's ^C is for us
            )
        except subprocess.TimeoutExpired as error:
            raise KernelRefused(
                f"bcc has not compiled the BPF program within {COMPILE_TIMEOUT_S} s", hint="try again when the host is less busy"
            ) from error
        if made.returncode == 0:
            image: Image = json.loads(made.stdout)
            _keep(made.stdout)
            return image
        if "No module named 'bcc'" not in made.stderr and "has no attribute 'BPF'" not in made.stderr:
            told = made.stderr.strip().splitlines()[-12:]
            if "Operation not permitted" in made.stderr or "Need super-user" in made.stderr:
                raise NotPermitted("making the kernel image needs the rights to create BPF maps")
            raise KernelRefused(
                "bcc could not compile the BPF program:\n" + "\n".join(told), hint="report this with the output of otel-usdt doctor"
            )
    raise CompilerMissing("no kernel image fits this version and machine, and no Python here has the distribution's bcc")


def _keep(text: str) -> None:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        descriptor, name = tempfile.mkstemp(dir=folder)
    except OSError:
        return  # a read-only host compiles each time; the image in hand is good
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(folder / f"{image_key()}.json")
    except OSError:
        Path(name).unlink(missing_ok=True)  # on a full disk not even a part of it


def trusted(path: Path) -> bool:
    """Only root, or ourselves, may have written the file: what is in it runs in the kernel."""
    return all(stat_is_private(part) for part in (path, path.parent))


def stat_is_private(path: Path) -> bool:
    """Owned by root or us, and writable by no one else."""
    told = path.stat()
    return told.st_uid in (0, os.geteuid()) and not told.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def find_image(say: Callable[[str], None] = lambda line: None) -> tuple[Image, str]:
    """An image and where it came from: a path, or "compiled". `say` is told when it must be made, which takes a second or two."""
    path = cached_image_path()
    if path is not None and trusted(path):
        with contextlib.suppress(ValueError):  # torn by a full disk; made anew
            image = json.loads(path.read_text())
            if isinstance(image, dict) and image.keys() >= {"maps", "programs"}:
                return image, str(path)
    say("compiling the BPF program, once ...")
    return make_image(), "compiled"


def load(image: Image, max_entries: dict[str, int]) -> Loaded:
    """Create the maps, sized by `max_entries` where it names them. Programs are loaded when they are asked for."""
    maps: dict[str, int] = {}
    try:
        maps["obi_template"] = obi.template()
        for name, shape in image["maps"].items():
            sized = shape | {"max_entries": max_entries.get(name, shape["max_entries"])}
            inner = maps["obi_template"] if shape["map_type"] == syscalls.ARRAY_OF_MAPS else 0
            maps[name] = syscalls.create_map(sized, name, inner=inner)
    except OSError as error:
        Loaded(image, maps).close()
        if isinstance(error, PermissionError):
            raise NotPermitted("the kernel does not let us create BPF maps") from error
        raise KernelRefused(f"creating the BPF maps: {error.strerror}") from error
    return Loaded(image, maps)
