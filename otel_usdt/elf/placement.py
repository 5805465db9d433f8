"""Where a probe goes, what a hit there costs, and what must not be probed at all.

The kernel replaces the first byte of an instruction by int3. Instructions that it can emulate cost one trap a hit; all others
are single-stepped out of line, a second trap, up to 35 times as much under a hypervisor, 3 times on bare metal.
Sources: arch/x86/kernel/uprobes.c (branch_setup_xol_ops, push_setup_xol_ops, is_prefix_bad), arch/arm64/kernel/probes/decode-insn.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from otel_usdt.elf.binary import Binary
from otel_usdt.elf.disassembly import decoder
from otel_usdt.elf.notes import UsdtNote
from otel_usdt.elf.symbols import Symbol
from otel_usdt.errors import ProbeNotFound
from otel_usdt.plan import Cost

ENDBR64 = b"\xf3\x0f\x1e\xfa"
NOP5 = b"\x0f\x1f\x44\x00\x00"
LONGEST = 15  # bytes of an x86 instruction

_LEGACY_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_REFUSED_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\xf0")  # is_prefix_bad(): es, cs, ss, ds, lock
_ELSEWHERE = "probe an address next to it (addr:), or another function"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a probe goes. `refused` is empty when it may go there, else why not, and `remedy` what to do instead."""

    address: int
    cost: Cost
    refused: str = ""
    remedy: str = ""


def entry_site(binary: Binary, symbol: Symbol) -> Placement:
    """The place for a function's entry probe: its first instruction, or the one behind endbr64."""
    if symbol.ifunc:
        return Placement(
            symbol.address,
            "single-step",
            f"{symbol.name} is an IFUNC: here is its resolver, which runs once, at start",
            f"probe the implementation that it chose; with debug symbols, list 'func:*{symbol.name}*' shows them",
        )
    address = symbol.address
    if binary.machine == "x86_64" and _code(binary, address)[:4] == ENDBR64:
        address += len(ENDBR64)  # endbr64 is single-stepped, and the arguments are still in their registers behind it
    return _place(binary, address, entry=True)


def usdt_site(binary: Binary, note: UsdtNote) -> Placement:
    """The place for a USDT probe: its own address, where a one-byte nop is what one expects."""
    entry = False
    if _code(binary, note.address)[:5] == NOP5:  # only then is it worth asking whose instruction it is
        function = binary.function_at(note.address)
        entry = function is not None and note.address == entry_site(binary, function).address
    return _place(binary, note.address, entry=entry)


def address_site(binary: Binary, address: int) -> Placement:
    """The place for a probe at an address that the user named; the user answers for its being an instruction's first byte."""
    function = binary.function_at(address)
    entry = function is not None and address in (function.address, function.address + len(ENDBR64))
    return _place(binary, address, entry=entry)


def classify(code: bytes, machine: str, entry: bool) -> tuple[Cost, str, str]:
    """(cost, refused, remedy) of a probe on the instruction that begins `code`. `entry`: it is a function's first."""
    if machine == "aarch64":
        return _classify_arm(code)
    at = 0
    while at < len(code) and code[at] in _LEGACY_PREFIXES:
        at += 1
    prefixes, rest = code[:at], code[at:]
    if not rest:
        return "single-step", "the file ends within the instruction", _ELSEWHERE
    bad = sorted(_REFUSED_PREFIXES.intersection(prefixes))
    if bad:
        nop = " (a multi-byte nop)" if rest[:2] == b"\x0f\x1f" else ""
        return "single-step", f"the kernel probes no instruction with prefix {bad[0]:02x}{nop}", _ELSEWHERE
    if rest[0] == 0xCC:
        return "single-step", "an int3 is there already: a debugger's breakpoint, or padding between functions", _ELSEWHERE
    if code[:5] == NOP5:
        if entry:
            return "nop5", "", ""
        return (
            "nop5",
            "a 5-byte nop that is not its function's first instruction: from Linux 6.18 on a probe there is a call that writes"
            " below the stack pointer, where leaf functions keep their variables",
            "probe the function that holds it (func:), or build the program with sys/sdt.h's one-byte nop",
        )
    return ("emulated" if not prefixes and _emulated(rest) else "single-step"), "", ""


def instruction_text(binary: Binary, address: int) -> str:
    """The instruction at `address`, in Intel's syntax; its bytes in hex when it does not decode. Loads the disassembler."""
    code = _code(binary, address)
    for _, _, mnemonic, operands in decoder(binary.machine).disasm_lite(code, address, count=1):
        return f"{mnemonic} {operands}".rstrip()
    return code[:4].hex(" ")


def _place(binary: Binary, address: int, *, entry: bool) -> Placement:
    if not binary.executable(address):
        where = "is not in the program's code: the kernel never stops there"
        return Placement(address, "single-step", f"address {address:#x} {where}", "check it against otel-usdt list")
    cost, refused, remedy = classify(_code(binary, address), binary.machine, entry)
    return Placement(address, cost, refused, remedy)


def _code(binary: Binary, address: int) -> bytes:
    try:
        return binary.code(address, LONGEST)
    except ProbeNotFound:
        return b""


def _emulated(code: bytes) -> bool:
    first, second = code[0], code[1] if len(code) > 1 else 0
    return (
        0x50 <= first <= 0x57  # push of a register
        or (first == 0x41 and 0x50 <= second <= 0x57)  # push r8..r15
        or first in (0x90, 0xE8, 0xE9, 0xEB)  # nop, call, jmp
        or 0x70 <= first <= 0x7F  # jcc
        or (first == 0x0F and 0x80 <= second <= 0x8F)
    )


def _classify_arm(code: bytes) -> tuple[Cost, str, str]:
    if len(code) < 4:
        return "single-step", "the file ends within the instruction", _ELSEWHERE
    word = int.from_bytes(code[:4], "little")
    if word & 0xFF000000 == 0xD4000000:
        return "single-step", "an instruction that raises an exception (brk, svc, hlt): the kernel probes none", _ELSEWHERE
    if word & 0x3F800000 == 0x08000000:
        return "single-step", "an exclusive load or store: a trap inside the sequence makes it fail for ever", _ELSEWHERE
    simulated = (
        word & 0x7C000000 == 0x14000000  # b, bl
        or word & 0xFF000010 == 0x54000000  # b.cond
        or word & 0x7E000000 == 0x34000000  # cbz, cbnz
        or word & 0x7E000000 == 0x36000000  # tbz, tbnz
        or word & 0xFF9FFC1F == 0xD61F0000  # br, blr, ret
        or word & 0x1F000000 == 0x10000000  # adr, adrp
        or word & 0xBF000000 == 0x18000000  # ldr of a literal
    )
    return ("emulated" if simulated else "single-step"), "", ""
