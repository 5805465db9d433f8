"""The probes on functions' entries, all of a plan at once, to where they are cheap: one pass over each binary answers for all.

All probes of one function go to one place: a frame whose probe lies elsewhere in the same function would look like another function's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from otel_usdt.elf.binary import FARTHEST_ADDRESS, Binary
from otel_usdt.elf.branches import Entered, Stretch, entered
from otel_usdt.elf.disassembly import instructions
from otel_usdt.elf.entry_block import FARTHEST, Found, Wants, emulated_later, fingerprint
from otel_usdt.elf.placement import LONGEST, classify
from otel_usdt.elf.symbols import Symbol
from otel_usdt.errors import BadBinary
from otel_usdt.plan import Site

Functions = Mapping[tuple[int, int], tuple[Binary, Symbol]]  # by the plan's number of the binary, and the function's address


@dataclass(frozen=True, slots=True)
class Placed:
    """The sites in their order, and what the plan should say of them."""

    sites: list[Site]
    notes: list[str]


@dataclass(slots=True)
class _Function:
    binary: Binary
    symbol: Symbol
    sites: list[Site]
    found: Found

    @property
    def stretch(self) -> Stretch:
        entry = self.sites[0].address
        return Stretch(self.symbol, entry, self.found.address or entry)


def place(sites: Sequence[Site], functions: Functions) -> Placed:
    """Each site that is a function's entry (`Site.entry`) on the first instruction where it is cheap and exact, else where it was."""
    grouped: dict[tuple[int, int], list[Site]] = defaultdict(list)
    for site in sites:
        if site.entry:
            grouped[site.binary, site.entry].append(site)
    by_binary: dict[int, dict[int, _Function]] = defaultdict(dict)
    for (number, address), mine in grouped.items():
        binary, symbol = functions[number, address]
        by_binary[number][address] = _Function(binary, symbol, mine, _look(binary, symbol, mine))
    told = {number: _entered(list(of.values())) for number, of in by_binary.items()}
    taken = {(site.binary, site.address) for site in sites if not site.entry}
    placed, notes = [], []
    for site in sites:
        if not site.entry:
            placed.append(site)
            continue
        function, where = by_binary[site.binary][site.entry], told[site.binary]
        if site.entry in where.again and not site.uretprobe:
            notes.append(f"{site.probe}: {where.again[site.entry]}")
        placed.append(_placed(site, function, where, taken))
    return Placed(placed, notes)


def _look(binary: Binary, symbol: Symbol, sites: list[Site]) -> Found:
    """Where the function's first instructions would have the probes; no place and no reason where nothing is to be gained."""
    entry = sites[0].address
    if binary.machine != "x86_64" or sites[0].cost != "single-step":
        return Found()
    if binary.is_go:
        return Found(why="Go may enter a function twice, when its stack grows")
    if not 0 < symbol.size < FARTHEST_ADDRESS or symbol.address >= FARTHEST_ADDRESS:
        return Found(why="where the function ends is not in the symbol table")
    code = binary.code(entry, min(symbol.address + symbol.size - entry, FARTHEST + LONGEST))
    near = [one for one in instructions(binary.machine, code, entry) if one.address - symbol.address <= FARTHEST]
    return emulated_later(near, _wants(sites))


def _wants(sites: list[Site]) -> Wants:
    registers: set[str] = set()
    memory, stack = False, False
    for site in sites:
        stack |= site.role != "point"
        if site.uretprobe:
            continue
        outside = [(site.traceparent.location, True)] if site.traceparent else []
        key = [(site.key, True)] if site.key else []
        for location, text in [*((one.location, one.string or one.word) for one in site.arguments), *outside, *key]:
            registers |= {location.register, location.index}
            stack |= location.register == "sp"
            memory |= text or (location.how == "memory" and location.register != "sp")
    return Wants(frozenset(registers - {"", "sp"}), memory, stack)


def _entered(functions: list[_Function]) -> Entered:
    binary = functions[0].binary
    if binary.machine != "x86_64" or binary.is_go:  # Go's functions all jump back, once their stack has grown; that is rare
        return Entered()
    try:
        return entered(binary, [one.stretch for one in functions])
    except BadBinary as error:
        return Entered(within={one.symbol.address: f"not all of the file could be looked through ({error})" for one in functions})


def _placed(site: Site, function: _Function, told: Entered, taken: set[tuple[int, int]]) -> Site:
    binary, address, why = function.binary, function.found.address, function.found.why
    if address and (site.binary, address) in taken:
        why = "another probe of this plan is on the cheaper one"
    elif address:
        why = told.within.get(site.entry, "")
    if address and not why:
        cost, _, _ = classify(binary.code(address, LONGEST), binary.machine, entry=False)
        offset = binary.file_offset(address)
        site = replace(site, address=address, file_offset=offset, cost=cost)
    before = binary.code(site.entry, site.address - site.entry) if site.address > site.entry else b""
    return replace(site, stays=why, before=fingerprint(before))
