"""Argument strings of USDT notes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_usdt.elf.arguments import Site, Unreadable, describe, parse_argument, parse_arguments
from otel_usdt.elf.locations import Location

SYMBOLS = {"NBuffers": 0x9000, "CheckpointStats": 0xA000, "arr": 0x8000}
X86 = Site("x86_64", 0x4000, SYMBOLS.get)
X86_FIXED = Site("x86_64", 0x4000, SYMBOLS.get, fixed=True)
ARM = Site("aarch64", 0x4000, SYMBOLS.get)


def memory(size: int, signed: bool, register: str, offset: int = 0, index: str = "", scale: int = 1) -> Location:
    return Location("memory", size, signed, register, index, scale, offset)


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("8@%rdi", Location("register", 8, False, "di")),
        ("-4@%eax", Location("register", 4, True, "ax")),
        ("4@%r14d", Location("register", 4, False, "r14")),
        ("2@%r9w", Location("register", 2, False, "r9")),
        ("1@%sil", Location("register", 1, False, "si")),
        ("1@%al", Location("register", 1, False, "ax")),
        ("1@%ah", Location("register", 1, False, "ax", byte=1)),
        ("1@%r8b", Location("register", 1, False, "r8")),
        ("-4@%rax", Location("register", 4, True, "ax")),
        ("%rdi", Location("register", 8, False, "di")),
        ("%edi", Location("register", 4, False, "di")),
        ("-4@$1", Location("constant", 4, True, offset=1)),
        ("-4@$-1", Location("constant", 4, True, offset=-1)),
        ("4@$-1", Location("constant", 4, False, offset=0xFFFFFFFF)),
        ("8@$0x10", Location("constant", 8, False, offset=16)),
        ("-4@-136(%rbp)", memory(4, True, "bp", -136)),
        ("4@(%r12)", memory(4, False, "r12")),
        ("8@(%rdi,%rcx,4)", memory(8, False, "di", 0, "cx", 4)),
        ("8@-8(%rdi,%rcx)", memory(8, False, "di", -8, "cx", 1)),
        ("-4@NBuffers(%rip)", memory(4, True, "ip", 0x5000)),
        ("-4@40+CheckpointStats(%rip)", memory(4, True, "ip", 0x6000 + 40)),
        ("-4@CheckpointStats-8(%rip)", memory(4, True, "ip", 0x6000 - 8)),
        ("8@NBuffers", memory(8, False, "ip", 0x5000)),
        ("8@NBuffers+4", memory(8, False, "ip", 0x5004)),
    ],
)
def test_x86_forms_are_located(text: str, location: Location) -> None:
    """Each operand form that gcc and clang print on x86_64 gives its location."""
    assert parse_argument(text, X86) == location


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("-8@$arr", Location("constant", 8, True, offset=0x8000)),
        ("4@arr(,%rcx,4)", memory(4, False, "ip", 0x4000, "cx", 4)),
        ("4@arr+4(%rbx)", memory(4, False, "bx", 0x8004)),
        ("4@0x601040", memory(4, False, "ip", 0x601040 - 0x4000)),
    ],
)
def test_absolute_addresses_are_read_in_a_program_with_fixed_addresses(text: str, location: Location) -> None:
    """In a program that is not position-independent a symbol's address is a number; elsewhere it is unreadable."""
    assert parse_argument(text, X86_FIXED) == location
    with pytest.raises(Unreadable):
        parse_argument(text, X86)


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("8@x0", Location("register", 8, False, "x0")),
        ("-4@w1", Location("register", 4, True, "x1")),
        ("x30", Location("register", 8, False, "x30")),
        ("4@wzr", Location("constant", 4, False)),
        ("8@[sp, 24]", memory(8, False, "sp", 24)),
        ("8@[sp, #24]", memory(8, False, "sp", 24)),
        ("-4@[x29, -20]", memory(4, True, "x29", -20)),
        ("8@[x1]", memory(8, False, "x1")),
        ("8@[x0, x2]", memory(8, False, "x0", 0, "x2")),
        ("8@[x0, x2, lsl 3]", memory(8, False, "x0", 0, "x2", 8)),
        ("4@5", Location("constant", 4, False, offset=5)),
        ("-8@-1", Location("constant", 8, True, offset=-1)),
    ],
)
def test_aarch64_forms_are_located(text: str, location: Location) -> None:
    """Each operand form that gcc and clang print on aarch64 gives its location."""
    assert parse_arguments(text, ARM) == (location,)


