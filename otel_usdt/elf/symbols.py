"""Symbol tables as numpy columns: no Python object exists for a symbol until it is asked for.

A binary has 10^5 symbols and a plan wants ten of them. All questions are answered on whole columns: names are compared by a
64-bit fingerprint, globs by where their longest literal part occurs in the string table, likeness by shared letter pairs.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_usdt.elf.headers import text
from otel_usdt.near import nearest

STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_COMMON, STT_GNU_IFUNC = 0, 1, 2, 5, 10
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00

ENTRY = np.dtype([("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("address", "<u8"), ("size", "<u8")])

_PAD = bytes(8)  # so that eight bytes can be read at any name
_WILD = re.compile(r"\[!?\]?[^\]]*\]|[*?\[]")  # what in a shell pattern is not literal
_LIKELY = 200  # names that nearest() then ranks: a few milliseconds
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)  # odd, else arbitrary


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function or variable. `size` 0 is unknown. `ifunc`: the address is the resolver's, not the function's."""

    name: str
    address: int
    size: int
    ifunc: bool = False


class Symbols:
    """The defined symbols of some types out of one or more tables, versions stripped from their names.

    `tables` are pairs of a symbol table's entries and its strings; the caller has checked that each name lies inside them.
    """

    def __init__(self, tables: list[tuple[NDArray[Any], bytes]], types: tuple[int, ...], versioned: bool) -> None:
        self._strings = b"".join(strings for _, strings in tables) + _PAD
        bases = np.cumsum([0, *(len(strings) for _, strings in tables)])
        kept = [(entries[_wanted(entries, types)], int(base)) for (entries, _), base in zip(tables, bases, strict=False)]
        self._start = _joined([entries["name"].astype(np.int64) + base for entries, base in kept], np.int64)
        self._address = _joined([entries["address"] for entries, _ in kept], np.uint64)
        self._size = _joined([entries["size"] for entries, _ in kept], np.uint64)
        self._ifunc = _joined([(entries["info"] & 15) == STT_GNU_IFUNC for entries, _ in kept], np.bool_)
        self._bytes = np.frombuffer(self._strings, dtype=np.uint8)
        self._end = _name_ends(self._bytes, self._start, versioned)
        self._fingerprints: tuple[NDArray[np.uint64], NDArray[np.intp]] | None = None

    def __len__(self) -> int:
        return len(self._start)

    def find(self, name: str) -> list[Symbol]:
        """All symbols of exactly this name, by address; static functions may share one."""
        if self._fingerprints is None:
            prints = _fingerprints(self._bytes, self._start, self._end)
            order = np.argsort(prints, kind="stable")
            self._fingerprints = prints[order], order
        prints, order = self._fingerprints
        raw = name.encode(errors="surrogateescape")
        padded = np.frombuffer(raw + _PAD, dtype=np.uint8)
        wanted = _fingerprints(padded, np.array([0]), np.array([len(raw)]))[0]
        first, last = np.searchsorted(prints, wanted, "left"), np.searchsorted(prints, wanted, "right")
        return self._symbols([i for i in order[first:last].tolist() if self._raw(i) == raw])

    def glob(self, pattern: str) -> list[Symbol]:
        """All symbols whose names match the shell pattern (*, ?, [...]), letter case kept, by address."""
        matches = re.compile(fnmatch.translate(pattern).encode(errors="surrogateescape")).match
        literals = [part.encode(errors="surrogateescape") for part in _WILD.split(pattern)]
        candidates = self._containing(max(literals, key=len, default=b""))
        return self._symbols([i for i in candidates.tolist() if matches(self._raw(i))])

    def near(self, name: str, n: int = 3) -> list[str]:
        """The `n` names most like `name`, best first, for error messages; [] when nothing is like it."""
        wanted = name.lower()
        raw = np.frombuffer(wanted.encode(errors="surrogateescape"), dtype=np.uint8).astype(np.uint16)
        if not len(self) or len(raw) < 2:
            return []
        pairs = np.zeros(1 << 16, dtype=np.bool_)
        pairs[raw[:-1] << 8 | raw[1:]] = True
        lower = np.arange(256, dtype=np.uint16)
        lower[65:91] += 32
        letters = lower[self._bytes]
        shared = np.zeros(len(letters), dtype=np.int32)
        np.cumsum(pairs[letters[:-1] << 8 | letters[1:]], out=shared[1:])
        lengths = self._end - self._start
        # Dice's coefficient over letter pairs; shared[e] - shared[s] counts the pairs that lie inside the name.
        likeness = 2 * (shared[np.maximum(self._end - 1, self._start)] - shared[self._start]) / (lengths + len(raw))
        likely = np.argsort(likeness, kind="stable")[-_LIKELY:][::-1]
        names = {text(self._raw(i)): None for i in likely.tolist() if likeness[i] > 0}
        by_lower = {one.lower(): one for one in reversed(names)}
        return [by_lower[one] for one in nearest(wanted, by_lower, n)]

    def at(self, address: int) -> Symbol | None:
        """The symbol whose range covers `address`; the innermost when they nest; None when none does."""
        if not 0 <= address < 1 << 64:
            return None
        # Unsigned subtraction wraps for symbols that begin above the address, and is then larger than any size.
        covering = np.flatnonzero(np.uint64(address) - self._address < self._size)
        if not len(covering):
            return None
        return self._symbol(int(covering[np.argmin(self._size[covering])]))

    def _containing(self, literal: bytes) -> NDArray[np.intp]:
        """Indices of the symbols with `literal` somewhere in their names."""
        if not literal:
            return np.arange(len(self))
        found = np.array([match.start() for match in re.finditer(b"(?=%s)" % re.escape(literal), self._strings)], dtype=np.int64)
        if not len(found):
            return np.arange(0)
        following = np.searchsorted(found, self._start)
        inside = following < len(found)
        inside[inside] = found[following[inside]] + len(literal) <= self._end[inside]
        return np.flatnonzero(inside)

    def _raw(self, index: int) -> bytes:
        return self._strings[self._start[index] : self._end[index]]

    def _symbol(self, index: int) -> Symbol:
        return Symbol(text(self._raw(index)), int(self._address[index]), int(self._size[index]), bool(self._ifunc[index]))

    def _symbols(self, indices: list[int]) -> list[Symbol]:
        """Without repetitions: .dynsym repeats what .symtab has."""
        return sorted({self._symbol(i): None for i in indices}, key=lambda symbol: (symbol.address, symbol.name))


