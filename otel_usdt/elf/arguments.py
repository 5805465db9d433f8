"""The argument strings of USDT notes -> Location.

The compiler prints the operands of an asm statement, so the format is the assembler's: AT&T on x86_64, GNU on aarch64, each
behind `SIZE@` (negative: signed; `f`: floating point). Source: systemtap's sys/sdt.h and its wiki page UserSpaceProbeImplementation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from otel_usdt.elf.locations import Location


class Unreadable(Exception):
    """An argument that a probe cannot read; the message says why."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where the arguments are looked at. `address_of` gives a symbol's address or None; `fixed` is true of a non-PIE program."""

    machine: str
    address: int
    address_of: Callable[[str], int | None]
    fixed: bool = False


_ARGUMENT = re.compile(r"(?:\[[^\]]*\]|\([^)]*\)|\S)+")  # spaces separate arguments, except inside brackets
_SIZED = re.compile(r"(-?)(\d{1,3})(f?)@(.*)")
_X86_MEMORY = re.compile(r"([^()]*)\(([^(),]*)(?:,([^(),]*)(?:,(\d+))?)?\)")
_TERM = re.compile(r"([+-]?)(0[xX][0-9a-fA-F]{1,16}|[1-9]\d{0,19}|0|[A-Za-z_.][\w.$]*)(?=[+-]|\Z)")
_ARM_MEMORY = re.compile(r"\[\s*(\w+)\s*(?:,\s*#?([^\],]+?)\s*)?(?:,\s*(\w+)\s*#?(\d)\s*)?\]")


def _x86_registers() -> dict[str, tuple[str, int, int]]:
    table = {"rip": ("ip", 8, 0)}
    for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp"):
        low = name[0] + "l" if name[1] == "x" else name + "l"
        table |= {"r" + name: (name, 8, 0), "e" + name: (name, 4, 0), name: (name, 2, 0), low: (name, 1, 0)}
        if name[1] == "x":
            table[name[0] + "h"] = (name, 1, 1)
    for name in (f"r{i}" for i in range(8, 16)):
        table |= {name: (name, 8, 0), name + "d": (name, 4, 0), name + "w": (name, 2, 0), name + "b": (name, 1, 0)}
    return table


def _arm_registers() -> dict[str, tuple[str, int]]:
    table = {"sp": ("sp", 8), "wsp": ("sp", 4), "fp": ("x29", 8), "lr": ("x30", 8)}
    for i in range(31):
        table |= {f"x{i}": (f"x{i}", 8), f"w{i}": (f"x{i}", 4)}
    return table


_X86 = _x86_registers()
_ARM = _arm_registers()


def whole_register(name: str) -> str:
    """The machine register that x86_64's `name` is a part of: "di" of "edi"; "" when it is no general register."""
    return _X86[name][0] if name in _X86 else ""


def parse_arguments(text: str, site: Site) -> tuple[Location | str, ...]:
    """Each argument of a note's argument string: its location, or the reason why a probe cannot read it."""
    found: list[Location | str] = []
    for one in _ARGUMENT.findall(text):
        try:
            found.append(parse_argument(one, site))
        except Unreadable as error:
            found.append(str(error))
    return tuple(found)


def parse_argument(text: str, site: Site) -> Location:
    """One argument; Unreadable when a probe cannot read it. A missing size is the register's, else 8 bytes, unsigned."""
    sized = _SIZED.fullmatch(text)
    size, signed, operand = 0, False, text
    if sized:
        sign, digits, floating, operand = sized.groups()
        size, signed = int(digits), bool(sign)
        if floating:
            raise Unreadable(f"a floating-point value ({text})")
        if size not in (1, 2, 4, 8):
            raise Unreadable(f"{size} bytes; a probe reads 1, 2, 4 or 8 ({text})")
    location = (_arm if site.machine == "aarch64" else _x86)(operand, size, signed, site)
    if not -(1 << 63) <= location.offset < 1 << 63:
        raise Unreadable(f"an offset beyond 64 bits ({text})")
    return location


def describe(location: Location | str) -> str:
    """For people and for JSON: "register di", "memory bp-136", "memory di+cx*4", "constant 1", "unreadable: why"."""
    if isinstance(location, str):
        return f"unreadable: {location}"
    if location.how == "constant":
        return f"constant {location.offset}"
    if location.how == "register":
        return f"register {location.register}" + (" byte 1" if location.byte else "")
    index = f"+{location.index}*{location.scale}" if location.index else ""
    return f"memory {location.register}{index}" + (f"{location.offset:+d}" if location.offset else "")


