"""Where a function returns, for probes on the return instructions.

The kernel's return probe rewrites the return address on the stack. Code that reads it back breaks: a C++ exception aborts the
target, Go crashes when it moves the stack. There each `ret` gets a probe of its own, and each jump out of the function (a tail
call: the callee returns in its stead). All of them must be found, else calls are left open; so in doubt this refuses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from otel_usdt.elf.binary import Binary
from otel_usdt.elf.disassembly import decoder
from otel_usdt.elf.placement import classify, entry_site
from otel_usdt.elf.symbols import Symbol
from otel_usdt.errors import ProbeNotFound

MOST_BYTES = 1 << 20  # of one function; the largest known (generated parsers, interpreters) have 200 kB

_TWICE = frozenset({"setjmp", "sigsetjmp", "getcontext", "swapcontext", "vfork"})  # setjmp tried on 6.18: SIGILL at the longjmp
_NOT_CALLED = frozenset({"_start", "_dl_start_user", "__restore_rt", "__restore"})  # at their entry the stack holds argc, or a signal frame
_RESOLVERS = ("_dl_runtime_resolve", "_dl_runtime_profile")  # lazy binding: the link map lies on top of the stack
_Instruction = tuple[int, int, str, str]  # address, size, mnemonic, operands: as capstone's disasm_lite gives them
_COUNTED = frozenset({"loop", "loope", "loopne", "jrcxz", "jecxz", "jcxz"})
_SWITCH_WINDOW = 4  # compilers compute a switch's target in the last instructions before its jump


@dataclass(frozen=True, slots=True)
class ReturnSites:
    """Addresses of the instructions by which a function returns; `refused` says why they cannot all be told, else it is empty."""

    addresses: tuple[int, ...]
    refused: str = ""


class _Undecided(Exception):
    """Not all returns can be told."""


def return_refused(symbol: Symbol) -> str:
    """Why this function's return must not be probed in any program; "" when it may be."""
    if symbol.name.lstrip("_") in _TWICE:
        return f"{symbol.name} returns twice, by a return address that it saves: the second time the kernel's return probe ends the process"
    if symbol.name in _NOT_CALLED or symbol.name.startswith(_RESOLVERS):
        return f"{symbol.name} is jumped to, not called: a return probe would overwrite what lies in the return address's place"
    return ""


def switches_stacks(program: Binary) -> str:
    """Why the kernel's return probes are not safe in any code that this program runs; "" when they are."""
    if program.imports("swapcontext", "makecontext"):
        return f"{program.name} switches stacks (swapcontext), but the kernel's return probes follow one stack a thread: it would be killed"
    return ""


def uretprobe_refused(binary: Binary) -> str:
    """Why the kernel's return probe is not safe in this binary; "" when it is."""
    if binary.is_go:
        return "Go moves its stacks and would find the kernel's return address in them: the target would crash"
    if binary.unwinds_cxx:
        return "a C++ exception that passes through a function with the kernel's return probe aborts the target"
    return ""


def return_sites(binary: Binary, symbol: Symbol) -> ReturnSites:
    """Every `ret` of the function and of its .cold part, and every jump by which it leaves for another function. x86_64 only."""
    if binary.machine != "x86_64":
        return ReturnSites((), f"return instructions are looked for on x86_64 only, not on {binary.machine}")
    try:
        return ReturnSites(tuple(sorted(_find(binary, symbol))))
    except _Undecided as error:
        return ReturnSites((), str(error))


def _back_to_entry(binary: Binary, symbol: Symbol, parts: list[list[_Instruction]]) -> str:
    entry = entry_site(binary, symbol).address
    for part in parts:
        for at, target in _direct_jumps(part):
            if symbol.address <= target <= entry:
                return f"the jump at {at:#x} goes back to the entry of {symbol.name}, so that one call enters more than once"
    return ""


