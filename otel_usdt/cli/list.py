"""otel-usdt list: the USDT probes and functions of a process, its libraries included, or of a file."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import click

from otel_usdt.elf.arguments import describe
from otel_usdt.elf.binary import Binary, open_binary
from otel_usdt.elf.locations import Location
from otel_usdt.elf.notes import UsdtNote
from otel_usdt.elf.placement import Placement, entry_site, usdt_site
from otel_usdt.elf.symbols import Symbol
from otel_usdt.errors import BadBinary, ProbeNotFound, TargetNotFound, UsageError
from otel_usdt.near import nearest
from otel_usdt.targets.process import binaries_of, resolve_pid

Kind = Literal["usdt", "function"]
_KINDS: dict[str, tuple[Kind, ...]] = {"usdt": ("usdt",), "func": ("function",)}
_WIDEST = 60  # characters of a name that still keep the columns aligned


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the GLOB asks for."""

    kinds: tuple[Kind, ...]
    pattern: str

    @classmethod
    def parse(cls, glob: str) -> Wanted:
        """One kind for "usdt:..." and "func:...", both for all else."""
        prefix, colon, rest = glob.partition(":")
        if colon and prefix in _KINDS:
            return cls(_KINDS[prefix], rest or "*")
        return cls(("usdt", "function"), glob)

    def probe(self, note: UsdtNote) -> bool:
        """Does it want this USDT probe? A pattern without a colon may also match the name alone."""
        alone = ":" not in self.pattern and fnmatchcase(note.name, self.pattern)
        return alone or fnmatchcase(f"{note.provider}:{note.name}", self.pattern)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the output; the fields are those of `list --json` (docs/json.md)."""

    kind: Kind
    binary: str
    build_id: str
    provider: str
    name: str
    address: int
    file_offset: int | None
    semaphore: int | None
    arguments: tuple[Location | str, ...]
    attach: Literal["safe", "refused"]
    reason: str

    @property
    def probe(self) -> str:
        """As trace, count and hist want it."""
        return f"usdt:{self.provider}:{self.name}" if self.kind == "usdt" else f"func:{self.name}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "kind": self.kind,
            "binary": self.binary,
            "build_id": self.build_id,
            "provider": self.provider,
            "name": self.name,
            "address": self.address,
            "file_offset": self.file_offset,
            "semaphore": self.semaphore,
            "arguments": [_argument(i, one) for i, one in enumerate(self.arguments, 1)],
            "attach": self.attach,
            "reason": self.reason,
        }


def entries(binary: Binary, wanted: Wanted) -> list[Entry]:
    """What of the binary is wanted: USDT probes in the order of their notes, then functions by name."""
    found = []
    if "usdt" in wanted.kinds:
        for note in binary.notes():
            if wanted.probe(note):
                site = usdt_site(binary, note)
                found.append(_entry(binary, "usdt", note.provider, note, site, note.semaphore or None, note.arguments))
    if "function" in wanted.kinds:
        for symbol in sorted(binary.functions().glob(wanted.pattern), key=lambda symbol: symbol.name):
            found.append(_entry(binary, "function", "", symbol, entry_site(binary, symbol), None, ()))
    return found


def nearest_probes(binaries: list[Binary], wanted: Wanted, n: int = 3) -> list[str]:
    """The probes whose names are most like the one that was not found, as they would be written."""
    name = re.sub(r"[*?\[\]]", "", wanted.pattern)
    names: dict[str, str] = {}
    for binary in binaries:
        if "function" in wanted.kinds:
            names |= {one: f"func:{one}" for one in binary.functions().near(name, n)}
        if "usdt" in wanted.kinds:
            for note in binary.notes():
                probe = f"{note.provider}:{note.name}"
                names |= {probe: f"usdt:{probe}", **({} if ":" in name else {note.name: f"usdt:{probe}"})}
    return list(dict.fromkeys(names[one] for one in nearest(name, names, n)))


@click.command(
    "list",
    epilog="""\b
Examples:
  otel-usdt list -p 4242 'usdt:*'                     all USDT probes of a process and its libraries
  otel-usdt list -p 4242 'pg_*'                       functions and probes by name
  otel-usdt list --binary /usr/bin/python3 --json     for programs: one JSON object a line