def _x86(operand: str, size: int, signed: bool, site: Site) -> Location:
    if operand.startswith("%"):
        if operand[1:] not in _X86 or operand == "%rip":
            raise Unreadable(f"register {operand} is none that a probe can read")
        register, width, byte = _X86[operand[1:]]
        if size > width:
            raise Unreadable(f"{size} bytes in the {width}-byte register {operand}")
        return Location("register", size or width, signed, register, byte=byte)
    if operand.startswith("$"):
        symbol, number = _expression(operand[1:])
        if symbol:
            number += _fixed_address(symbol, site)
        return _constant(number, size or 8, signed)
    memory = _X86_MEMORY.fullmatch(operand)
    displacement, base, index, scale = memory.groups() if memory else (operand, "", None, None)
    symbol, number = _expression(displacement) if displacement else ("", 0)
    index_register = _x86_address(index, operand) if index else ""
    factor = int(scale) if scale else 1
    if factor not in (1, 2, 4, 8) or index_register in ("ip", "sp"):
        raise Unreadable(f"no address that this machine has: {operand}")
    register = _x86_address(base, operand) if base else "ip"
    if register != "ip":
        number += _fixed_address(symbol, site) if symbol else 0
    elif symbol:
        # Both rip-relative and absolute: what matters is how far the symbol lies from the probe.
        if index_register and not base and not site.fixed:
            raise Unreadable(f"an absolute address in a program that may be loaded anywhere: {operand}")
        number += _address(symbol, site) - site.address
    elif base or not site.fixed or not displacement:
        raise Unreadable(f"an address without a symbol: {operand}")
    else:
        number -= site.address
    return Location("memory", size or 8, signed, register, index_register, factor, number)


def _x86_address(name: str, operand: str) -> str:
    register, width, _ = _X86.get(name.strip().removeprefix("%"), ("", 0, 0))
    if width != 8 or not name.strip().startswith("%"):
        raise Unreadable(f"no 64-bit address: {operand}")
    return register


def _arm(operand: str, size: int, signed: bool, site: Site) -> Location:
    if operand in _ARM:
        register, width = _ARM[operand]
        if size > width:
            raise Unreadable(f"{size} bytes in the {width}-byte register {operand}")
        return Location("register", size or width, signed, register)
    if operand in ("xzr", "wzr"):
        return _constant(0, size or (8 if operand == "xzr" else 4), signed)
    if re.fullmatch(r"[bhsdqv]\d{1,2}", operand):
        raise Unreadable(f"register {operand} is none that a probe can read")
    memory = _ARM_MEMORY.fullmatch(operand)
    if not memory:
        symbol, number = _expression(operand.removeprefix("#"))
        if not symbol:
            return _constant(number, size or 8, signed)
        return Location("memory", size or 8, signed, "ip", offset=number + _address(symbol, site) - site.address)
    base, second, extend, shift = memory.groups()
    if _ARM.get(base, ("", 0))[1] != 8:
        raise Unreadable(f"no 64-bit address: {operand}")
    register = _ARM[base][0]
    if second is None or second not in _ARM:
        symbol, number = _expression(second) if second else ("", 0)
        if symbol or extend:
            raise Unreadable(f"an address known only to the linker: {operand}")
        return Location("memory", size or 8, signed, register, offset=number)
    if _ARM[second][1] != 8 or extend not in (None, "lsl") or int(shift or 0) > 3:
        raise Unreadable(f"an index that must be extended first: {operand}")
    return Location("memory", size or 8, signed, register, _ARM[second][0], 1 << int(shift or 0))


def _constant(number: int, size: int, signed: bool) -> Location:
    """The value as its type has it: 4@$-1 is 4294967295. An unsigned 8-byte one keeps its bits, in two's complement."""
    number &= (1 << 8 * size) - 1
    if (signed or size == 8) and number >> (8 * size - 1):
        number -= 1 << 8 * size
    return Location("constant", size, signed, offset=number)


def _expression(text: str) -> tuple[str, int]:
    """A sum of numbers and at most one symbol, as compilers print it: "-136", "Sym", "40+Sym", "Sym-8"."""
    symbol, number, at = "", 0, 0
    while at < len(text) or not text:
        term = _TERM.match(text, at)
        if not term or (at and not term[1]):
            raise Unreadable(f"not understood: {text!r}")
        value = term[2]
        if value[0].isdigit():
            number += int(value, 0) * (-1 if term[1] == "-" else 1)
        elif symbol or term[1] == "-":
            raise Unreadable(f"not understood: {text!r}")
        else:
            symbol = value
        at = term.end()
    return symbol, number


def _address(symbol: str, site: Site) -> int:
    address = site.address_of(symbol)
    if address is None:
        raise Unreadable(f"symbol {symbol} is not in the symbol table (stripped?)")
    return address


def _fixed_address(symbol: str, site: Site) -> int:
    if not site.fixed:
        raise Unreadable(f"the address of {symbol} is known only once the program is loaded")
    return _address(symbol, site)
