"""The first instructions of a function, up to one that the kernel emulates: may its probes go there? x86_64 only.

A probe costs what the instruction under it costs, so entry and return probe are better off on the function's first `push` or jump than on
the `sub` or `mov` in front of it. That is exact as long as nothing happens in between that they would notice: the stack pointer has not
moved (the kernel's return probe takes the return address from where it points, and spoils what else lies there), what the probe reads
is as the caller left it, and control comes from the entry alone (elf/branches.py).

Only instructions of which it is known what they write are passed; any other ends the search.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from otel_usdt.elf.arguments import whole_register
from otel_usdt.elf.disassembly import Instruction

_NAMES = """
    mov movabs movzx movsx movsxd lea xor and or add sub sbb adc neg not inc dec shl shr sar sal rol ror shld shrd bswap imul
    bsf bsr tzcnt lzcnt popcnt andn blsr blsi blsmsk bextr bzhi rorx sarx shlx shrx bts btr btc
    movd movq movss movsd movaps movups movapd movupd movdqa movdqu movhps movlps movhpd movlpd movhlps movlhps movmskps movmskpd
    pxor por pand pandn xorps xorpd andps andpd orps orpd andnps andnpd punpcklqdq punpckhqdq punpckldq punpcklwd punpcklbw
    unpcklps unpcklpd unpckhpd pshufd pshuflw shufps shufpd pinsrq pinsrd pinsrw pcmpeqd pcmpeqb pcmpeqw paddd paddq psubd psubq
    psrldq pslldq cvtsi2sd cvtsi2ss cvttsd2si cvttss2si cvtsd2si cvtss2sd cvtsd2ss cvtdq2pd cvtdq2ps
    addsd addss subsd subss mulsd mulss divsd divss sqrtsd sqrtss minsd maxsd addpd mulpd subpd
"""
_CONDITIONS = "o no b ae e ne be a s ns p np l ge le g"
_COMPARISONS = "test cmp bt nop endbr64 ucomisd ucomiss comisd comiss ptest prefetcht0 prefetcht1 prefetchnta prefetchw"

# Write their first operand and no other register; nothing; one register, without saying so.
_WRITE_FIRST = frozenset(_NAMES.split()) | {f"{what}{condition}" for what in ("cmov", "set") for condition in _CONDITIONS.split()}
_WRITE_NOTHING = frozenset(_COMPARISONS.split())
_WRITE_ONE = {"cdqe": "ax", "cwde": "ax", "cbw": "ax", "cdq": "dx", "cqo": "dx", "cwd": "dx"}

_BELOW = re.compile(r"(\w+) ptr \[rsp - (?:0x)?([0-9a-f]+)\]")
_WIDTHS = {"xmmword": 16, "ymmword": 32, "zmmword": 64}  # bytes; general registers have at most 8


FARTHEST = 31  # bytes from a function's first; bpf/pairing.bpf.h reads so many


@dataclass(frozen=True, slots=True)
class Wants:
    """What a function's probes need as it was at the entry. `registers` by their ptrace names ("di")."""

    registers: frozenset[str] = frozenset()
    memory: bool = False  # what a pointer points to: a text
    stack: bool = True  # the stack pointer: calls are paired by it, return probes and arguments are found by it


@dataclass(frozen=True, slots=True)
class Found:
    """The instruction to probe, or what ends the search for one."""

    address: int = 0
    why: str = ""


def emulated_later(block: list[Instruction], wants: Wants) -> Found:
    """The first instruction of `block`, a function's first ones in order, on which a probe is cheap and sees what it wants to see."""
    for one in block:
        if _cheap(one.code):
            return Found(one.address)
        if why := _spoils(one, wants):
            return Found(why=f"{one} {why}")
    return Found(why="nothing that the kernel emulates is near")


def fingerprint(code: bytes) -> int:
    """A number of 32 bits by which the kernel side sees another tracer's breakpoint in `code`, at most FARTHEST bytes; 0 when empty.

    bpf/pairing.bpf.h, probed_in_front(), makes the same.
    """
    value = 0
    for at in range(0, 32, 8):
        value = (3 * value + int.from_bytes(code[at : at + 8], "little")) & 0xFFFFFFFFFFFFFFFF
    return value >> 32 ^ value & 0xFFFFFFFF


def _cheap(code: bytes) -> bool:
    """Emulated on every kernel. A call is not where the thread has a shadow stack, and few functions call without room of their own."""
    first, second = code[0], code[1] if len(code) > 1 else 0
    return (
        0x50 <= first <= 0x57  # push of a register
        or (first == 0x41 and 0x50 <= second <= 0x57)
        or code == b"\x90"
        or first in (0xE9, 0xEB)  # jmp
        or 0x70 <= first <= 0x7F  # jcc
        or (first == 0x0F and 0x80 <= second <= 0x8F)
    )


def _spoils(one: Instruction, wants: Wants) -> str:
    """Why no later instruction will do after this one; "" when the probes would not notice it."""
    name = one.mnemonic.removeprefix("v") if "mm" in one.operands else one.mnemonic
    first, _, others = one.operands.partition(", ")
    if name in _WRITE_NOTHING:
        return ""
    if name in _WRITE_ONE:
        return _written(_WRITE_ONE[name], wants)
    # A string instruction is called movsd, too; and with one operand imul writes ax and dx.
    if name not in _WRITE_FIRST or (name == "movsd" and "xmm" not in one.operands) or (name == "imul" and not others):
        return "ends the search"
    if wants.stack and ("rsp" in others.replace("[rsp", "") or (name == "lea" and "rsp" in others)):
        return "lets the stack be written by another name"
    if "[" in first:
        return _stored(first, wants)
    if re.fullmatch(r"[xyz]mm\d+", first):
        return ""
    register = whole_register(first)
    return _written(register, wants) if register else "ends the search"


def _written(register: str, wants: Wants) -> str:
    if register == "sp":
        return "moves the stack pointer" if wants.stack else ""
    return f"overwrites an argument that is read ({register})" if register in wants.registers else ""


def _stored(where: str, wants: Wants) -> str:
    if "rsp" in where:
        place = _BELOW.fullmatch(where)
        below = place is not None and int(place[2], 16) >= _WIDTHS.get(place[1], 8)
        return "" if below or not wants.stack else "writes to what the caller left on the stack"
    return "may overwrite a text that is read" if wants.memory else ""
