"""The text by which people name a probe, parsed once: for the configuration and the command line alike. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from otel_usdt.errors import UsageError

Kind = Literal["usdt", "func", "addr"]

FORMS = "usdt:PROVIDER:NAME, func:NAME or addr:0x1234, with BINARY: in front where it is not the target's executable"
_HINT = f"a probe is {FORMS}; otel-usdt list -p PID shows them"
_LONGEST = 4096  # characters: PATH_MAX; mangled C++ names stay well below it
_KIND = re.compile(r"(?:^|(?<=:))(usdt|func|addr):")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """One probe as a user names it. `provider` is of USDT alone, `address` of addr alone; `binary` "" is the target's executable."""

    kind: Kind
    provider: str = ""
    name: str = ""  # may be a glob, as may `provider`
    address: int = 0  # in the file's own numbering
    binary: str = ""  # a path, or the last part of one: libpq.so.5

    @property
    def is_glob(self) -> bool:
        """Whether it may stand for several probes."""
        return _GLOB.search(self.provider + self.name) is not None

    def __str__(self) -> str:
        """The text that parses to this again."""
        end = {"usdt": f"usdt:{self.provider}:{self.name}", "func": f"func:{self.name}", "addr": f"addr:{self.address:#x}"}[self.kind]
        return f"{self.binary}:{end}" if self.binary else end


def parse_probe(text: str) -> ProbeSpec:
    """`[BINARY:]usdt:PROVIDER:NAME`, `[BINARY:]func:NAME` or `[BINARY:]addr:0x1234`; anything else is a UsageError that shows the form."""
    text = _checked(text)
    found = _KIND.search(text)
    if found is None:
        raise _wrong(text, f"usdt:PROVIDER:NAME, func:NAME or addr:0x1234 is wanted{_nearest(text)}")
    binary, rest = text[: found.start()].removesuffix(":"), text[found.end() :]
    if found.start() and not binary:
        raise _wrong(text, "a binary's name or path is wanted before the first colon")
    match found[1]:
        case "usdt":
            return _usdt(text, rest, binary)
        case "func":
            if not rest:
                raise _wrong(text, "func:NAME is wanted")
            return ProbeSpec("func", name=rest, binary=binary)
        case _:
            return ProbeSpec("addr", address=_address(text, rest), binary=binary)


def parse_pair(text: str) -> tuple[ProbeSpec, ProbeSpec]:
    """The two ends of `A ~~ B`. What B leaves out it has from A: `usdt:postgresql:query__start ~~ query__done`."""
    ends = text.split("~~")
    if len(ends) != 2 or not all(end.strip() for end in ends):
        raise UsageError(f"{_short(text)} is no pair: A ~~ B is wanted, as in usdt:postgresql:query__start ~~ query__done", hint=_HINT)
    first = parse_probe(ends[0])
    second = _checked(ends[1])
    if _KIND.search(second) is None:
        if first.kind == "addr":
            return first, ProbeSpec("addr", address=_address(second, second), binary=first.binary)
        if first.kind == "usdt" and ":" in second:
            raise _wrong(second, f"the name alone (its provider is {first.provider}) or usdt:PROVIDER:NAME is wanted")
        return first, replace(first, name=second)
    parsed = parse_probe(second)
    return first, parsed if parsed.binary else replace(parsed, binary=first.binary)


def parse_function(text: str) -> ProbeSpec:
    """A function whose entry and return pair: `NAME` or `[BINARY:]func:NAME`; NAME may be a glob."""
    text = _checked(text)
    found = _KIND.search(text)
    if found is None:
        return ProbeSpec("func", name=text)
    if found[1] != "func":
        raise _wrong(text, "a function's name is wanted, as NAME or BINARY:func:NAME; two other ends pair with enter and return")
    return parse_probe(text)


def _usdt(text: str, rest: str, binary: str) -> ProbeSpec:
    parts = rest.split(":")
    if len(parts) == 3 and "/" in parts[0] and not binary:  # other tracers' order
        raise _wrong(text, f"the binary comes first: did you mean '{parts[0]}:usdt:{parts[1]}:{parts[2]}'?")
    if len(parts) != 2 or not all(parts):
        raise _wrong(text, "usdt:PROVIDER:NAME is wanted")
    return ProbeSpec("usdt", provider=parts[0], name=parts[1], binary=binary)


def _address(text: str, number: str) -> int:
    try:
        address = int(number, 0)
    except ValueError:
        raise _wrong(text, "an address such as addr:0x1234 is wanted") from None
    if not 0 <= address < 1 << 63:
        raise _wrong(text, "the address is out of range")
    return address


def _checked(text: str) -> str:
    text = text.strip()
    if not text:
        raise UsageError(f"an empty probe: {FORMS}", hint=_HINT)
    if len(text) > _LONGEST or not text.isprintable():
        raise _wrong(text, f"at most {_LONGEST} printable characters are wanted")
    return text


def _nearest(text: str) -> str:
    parts = text.split(":")
    if parts[0] in ("u", "uprobe", "uretprobe", "p", "r") and len(parts) in (2, 3):  # as other tracers write them
        return f" (did you mean '{':'.join([*parts[1:-1], 'func', parts[-1]])}'?)"
    if len(parts) == 2 and all(parts):
        return f" (did you mean 'usdt:{text}'?)"
    if len(parts) == 1:
        return f" (did you mean 'func:{text}'?)"
    return ""


def _wrong(text: str, what: str) -> UsageError:
    return UsageError(f"{_short(text)} is no probe: {what}", hint=_HINT)


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
