"""Plan -> rows of the kernel's `sites`. Pure; mirrors bpf/record.h, and a test compiles that file to compare."""

from __future__ import annotations

import struct
from typing import Literal

from otel_usdt.elf.locations import Location
from otel_usdt.ladder import STEPS, steps, uppers
from otel_usdt.layout import Bounds, Layout, is_apart
from otel_usdt.plan import ARGUMENT_SLOTS, TEXT_SLOTS, Argument, Plan, Site, Span

ARGUMENT = struct.Struct("<BBBBBBHHHIq")
SITE = struct.Struct("<IBBBBIIQQIIIBBBBIHHBBHI")
DIMENSIONS = struct.Struct("<IIIBBBBIIq")
STEP = struct.Struct("<QQ")
LADDER_BYTES = STEPS * STEP.size
SETTINGS = struct.Struct("<IIII")
KernelRole = Literal["off", "enter", "return", "point", "last"]
READS = ARGUMENT_SLOTS + TEXT_SLOTS
SITE_BYTES = SITE.size + (READS + 2 + TEXT_SLOTS) * ARGUMENT.size  # behind those that are read: traceparent, key, words

ROLES = {"off": 0, "enter": 1, "return": 2, "point": 3, "last": 4}
HOWS = {"register": 1, "memory": 2, "constant": 3}
SCOPES = {"binary": 0, "pid": 1, "tree": 2}
BINDINGS = {"loose": 0, "body": 1, "activation": 2}
MODES = {"count": 0, "histogram": 1, "spans": 2}
KEYS = {"number": 1, "string": 2}
WANTS = {"calls": 1, "text": 2, "traceparent": 4, "keys": 8, "series": 16}
WHENS = {"<": 1, "<=": 2, "==": 3, "!=": 4, ">=": 5, ">": 6}
JOINS = {"argument": 1, "enclosing": 2, "obi": 4, "new": 8}

# Byte offsets into struct pt_regs (arch/x86/include/uapi/asm/ptrace.h) and struct user_pt_regs (arch/arm64/include/uapi/asm/ptrace.h).
_X86_64 = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
REGISTERS = {
    "x86_64": {name: 8 * i for i, name in enumerate(_X86_64)},
    "aarch64": {f"x{i}": 8 * i for i in range(31)} | {"sp": 248, "ip": 256},
}
RETURN_VALUE = {"x86_64": Location("register", 8, True, "ax"), "aarch64": Location("register", 8, True, "x0")}
# By the time a kernel return probe runs, x86's ret has popped the return address that lay on the stack at the entry.
RETURN_SP_BIAS = {"x86_64": 8, "aarch64": 0}


def argument_row(argument: Argument, machine: str) -> bytes:
    """One struct argument."""
    at, registers = argument.location, REGISTERS[machine]
    register = registers[at.register] + at.byte if at.register else 0
    index = registers[at.index] if at.index else 0
    head = (HOWS[at.how], at.size, at.signed, argument.string, argument.slot, at.scale if at.index else 0)
    return ARGUMENT.pack(*head, argument.max, register, index, 0, at.offset)


def ladder_row(bounds: Bounds) -> bytes:
    """One struct ladder."""
    return b"".join(STEP.pack(*step) for step in steps(uppers(bounds)))


def wanted(plan: Plan, site: Site) -> int:
    """What the program at that site must be able to do; 0: to count."""
    span = plan.spans[site.span]
    has = {
        "calls": site.role != "point",
        "text": any(attribute.string for attribute in span.attributes),
        "traceparent": site.traceparent is not None,
        "keys": span.key is not None,
        "series": is_apart(span),
    }
    return sum(WANTS[name] for name, there in has.items() if there)


def dimensions_row(span: Span, series: range) -> bytes:
    """One struct dimensions; `series` are the rows that the layout has for it."""
    slots = sum(1 << one.slot for one in span.dimensions)
    words = sum(1 << one.slot for one in span.dimensions if one.string)
    when = span.error
    failure = (WHENS[when.operator], when.slot, not when.type, 0, when.value) if when else (0, 0, 0, 0, 0)
    return DIMENSIONS.pack(series.start, len(series), 0, slots, words, *failure)


def site_row(plan: Plan, site: Site, layout: Layout, tgid: int = 0, *, role: KernelRole | None = None) -> bytes:
    """One struct site. `layout` is the plan's; `tgid` the process of a pid scope.

    `role` is another than the site's own: "off" is passed over, a "last" return ends open calls but is no orphan.
    """
    span, machine = plan.spans[site.span], plan.binaries[site.binary].machine
    target = plan.targets[span.target]
    has_text = any(attribute.string for attribute in span.attributes)
    words = [argument for argument in site.arguments if argument.word]
    others = [argument for argument in site.arguments if not argument.word]
    bias = RETURN_SP_BIAS[machine] if site.uretprobe else 0
    head = SITE.pack(
        site.span,
        ROLES[role or site.role],
        SCOPES[target.scope],
        BINDINGS[site.binding],
        MODES[span.mode],
        tgid,
        bias,
        1 << span.target,
        span.min_duration_ns,
        round(target.sample * 0xFFFFFFFF),
        layout.spans,
        len(others),
        has_text,
        sum(JOINS[one] for one in target.join),
        site.traceparent is not None and site.traceparent.in_comment,
        KEYS["string" if span.key.string else "number"] if span.key else 0,
        layout.rows,
        layout.cells,
        layout.ladder(span),
        is_apart(span),
        site.address - site.entry if site.entry else 0,
        len(words),
        site.before,
    )
    read = b"".join(argument_row(argument, machine) for argument in others).ljust(READS * ARGUMENT.size, b"\0")
    named = b"".join(argument_row(argument, machine) for argument in words).ljust(TEXT_SLOTS * ARGUMENT.size, b"\0")
    found = site.traceparent
    outside = argument_row(Argument(found.location, 0, string=True), machine) if found else bytes(ARGUMENT.size)
    key = argument_row(Argument(site.key, 0), machine) if site.key else bytes(ARGUMENT.size)
    return head + read + outside + key + named