@pytest.mark.parametrize(
    ("text", "site", "why"),
    [
        ("8f@%xmm0", X86, "floating-point"),
        ("8@%xmm0", X86, "register %xmm0"),
        ("16@%rax", X86, "16 bytes"),
        ("8@%eax", X86, "4-byte register"),
        ("8@%rip", X86, "%rip"),
        ("4@(%eax)", X86, "no 64-bit address"),
        ("4@%fs:0x10", X86, "%fs"),
        ("4@Missing(%rip)", X86, "Missing is not in the symbol table"),
        ("4@16(%rip)", X86, "without a symbol"),
        ("8@NBuffers@GOTPCREL(%rip)", X86, "not understood"),
        ("4@99999999999999999999(%rax)", X86, "beyond 64 bits"),
        ("8@", X86, "without a symbol"),
        ("8@$", X86, "not understood"),
        ("8f@d0", ARM, "floating-point"),
        ("8@d0", ARM, "register d0"),
        ("8@[x0, w2, sxtw 3]", ARM, "extended"),
        ("8@[x0, :lo12:arr]", ARM, "not understood"),
        ("8@x31", ARM, "x31 is not in the symbol table"),
    ],
)
def test_unreadable_arguments_say_why(text: str, site: Site, why: str) -> None:
    """What a probe cannot read is told with its reason, and keeps its place among the arguments."""
    (reason,) = parse_arguments(text, site)
    assert isinstance(reason, str)
    assert why in reason
    assert describe(reason) == f"unreadable: {reason}"


def test_arguments_are_separated_by_spaces_outside_brackets() -> None:
    """aarch64 writes a space within an operand."""
    assert [describe(one) for one in parse_arguments("8@[sp, 24] -4@w1 8@[x0, x2]", ARM)] == [
        "memory sp+24",
        "register x1",
        "memory x0+x2*1",
    ]
    assert parse_arguments("", X86) == ()


X86_NAMES = {"ax": "rax", "bx": "rbx", "di": "rdi", "sp": "rsp", "bp": "rbp", "r8": "r8", "r15": "r15"}
NARROW = {1: "r10b", 2: "r10w", 4: "r10d", 8: "r10"}


@st.composite
def written(draw: st.DrawFn) -> tuple[str, Location]:
    """A location and how an assembler writes it."""
    size, signed = draw(st.sampled_from((1, 2, 4, 8))), draw(st.booleans())
    prefix = f"{'-' if signed else ''}{size}@"
    how = draw(st.sampled_from(("register", "constant", "memory", "symbol")))
    if how == "register":
        return f"{prefix}%{NARROW[size]}", Location("register", size, signed, "r10")
    if how == "constant":
        bits = 8 * size - 1 if signed or size == 8 else 8 * size
        value = draw(st.integers(-(1 << bits) if signed else 0, (1 << bits) - 1))
        return f"{prefix}${value}", Location("constant", size, signed, offset=value)
    offset = draw(st.integers(-(1 << 31), (1 << 31) - 1))
    if how == "symbol":
        return f"{prefix}{offset}+NBuffers(%rip)", memory(size, signed, "ip", 0x5000 + offset)
    base, index = draw(st.sampled_from(sorted(X86_NAMES))), draw(st.sampled_from(("", "ax", "r15")))
    scale = draw(st.sampled_from((1, 2, 4, 8))) if index else 1
    tail = f",%{X86_NAMES[index]},{scale}" if index else ""
    return f"{prefix}{offset or ''}(%{X86_NAMES[base]}{tail})", memory(size, signed, base, offset, index, scale)


@given(st.lists(written(), max_size=12))
def test_what_a_formatter_writes_is_read_back(pairs: list[tuple[str, Location]]) -> None:
    """Any mixture of well-formed arguments gives exactly the locations that it was written from."""
    assert parse_arguments(" ".join(text for text, _ in pairs), X86) == tuple(location for _, location in pairs)


@given(st.one_of(st.text(), st.text("0123456789-+@$%()[], abdeilnprstwxfz:#_")), st.sampled_from((X86, X86_FIXED, ARM)))
def test_any_text_gives_locations_or_reasons(text: str, site: Site) -> None:
    """No argument string, however mangled, raises."""
    for one in parse_arguments(text, site):
        assert isinstance(one, str) or (one.size in (1, 2, 4, 8) and -(1 << 63) <= one.offset < 1 << 63)