def _wanted(entries: NDArray[Any], types: tuple[int, ...]) -> NDArray[np.bool_]:
    defined = (entries["section"] != SHN_UNDEF) & ((entries["section"] < SHN_LORESERVE) | (entries["section"] == 0xFFFF))
    wanted: NDArray[np.bool_] = defined & np.isin(entries["info"] & 15, types) & (entries["name"] != 0)
    return wanted


def _joined(parts: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype=kind), *parts]).astype(kind, copy=False)


def _name_ends(strings: NDArray[np.uint8], start: NDArray[np.int64], versioned: bool) -> NDArray[np.int64]:
    """Where each name ends: at its NUL, or at the "@VERSION" that linkers write behind versioned names in .symtab."""
    stops = np.flatnonzero(strings == 0)
    end: NDArray[np.int64] = stops[np.searchsorted(stops, start)]
    if versioned:
        marks = np.append(np.flatnonzero(strings == ord("@")), len(strings))
        end = np.minimum(end, marks[np.searchsorted(marks, start, "right")])
    return end


def _fingerprints(strings: NDArray[np.uint8], start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number a name, out of its length and its first, middle and last eight bytes; equal numbers are compared by their bytes."""
    length = end - start
    words = np.lib.stride_tricks.sliding_window_view(strings, 8)
    kept = np.uint64(0xFFFFFFFFFFFFFFFF) >> (8 * (8 - np.clip(length, 0, 8))).clip(0, 63).astype(np.uint64)
    result = length.astype(np.uint64)
    for factor, at in zip(_FACTORS, (start, start + np.maximum(length - 8, 0) // 2, np.maximum(end - 8, start)), strict=True):
        word = np.ascontiguousarray(words[at]).view(np.uint64).reshape(-1) & kept
        result = (result ^ (word ^ word >> np.uint64(29))) * factor
    return result
