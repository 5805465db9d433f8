"""Which of a function's first instructions may have its probes."""

from __future__ import annotations

import pytest

from otel_usdt.elf.disassembly import instructions
from otel_usdt.elf.entry_block import Found, Wants, emulated_later, fingerprint

JE, PUSH = "7402", "53"  # je, push rbx


def found(code: str, *registers: str, memory: bool = False, stack: bool = True) -> Found:
    """Of code in hex, loaded at 0x1000."""
    block = list(instructions("x86_64", bytes.fromhex(code), 0x1000))
    assert sum(len(one.code) for one in block) == len(bytes.fromhex(code)), "all of it decodes"
    return emulated_later(block, Wants(frozenset(registers), memory, stack))


@pytest.mark.parametrize(
    ("code", "offset"),
    [
        ("4885ff" + JE, 3),  # test rdi, rdi; je
        ("488b07" + PUSH, 3),  # mov rax, [rdi]; push rbx
        ("31c0" + "4155", 2),  # xor eax, eax; push r13
        ("be01000000" + "e900000000", 5),  # mov esi, 1; jmp
        ("be01000000" + "eb00", 5),
        ("83ff05" + "0f8700000000", 3),  # cmp edi, 5; ja
        ("8b07" + "90", 2),  # mov eax, [rdi]; nop
        ("48894424f8" + PUSH, 5),  # mov [rsp - 8], rax: below all that the caller left
        ("0f294424f0" + PUSH, 5),  # movaps [rsp - 16], xmm0
        ("c6470100" + JE, 4),  # mov byte [rdi + 1], 0: no text is read
        ("488b442408" + JE, 5),  # mov rax, [rsp + 8]: read, not written
        ("c5f96ec7" + PUSH, 4),  # vmovd xmm0, edi
        ("660fefc0" + PUSH, 4),  # pxor xmm0, xmm0
        ("0f95c0" + PUSH, 3),  # setne al
    ],
)
def test_the_first_emulated_instruction_has_the_probes(code: str, offset: int) -> None:
    """Behind instructions that neither the stack pointer nor the caller's stack nor an argument notices."""
    assert found(code, "di", "si" if not code.startswith("be") else "dx") == Found(0x1000 + offset)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("4883ec08" + JE, "sub rsp, 8 moves the stack pointer"),
        ("4889fe" + JE, "mov rsi, rdi overwrites an argument that is read (si)"),
        ("89fe" + JE, "overwrites an argument that is read (si)"),  # mov esi, edi: half of it is all of it
        ("40b601" + JE, "overwrites an argument that is read (si)"),  # mov sil, 1
        ("48897c2408" + JE, "writes to what the caller left on the stack"),  # mov [rsp + 8], rdi
        ("48893c24" + JE, "writes to what the caller left on the stack"),  # mov [rsp], rdi
        ("48897c24fc" + JE, "writes to what the caller left on the stack"),  # mov [rsp - 4], rdi: half of it above
        ("0f294424f8" + JE, "writes to what the caller left on the stack"),  # movaps [rsp - 8], xmm0
        ("48893cc4" + JE, "writes to what the caller left on the stack"),  # mov [rsp + rax*8], rdi
        ("488d442408" + JE, "lets the stack be written by another name"),  # lea rax, [rsp + 8]
        ("4889e5" + JE, "lets the stack be written by another name"),  # mov rbp, rsp
        ("c3" + JE, "ret ends the search"),
        ("ffd0" + JE, "call rax ends the search"),
        ("e800000000" + JE, "ends the search"),
        ("ffe0" + JE, "jmp rax ends the search"),
        ("3e7402" + PUSH, "ends the search"),  # a jump with a prefix, which the kernel refuses
        ("f3a4" + JE, "ends the search"),  # rep movsb
        ("a5" + JE, "ends the search"),  # movsd of strings, which writes rdi and rsi
        ("4887fe" + JE, "ends the search"),  # xchg rsi, rdi
        ("f7ee" + JE, "ends the search"),  # imul esi: ax and dx
        ("0f05" + JE, "syscall ends the search"),
        ("6a01" + JE, "ends the search"),  # push 1: the kernel single-steps it, and the stack pointer moves
        ("5b" + JE, "ends the search"),
        ("31c0", "nothing that the kernel emulates is near"),
    ],
)
def test_what_a_probe_would_notice_ends_the_search(code: str, why: str) -> None:
    """The reason names the instruction."""
    it = found(code, "di", "si")
    assert it.address == 0
    assert why in it.why


def test_only_what_is_read_counts() -> None:
    """An argument that nobody reads may be overwritten; dx is written by cqo without being named; a text must stay as it was."""
    assert found("4889fe" + JE, "di").address == found("4889fe" + JE).address == 0x1003
    assert found("4899" + JE, "si").address == 0x1002
    assert "(dx)" in found("4899" + JE, "dx").why
    assert "may overwrite a text" in found("c6470100" + JE, "di", memory=True).why


def test_a_count_does_not_care_for_the_stack_pointer() -> None:
    """A probe on the entry alone may sit behind sub rsp."""
    assert found("4883ec08" + "4885ff" + JE, stack=False).address == 0x1007


@pytest.mark.parametrize("at", range(31))
def test_a_breakpoint_anywhere_changes_the_fingerprint(at: int) -> None:
    """int3 in place of any byte; what is empty has 0, as in the kernel."""
    code = bytes(range(1, 32))
    assert fingerprint(code) != fingerprint(code[:at] + b"\xcc" + code[at + 1 :])
    assert 0 < fingerprint(code) < 1 << 32
    assert fingerprint(b"") == 0
