"""Return instructions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from otel_usdt.elf.binary import open_binary
from otel_usdt.elf.placement import instruction_text
from otel_usdt.elf.returns import return_refused, return_sites, switches_stacks, uretprobe_refused
from otel_usdt.elf.symbols import Symbol

Build = Callable[..., Path]

FUNCTIONS = """
#define F(name, code) __asm__(".text; .globl " #name "; .type " #name ",@function;" #name ": " code "; .size " #name ",.-" #name);
F(other, "ret")
F(two_returns, "test %edi,%edi; je 1f; mov $1,%eax; ret; 1: xor %eax,%eax; repz ret")
F(tail_call, "test %edi,%edi; je 1f; jmp other; 1: ret $8")
F(cold_part, "test %edi,%edi; jne cold_part.cold; 1: ret")
F(cold_part.cold, "cmp $1,%edi; je 1f; jmp cold_part+4; 1: ret")
F(conditional_tail, "test %edi,%edi; je other; ret")
F(through_pointer, "jmp *table(%rip)")
F(notrack_switch, "notrack jmp *%rax; ret")
F(pic_switch, "lea table(%rip),%rdx; movslq (%rdx,%rdi,4),%rax; add %rdx,%rax; jmp *%rax; ret")
F(virtual_tail, "mov (%rdi),%rax; jmp *16(%rax)")
F(endless, "push %rbp; 1: pause; jmp 1b")
F(back_to_entry, "dec %edi; jne back_to_entry; ret")
F(with_data, "ret; .byte 0x06")
void *table[4];
int main(void) { return 0; }
"""


@pytest.fixture(scope="module")
def path(build: Build) -> Path:
    return build(FUNCTIONS)


@pytest.mark.parametrize(
    ("name", "instructions"),
    [
        ("two_returns", ["ret", "repz ret"]),
        ("tail_call", ["jmp OTHER", "ret 8"]),
        ("cold_part", ["ret", "ret"]),
        ("through_pointer", ["jmp qword ptr [rip + TABLE]"]),
        ("notrack_switch", ["ret"]),
        ("pic_switch", ["ret"]),
    ],
)
def test_every_way_out_is_found(path: Path, name: str, instructions: list[str]) -> None:
    """Returns and tail calls are found, in the .cold part as well; jumps within the function and switches are none."""
    with open_binary(str(path)) as binary:
        (symbol,), (other,) = binary.functions().find(name), binary.functions().find("other")
        found = return_sites(binary, symbol)
        assert found.refused == ""
        texts = [instruction_text(binary, address).split(" + 0x")[0] for address in found.addresses]
        assert texts == [one.replace("OTHER", hex(other.address)).replace(" + TABLE]", "") for one in instructions]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("conditional_tail", "conditional jump"),
        ("virtual_tail", "may be a tail call or a jump table"),
        ("endless", "no instruction by which it returns"),
        ("back_to_entry", "enters more than once"),
        ("with_data", "does not decode at"),
    ],
)
def test_in_doubt_all_is_refused(path: Path, name: str, why: str) -> None:
    """When one way out cannot be told there are no sites at all, and the reason names the place."""
    with open_binary(str(path)) as binary:
        (symbol,) = binary.functions().find(name)
        found = return_sites(binary, symbol)
        assert found.addresses == ()
        assert why in found.refused


def test_functions_without_a_known_end_are_refused(path: Path) -> None:
    """Neither an unknown size nor an absurd one is swept, nor an address outside the file."""
    with open_binary(str(path)) as binary:
        (main,) = binary.functions().find("main")
        assert "its end is unknown" in return_sites(binary, Symbol("f", main.address, 0)).refused
        assert "not believed" in return_sites(binary, Symbol("f", main.address, 1 << 40)).refused
        assert "nothing of the file is loaded" in return_sites(binary, Symbol("f", 1 << 40, 8)).refused
        assert "IFUNC" in return_sites(binary, Symbol("f", main.address, main.size, ifunc=True)).refused


def test_indirect_tail_calls_are_told_where_all_code_marks_its_targets(build: Build) -> None:
    """With -fcf-protection switches jump with notrack, so an indirect jump without it is a tail call."""
    text = "int apply(int (*f)(int), int x) { return f(x + 1); } int main(void) { return 0; }"
    path = build(text, "-fcf-protection=full", "-shared", "-fPIC", "-nostdlib")
    with open_binary(str(path)) as binary:
        assert binary.ibt
        (apply,) = binary.functions().find("apply")
        (site,) = return_sites(binary, apply).addresses
        assert instruction_text(binary, site).startswith("jmp r")


def test_aarch64_is_refused_clearly(path: Path, tmp_path: Path) -> None:
    """Return instructions are looked for on x86_64 only."""
    other = tmp_path / "other"
    data = bytearray(path.read_bytes())
    data[18] = 183  # e_machine
    other.write_bytes(data)
    with open_binary(str(other)) as binary:
        assert binary.machine == "aarch64"
        assert "not on aarch64" in return_sites(binary, Symbol("f", 0x1000, 8)).refused


def test_kernel_return_probes_are_refused_in_go_and_cxx(path: Path, build: Build) -> None:
    """Where a uretprobe would crash or abort the target the reason is told; in plain C there is none."""
    go = build('__attribute__((section(".go.buildinfo"), used)) char go[8]; int main(void) { return 0; }')
    cxx = build("int __gxx_personality_v0(void) { return 0; } int main(void) { return 0; }")
    reasons = []
    for one in (path, go, cxx):
        with open_binary(str(one)) as binary:
            reasons.append(uretprobe_refused(binary))
    assert reasons[0] == ""
    assert "Go moves its stacks" in reasons[1]
    assert "C++ exception" in reasons[2]


def test_programs_that_switch_stacks_are_told(path: Path, build: Build) -> None:
    """It is the import that tells: libc itself, which has the function, is no such program."""
    switching = build("#include <ucontext.h>\nucontext_t a, b; int main(void) { return swapcontext(&a, &b); }")
    with open_binary(str(switching)) as binary, open_binary(str(path)) as plain:
        assert "switches stacks" in switches_stacks(binary)
        assert switches_stacks(plain) == ""
        assert binary.imports("makecontext", "swapcontext")
        assert not binary.imports("swap", "main")


def test_functions_whose_return_is_never_probed_are_told() -> None:
    """Those that return twice, with any number of leading underscores, and those that are not called at all."""
    twice = ("setjmp", "_setjmp", "__sigsetjmp", "vfork", "swapcontext")
    jumped_to = ("_start", "__restore_rt", "_dl_runtime_resolve_xsavec")
    assert ["returns twice" in return_refused(Symbol(name, 0x1000, 8)) for name in twice] == [True] * 5
    assert ["jumped to" in return_refused(Symbol(name, 0x1000, 8)) for name in jumped_to] == [True] * 3
    assert not any(return_refused(Symbol(name, 0x1000, 8)) for name in ("longjmp", "fork", "my_setjmp", "start"))