"refused" says why no probe may go on the entry; otel-usdt plan says it of returns as well.""",
)
@click.option("-p", "--pid", type=int, metavar="PID", help="A running process: its program and the libraries it maps.")
@click.option("--binary", "path", type=click.Path(), metavar="PATH", help="A program or shared library.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line (docs/json.md).")
@click.argument("glob", required=False, default="*")
def command(pid: int | None, path: str | None, as_json: bool, glob: str) -> None:
    """Show USDT probes and functions.

    GLOB is matched against provider:name of USDT probes and against names of functions (*, ?, [...]);
    "usdt:" or "func:" before it asks for one kind only.
    """
    if (pid is None) == (path is None):
        raise UsageError("either a process (-p PID) or a file (--binary PATH) is wanted", hint="otel-usdt list -p PID 'usdt:*'")
    wanted = Wanted.parse(glob)
    with contextlib.ExitStack() as stack:
        binaries = [stack.enter_context(open_binary(path))] if path is not None else list(_of_process(pid or 0, stack))
        found = False
        for binary in binaries:
            with _busy(f"reading {binary.name}"):
                some = entries(binary, wanted)
            if some:
                found = True
                _print(binary, some, as_json)
        if not found:
            with _busy("looking for similar names"):
                near = nearest_probes(binaries, wanted)
            raise _nothing(binaries, pid, glob, near)


def _of_process(pid: int, stack: contextlib.ExitStack) -> Iterator[Binary]:
    for i, file in enumerate(binaries_of(resolve_pid(pid))):
        try:
            yield stack.enter_context(open_binary(file.open_path, file.name))
        except (BadBinary, TargetNotFound) as error:
            if i == 0:  # the program itself; of a library the others are still worth showing
                raise
            click.echo(f"otel-usdt: skipped: {error}", err=True)


def _nothing(binaries: list[Binary], pid: int | None, glob: str, near: list[str]) -> ProbeNotFound:
    where = f"process {pid}" if pid is not None else binaries[0].name
    again = f"-p {pid}" if pid is not None else f"--binary {binaries[0].path}"
    if near:
        return ProbeNotFound(f"nothing in {where} matches {glob!r}; nearest: {', '.join(near)}", hint=f"otel-usdt list {again} shows all")
    if "function" not in Wanted.parse(glob).kinds:
        return ProbeNotFound(f"no USDT probe in {where} matches {glob!r}", hint=f"otel-usdt list {again} 'func:*' shows its functions")
    if binaries[0].stripped:
        hint = "install the program's debug symbols, or name an address (addr:0x...)"
        return ProbeNotFound(f"nothing in {where} matches {glob!r}: it is stripped, only exported functions have names", hint=hint)
    return ProbeNotFound(f"nothing in {where} matches {glob!r}", hint=f"otel-usdt list {again} shows all")


def _entry(
    binary: Binary,
    kind: Kind,
    provider: str,
    named: UsdtNote | Symbol,
    site: Placement,
    semaphore: int | None,
    arguments: tuple[Location | str, ...],
) -> Entry:
    try:
        offset = binary.file_offset(named.address)
    except ProbeNotFound:
        offset = None
    attach: Literal["safe", "refused"] = "refused" if site.refused else "safe"
    reason = f"{site.refused}; {site.remedy}" if site.refused else ""
    return Entry(
        kind, binary.name, binary.build_id, provider, named.name, named.address, offset, semaphore, arguments, attach, reason
    )  # fmt: skip


def _argument(index: int, location: Location | str) -> dict[str, Any]:
    known = location if isinstance(location, Location) else None
    size, signed = (known.size, known.signed) if known else (None, None)
    return {"index": index, "size": size, "signed": signed, "location": describe(location)}


def _print(binary: Binary, some: list[Entry], as_json: bool) -> None:
    if as_json:
        for entry in some:
            click.echo(json.dumps(entry.to_dict()))
        return
    width = min(_WIDEST, max(len(entry.probe) for entry in some))
    title = f"{binary.name}  {binary.machine}, {f'build id {binary.build_id}' if binary.build_id else 'no build id'}"
    rows = [[(_plain(title), "bold")], *(_row(entry, width) for entry in some)]
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("".join(text for text, _ in row).rstrip())
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for row in rows:
        console.print(Text.assemble(*row), soft_wrap=True)


def _row(entry: Entry, width: int) -> list[tuple[str, str]]:
    arguments = "  ".join(_short(i, one) for i, one in enumerate(entry.arguments, 1))
    refused = f"  refused: {entry.reason}" if entry.reason else ""
    name = (_plain(entry.probe).ljust(width), "cyan" if entry.kind == "usdt" else "")
    return [("  ", ""), name, (f"  {entry.address:#12x}", "dim"), (f"  {_plain(arguments)}" if arguments else "", ""), (refused, "red")]


def _short(index: int, location: Location | str) -> str:
    kind = f"{'i' if location.signed else 'u'}{8 * location.size} " if isinstance(location, Location) else ""
    return f"{index}: {kind}{describe(location).removeprefix('register ').removeprefix('memory ')}"


def _plain(text: str) -> str:
    """Names come from files that nobody vouches for: no escape sequence of theirs reaches the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


@contextlib.contextmanager
def _busy(what: str) -> Iterator[None]:
    """A spinner on a terminal's standard error."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(_plain(what)):
        yield
