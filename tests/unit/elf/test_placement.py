"""Where probes go and where they must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from otel_usdt.elf.binary import Binary, open_binary
from otel_usdt.elf.notes import UsdtNote
from otel_usdt.elf.placement import Placement, address_site, classify, entry_site, instruction_text, usdt_site
from otel_usdt.plan import Cost

Build = Callable[..., Path]

FUNCTIONS = """
#define F(name, code) __asm__(".text; .globl " #name "; .type " #name ",@function;" #name ": " code "; .size " #name ",.-" #name);
F(starts_push, "push %rbp; pop %rbp; ret")
F(starts_endbr, "endbr64; push %r12; pop %r12; ret")
F(starts_nop5, ".byte 0x0f,0x1f,0x44,0x00,0x00; mov %rdi,%rax; ret")
F(endbr_nop5, "endbr64; .byte 0x0f,0x1f,0x44,0x00,0x00; mov %rdi,%rax; ret")
F(inner_nop5, "push %rbp; .byte 0x0f,0x1f,0x44,0x00,0x00; pop %rbp; ret")
F(starts_nop10, ".byte 0x66,0x2e,0x0f,0x1f,0x84,0,0,0,0,0; ret")
F(starts_lock, "lock incl (%rdi); ret")
F(starts_int3, "int3; ret")
F(chosen, "mov $1,%eax; ret")
__asm__(".globl by_ifunc; .type by_ifunc,@gnu_indirect_function; by_ifunc: lea chosen(%rip),%rax; ret; .size by_ifunc,.-by_ifunc");
int variable = 1;
int main(void) { return 0; }
"""


@pytest.fixture(scope="module")
def path(build: Build) -> Path:
    return build(FUNCTIONS)


def entry(binary: Binary, name: str) -> Placement:
    (symbol,) = binary.functions().find(name)
    return entry_site(binary, symbol)


@pytest.mark.parametrize(
    ("name", "skipped", "instruction", "cost"),
    [
        ("starts_push", 0, "push rbp", "emulated"),
        ("starts_endbr", 4, "push r12", "emulated"),
        ("starts_nop5", 0, "nop dword ptr [rax + rax]", "nop5"),
        ("endbr_nop5", 4, "nop dword ptr [rax + rax]", "nop5"),
        ("chosen", 0, "mov eax, 1", "single-step"),
    ],
)
def test_entries_go_behind_endbr64(path: Path, name: str, skipped: int, instruction: str, cost: Cost) -> None:
    """The entry probe sits on the function's first real instruction, and its cost class is that instruction's."""
    with open_binary(str(path)) as binary:
        (symbol,) = binary.functions().find(name)
        placed = entry(binary, name)
        assert placed == Placement(symbol.address + skipped, cost)
        assert instruction_text(binary, placed.address) == instruction


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("starts_nop10", "prefix 2e (a multi-byte nop)"),
        ("starts_lock", "prefix f0"),
        ("starts_int3", "int3"),
        ("by_ifunc", "IFUNC"),
    ],
)
def test_what_the_kernel_would_refuse_or_spoil_is_refused_with_a_remedy(path: Path, name: str, why: str) -> None:
    """Each refusal says why, and what to do instead."""
    with open_binary(str(path)) as binary:
        placement = entry(binary, name)
        assert why in placement.refused
        assert placement.remedy


def test_usdt_sites_take_a_nop_and_refuse_an_inner_nop5(path: Path, probed: Path) -> None:
    """A one-byte nop is right; a 5-byte nop only as its function's first instruction."""
    with open_binary(str(probed)) as binary:
        assert binary.notes()
        for note in binary.notes():
            assert usdt_site(binary, note) == Placement(note.address, "emulated")
            assert instruction_text(binary, note.address) == "nop"
    with open_binary(str(path)) as binary:

        def site(name: str, offset: int) -> Placement:
            (symbol,) = binary.functions().find(name)
            return usdt_site(binary, UsdtNote("a", "b", symbol.address + offset, 0, "", ()))

        assert "below the stack pointer" in site("inner_nop5", 1).refused
        assert site("inner_nop5", 1).remedy
        assert site("starts_nop5", 0).refused == site("endbr_nop5", 4).refused == ""


def test_addresses_outside_the_code_are_refused(path: Path) -> None:
    """A variable, and an address that the file does not load, hold no instruction."""
    with open_binary(str(path)) as binary:
        address = binary._object_address("variable")
        assert address
        for one in (address, 0x7FFFFFFF0000):
            assert "not in the program's code" in address_site(binary, one).refused
        (symbol,) = binary.functions().find("inner_nop5")
        assert address_site(binary, symbol.address).cost == "emulated"
        assert address_site(binary, symbol.address + 1).refused


@pytest.mark.parametrize(
    ("code", "cost"),
    [
        *((bytes([first]), "emulated") for first in (*range(0x50, 0x58), 0x90, *range(0x70, 0x80))),
        *((bytes([0x41, second]), "emulated") for second in range(0x50, 0x58)),
        *((bytes([0x0F, second, 0, 0, 0, 0]), "emulated") for second in range(0x80, 0x90)),
        *((bytes([first, 0, 0, 0, 0]), "emulated") for first in (0xE8, 0xE9, 0xEB)),
        (bytes.fromhex("0f1f440000"), "nop5"),
        *((bytes.fromhex(code), "single-step") for code in (
            "6690", "f390", "0f1f4000", "4889e5", "4883ec08", "c3", "f3c3", "58", "4150"[:2] + "58", "ff10", "f30f1efa", "660f1f440000")),
    ],
)  # fmt: skip
def test_cost_is_that_of_the_instruction(code: bytes, cost: str) -> None:
    """The kernel emulates pushes, one-byte nops, near calls and jumps; a prefix spoils it."""
    assert classify(code.ljust(15, b"\0"), "x86_64", True) == (cost, "", "")


@pytest.mark.parametrize(
    ("word", "cost", "refused"),
    [
        (0xD65F03C0, "emulated", ""),  # ret
        (0x94000010, "emulated", ""),  # bl
        (0xD63F0020, "emulated", ""),  # blr x1
        (0x54000040, "emulated", ""),  # b.eq
        (0xB4000060, "emulated", ""),  # cbz
        (0x36000060, "emulated", ""),  # tbz
        (0x90000000, "emulated", ""),  # adrp
        (0xD503245F, "single-step", ""),  # bti c
        (0xA9BF7BFD, "single-step", ""),  # stp x29, x30, [sp, -16]!
        (0xD4200000, "single-step", "exception"),  # brk
        (0xC85F7C20, "single-step", "exclusive"),  # ldxr
    ],
)
def test_aarch64_instructions_are_classed(word: int, cost: str, refused: str) -> None:
    """What arm64's kernel simulates is cheap; exceptions and exclusives are refused."""
    found, why, _ = classify(word.to_bytes(4, "little"), "aarch64", True)
    assert found == cost
    assert (refused in why) if refused else not why