def _find(binary: Binary, symbol: Symbol) -> set[int]:
    if symbol.ifunc:
        raise _Undecided(f"{symbol.name} is an IFUNC: its address is the resolver's")
    parts = [_sweep(binary, symbol)]
    ranges = [range(symbol.address, symbol.address + symbol.size)]
    # gcc and clang move unlikely code to NAME.cold, elsewhere; jumps there and back stay within the function.
    for target in sorted({target for part in parts for _, target in _direct_jumps(part)}):
        cold = None if any(target in one for one in ranges) else binary.function_at(target)
        if cold and re.fullmatch(re.escape(symbol.name) + r"\.cold(\.\d+)?", cold.name):
            parts.append(_sweep(binary, cold))
            ranges.append(range(cold.address, cold.address + cold.size))
    sites = {site for part in parts for site in _returns(part, ranges, binary.ibt)}
    # Go's functions all jump back, once their stack has grown; that is rare, and no other address would be better.
    again = "" if binary.is_go else _back_to_entry(binary, symbol, parts)
    if again:
        raise _Undecided(again)
    for site in sites:
        _, refused, _ = classify(binary.code(site, 15), binary.machine, entry=False)
        if refused:
            raise _Undecided(f"the return at {site:#x}: {refused}")
    if not sites:
        raise _Undecided(f"{symbol.name} has no instruction by which it returns")
    return sites


def _sweep(binary: Binary, symbol: Symbol) -> list[_Instruction]:
    if not symbol.size:
        raise _Undecided(f"the size of {symbol.name} is not in the symbol table, so its end is unknown")
    if symbol.size > MOST_BYTES:
        raise _Undecided(f"{symbol.name} is said to have {symbol.size} bytes; more than {MOST_BYTES} is not believed")
    try:
        code = binary.code(symbol.address, symbol.size)
    except ProbeNotFound as error:
        raise _Undecided(str(error)) from error
    swept: list[_Instruction] = list(decoder(binary.machine).disasm_lite(code, symbol.address))
    reached = swept[-1][0] + swept[-1][1] if swept else symbol.address
    if reached != symbol.address + symbol.size:
        raise _Undecided(f"{symbol.name} does not decode at {reached:#x}: data among its code, or not an x86_64 function")
    return swept


def _direct_jumps(part: list[_Instruction]) -> list[tuple[int, int]]:
    """(address, target) of the conditional and unconditional jumps to a fixed address."""
    return [(at, int(operands, 16)) for at, _, mnemonic, operands in part if _jumps(mnemonic) and operands.startswith("0x")]


def _jumps(mnemonic: str) -> bool:
    last = mnemonic.rpartition(" ")[2]  # "bnd jmp", "notrack jmp"
    return last.startswith("j") or last in _COUNTED


def _returns(part: list[_Instruction], ranges: list[range], ibt: bool) -> set[int]:
    sites: set[int] = set()
    for i, (at, _, mnemonic, operands) in enumerate(part):
        last = mnemonic.rpartition(" ")[2]
        if last.startswith("ret"):
            sites.add(at)
        elif _jumps(mnemonic) and operands.startswith("0x"):
            if not any(int(operands, 16) in one for one in ranges):
                if last != "jmp":
                    raise _Undecided(f"the conditional jump at {at:#x} leaves the function; a probe there fires when it is not taken, too")
                sites.add(at)
        elif last == "jmp" and _tail_call(at, mnemonic, operands, part[max(0, i - _SWITCH_WINDOW) : i], ibt):
            sites.add(at)
    return sites


def _tail_call(at: int, mnemonic: str, operands: str, before: list[_Instruction], ibt: bool) -> bool:
    """Does this indirect jump leave the function? _Undecided when it cannot be told from a switch's jump table."""
    if mnemonic.startswith("notrack"):
        return False  # compilers write notrack for jump tables alone, whose targets have no endbr64
    if "[rip" in operands:
        return True  # through one fixed pointer: what a call through the GOT becomes
    if ibt:
        return True
    words = [(name, text) for _, _, name, text in before]
    scaled = any(name == "movsxd" and "*4" in text for name, text in words)
    if scaled and any(name == "add" and text.startswith(f"{operands}, ") for name, text in words):
        return False  # movsxd off, [table + i*4]; add off, table; jmp off: a position-independent switch
    raise _Undecided(f"the indirect jump at {at:#x} ({mnemonic} {operands}) may be a tail call or a jump table")
