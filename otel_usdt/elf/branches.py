"""What enters a function behind its first instruction: jumps, calls, jump tables, addresses that are taken. x86_64 only.

Of a whole binary, without disassembling it: only a few bytes of each function matter, so whatever has the form of a branch to one of
them is taken for one, at whatever byte it begins. A false alarm costs a better place for a probe, no more. One pass answers for all
functions of a plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from otel_usdt.elf.binary import Binary
from otel_usdt.elf.disassembly import instructions
from otel_usdt.elf.placement import LONGEST
from otel_usdt.elf.symbols import Symbol
from otel_usdt.errors import ProbeNotFound

SLICE = 1 << 20  # bytes of code looked at at once: what numpy makes of them stays in the processor's cache
LONGEST_TABLE = 1 << 16  # entries of a jump table
MOST_BYTES = 1 << 20  # of one function

_Addresses = NDArray[np.int64]
_Bytes = NDArray[np.uint8]

# Opcodes followed by four bytes of distance: call, jmp; in two bytes jcc (0f 80..8f), xbegin (c7 f8), lea of an address (8d, mod 0, rm 5).
_ONE = bytes(one in (0xE8, 0xE9) for one in range(256))
_TWO = bytes(one in (0x0F, 0xC7, 0x8D) for one in range(256))
# Opcodes followed by one byte of distance: jmp, jcc, loop and jrcxz.
_SHORT = np.array([one == 0xEB or 0x70 <= one <= 0x7F or 0xE0 <= one <= 0xE3 for one in range(256)])
_SHORT_REACH = 130


@dataclass(frozen=True, slots=True)
class Stretch:
    """The addresses from a function's first byte `start` to `last`, where a probe may go; `entry` is where one would go else."""

    symbol: Symbol
    entry: int
    last: int


@dataclass(slots=True)
class Entered:
    """By the function's first byte: what leads into a stretch behind `entry`; and jumps by which a function goes back to its entry."""

    within: dict[int, str] = field(default_factory=dict)
    again: dict[int, str] = field(default_factory=dict)


class _Sought:
    """The stretches as sorted columns, to be asked for many addresses at once."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.of = sorted(stretches, key=lambda one: one.symbol.address)
        self.start, self.entry, self.last, self.end = (
            np.array(column, dtype=np.int64)
            for column in zip(*((s.symbol.address, s.entry, s.last, s.symbol.address + s.symbol.size) for s in self.of), strict=True)
        )

    def find(self, targets: _Addresses) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(which of `targets`, which function) for those that lie between a function's first and last byte."""
        near = np.flatnonzero((targets >= self.start[0]) & (targets < self.end.max()))
        of = np.searchsorted(self.start, targets[near], "right") - 1
        kept = targets[near] < np.maximum(self.end, self.last + 1)[of]
        return near[kept], of[kept]


def entered(binary: Binary, stretches: Sequence[Stretch]) -> Entered:
    """What of the whole binary leads into each stretch. BadBinary when the file cannot be looked through."""
    told = Entered()
    if not stretches:
        return told
    sought = _Sought(stretches)
    for one, following in zip(sought.of, sought.of[1:], strict=False):
        if following.symbol.address <= one.last:
            told.within.setdefault(one.symbol.address, f"{following.symbol.name} begins within its first instructions")
    if all(one.last <= one.entry for one in stretches):  # then only jumps back to the entry matter, and they are in the function itself
        for one in sought.of:
            code = binary.code(one.symbol.address, min(one.symbol.size, MOST_BYTES))
            _jumps(binary, sought, code, one.symbol.address, told)
        return told
    loaded, ends = [np.empty(0, np.int64)], [0]
    for address, code in binary.loaded(code=True):
        ends += address, address + len(code)
        loaded += _jumps(binary, sought, code, address, told)
        if binary.fixed:
            _pointers(sought, code, address, 4, told)
    bases = _distinct(np.concatenate(loaded))
    for address, data in binary.loaded(code=False):
        _pointers(sought, data, address, 8, told)
        _tables(sought, data, address, bases, range(min(ends[1:], default=0), max(ends)), told)
    return told


def _jumps(binary: Binary, sought: _Sought, code: bytes, address: int, told: Entered) -> list[_Addresses]:
    """Branches in this code. Returns the addresses that its leas load."""
    loaded = []
    for sources, targets, lea in _far(code, address):
        _branches(binary, sought, sources[~lea], targets[~lea], told)
        _taken(sought, targets[lea], told)
        loaded.append(_distinct(targets[lea]))
    _branches(binary, sought, *_short(sought, np.frombuffer(code, np.uint8), address), told)
    return loaded


def _distinct(addresses: _Addresses) -> _Addresses:
    """Each once, in order. As np.unique, which would import numpy.ma: a hundredth of a second in which nothing is planned."""
    ordered = np.sort(addresses)
    return np.concatenate((ordered[:1], ordered[1:][ordered[1:] != ordered[:-1]]))


def _far(code: bytes, address: int) -> Iterator[tuple[_Addresses, _Addresses, NDArray[np.bool_]]]:
    """(where it begins, where it leads, is it a lea) of all that looks like a branch with four bytes of distance, slice by slice."""
    bytes_ = np.frombuffer(code, np.uint8)
    distances = np.ndarray((max(0, len(code) - 3),), "<i4", code, strides=(1,))
    for begin in range(0, len(code), SLICE):
        piece = code[begin : begin + SLICE]
        one = np.flatnonzero(np.frombuffer(piece.translate(_ONE), np.bool_)) + begin
        two = np.flatnonzero(np.frombuffer(piece.translate(_TWO), np.bool_)) + begin
        one, two = one[one + 5 <= len(code)], two[two + 6 <= len(code)]
        first, second = bytes_[two], bytes_[two + 1]
        lea = (first == 0x8D) & (second & 0xC7 == 0x05)
        kept = lea | ((first == 0x0F) & (second & 0xF0 == 0x80)) | ((first == 0xC7) & (second == 0xF8))
        two, lea = two[kept], lea[kept]
        yield (
            np.concatenate([one, two]) + address,
            np.concatenate([one + 5 + distances[one + 1], two + 6 + distances[two + 2]]) + address,
            np.concatenate([np.zeros(len(one), np.bool_), lea]),
        )


def _short(sought: _Sought, code: _Bytes, address: int) -> tuple[_Addresses, _Addresses]:
    """The same for jumps with one byte of distance, which begin near a stretch."""
    sources = [np.empty(0, np.int64)]
    for one in sought.of:
        if not address <= one.symbol.address < address + len(code):
            continue
        begin = max(0, one.symbol.address - address - _SHORT_REACH)
        near = code[begin : max(0, one.last - address + _SHORT_REACH)]
        sources.append(np.flatnonzero(_SHORT[near[:-1]]) + begin)
    found = _distinct(np.concatenate(sources))
    return found + address, found + 2 + code[found + 1].astype(np.int8) + address


def _branches(binary: Binary, sought: _Sought, sources: _Addresses, targets: _Addresses, told: Entered) -> None:
    at, of = sought.find(targets)
    sources, targets = sources[at], targets[at]
    inside = (sources >= sought.start[of]) & (sources < sought.end[of])
    kept = (targets <= sought.last[of]) & (inside | (targets > sought.entry[of]))
    for source, target, which in zip(sources[kept].tolist(), targets[kept].tolist(), of[kept].tolist(), strict=True):
        one = sought.of[which]
        start, behind = one.symbol.address, target > one.entry
        where = told.within if behind else told.again
        if start in where or not (jumps := _leads(binary, source, target)):
            continue
        if behind:
            where[start] = f"the branch at {source:#x} leads to {target:#x}, in front of it"
        elif jumps == "jump":
            where[start] = f"the jump at {source:#x} goes back to the entry of {one.symbol.name}, so that one call enters more than once"


def _leads(binary: Binary, source: int, target: int) -> str:
    """Is it really a branch, or bytes that look like one? "jump", "call", or "" when the code around them reads otherwise."""
    function = binary.function_at(source)
    if function is None or source - function.address > MOST_BYTES:
        return "call"
    try:
        code = binary.code(function.address, source + LONGEST - function.address)
    except ProbeNotFound:
        return "call"
    for one in instructions(binary.machine, code, function.address):
        if one.address <= source < one.address + len(one.code):
            if one.operands != hex(target):
                return ""
            return "call" if "call" in one.mnemonic else "jump"
    return "call"


def _taken(sought: _Sought, targets: _Addresses, told: Entered) -> None:
    """Code that loads the address of a place within a function may jump there by it, or by a table of distances from it."""
    at, of = sought.find(targets)
    inside = targets[at] > sought.entry[of]
    for target, which in zip(targets[at][inside].tolist(), of[inside].tolist(), strict=True):
        told.within.setdefault(sought.of[which].symbol.address, f"code takes the address {target:#x} in it")


def _pointers(sought: _Sought, data: bytes, address: int, size: int, told: Entered) -> None:
    """Addresses as data: jump tables, labels that are taken, relocations (their addends), other symbols. In code, which has them as
    operands, they have `size` 4 and lie anywhere; in data 8, at multiples of 4.
    """
    for shift in range(0, 4 if size == 4 else 8, 1 if size == 4 else 4):
        values = np.ndarray((max(0, len(data) - shift) // size,), f"<u{size}", data, shift if len(data) > shift else 0)
        near = values[(values >= sought.start[0]) & (values <= sought.last.max())].astype(np.int64)
        at, of = sought.find(near)
        kept = (near[at] > sought.entry[of]) & (near[at] <= sought.last[of])
        for target, which in zip(near[at][kept].tolist(), of[kept].tolist(), strict=True):
            told.within.setdefault(sought.of[which].symbol.address, f"a pointer to {target:#x}, in front of it, lies in the file's data")


def _tables(sought: _Sought, data: bytes, address: int, bases: _Addresses, code: range, told: Entered) -> None:
    """Jump tables of position-independent code: distances from the table's own beginning, which some lea loads. A table ends where
    the next thing begins whose address is loaded, or where an entry leads nowhere near code.
    """
    at = base = bases[(bases >= address) & (bases + 4 <= address + len(data))]
    ends = np.append(at[1:], address + len(data))
    distances = np.ndarray((max(0, len(data) - 3),), "<i4", data, strides=(1,))
    entries = 1  # looked at at once, of each: few are tables at all, and few of these are long
    while len(at) and entries <= LONGEST_TABLE:
        places = at[:, None] + 4 * np.arange(entries)
        targets = base[:, None] + distances[np.minimum(places - address, len(distances) - 1)]
        leads = (places + 4 <= ends[:, None]) & (targets >= code.start) & (targets < code.stop)
        of_table = np.logical_and.accumulate(leads, axis=1)
        led = targets[of_table]
        found, of = sought.find(led)
        kept = (led[found] > sought.entry[of]) & (led[found] <= sought.last[of])
        for target, which in zip(led[found][kept].tolist(), of[kept].tolist(), strict=True):
            told.within.setdefault(sought.of[which].symbol.address, f"a jump table has {target:#x}, in front of it")
        on = of_table[:, -1]
        at, base, ends = at[on] + 4 * entries, base[on], ends[on]
        entries *= 4
