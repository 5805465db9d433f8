"""Where the probes on functions' entries go, in real binaries, and what keeps them at the first instruction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_usdt.elf.binary import Binary
from otel_usdt.plan import Plan, Site
from tests.unit.planning.configured import address, compiled, of, planned, sites

# Each function's first block ends in a `je` that the kernel emulates, behind what it must single-step. In `in_table` and the like the
# label 1 lies in front of that je, and something leads there.
MACRO = """
#define F(name, code) __asm__(".text; .skip 200,0x90; .globl " #name "; .type " #name ",@function;" \\
    #name ": " code "; .size " #name ",.-" #name);
"""
FUNCTIONS = f"""{MACRO}
F(straight, "mov %esi,%eax; test %edi,%edi; je 1f; add %edi,%eax; 1: ret")
F(behind_endbr, "endbr64; mov %esi,%eax; test %edi,%edi; je 1f; add %edi,%eax; 1: ret")
F(only_endbr, "endbr64; push %rbx; pop %rbx; ret")
F(short_loop, "xor %eax,%eax; 1: test %edi,%edi; je 2f; dec %edi; jmp 1b; 2: ret")
F(long_loop, "xor %eax,%eax; 1: test %edi,%edi; je 2f; .skip 200,0x90; dec %edi; jmp 1b; 2: ret")
F(long_condition, "xor %eax,%eax; 1: test %edi,%edi; je 2f; .skip 200,0x90; dec %edi; jne 1b; 2: ret")
F(onto_the_jump, "xor %eax,%eax; test %edi,%edi; 1: je 2f; dec %edi; jmp 1b; 2: ret")
F(from_elsewhere, "xor %eax,%eax; from_elsewhere_1: test %edi,%edi; je 2f; 2: ret")
F(elsewhere, "push %rbx; pop %rbx; jmp from_elsewhere_1")
F(in_table, "xor %eax,%eax; 1: test %edi,%edi; je 2f; dec %edi; lea in_table_table(%rip),%rdx; mov %edi,%ecx; and $1,%ecx;"
  " movslq (%rdx,%rcx,4),%rcx; add %rdx,%rcx; jmp *%rcx; 2: ret; .section .rodata; .p2align 2; in_table_table: .long 2b-in_table_table;"
  " .long 2b-in_table_table; .long 2b-in_table_table; .long 1b-in_table_table; .text")
F(in_pointer, "xor %eax,%eax; 1: test %edi,%edi; je 2f; dec %edi; mov in_pointer_pointer(%rip),%rcx; jmp *%rcx; 2: ret;"
  " .section .data.rel.ro,\\"aw\\"; .p2align 3; in_pointer_pointer: .quad 1b; .text")
F(takes_label, "xor %eax,%eax; 1: test %edi,%edi; je 2f; dec %edi; lea 1b(%rip),%rcx; jmp *%rcx; 2: ret")
F(two_entries, "xor %eax,%eax; .globl second_entry; .type second_entry,@function; second_entry: test %edi,%edi; je 2f; 2: ret")
__asm__(".size second_entry,.-second_entry");
F(returns_first, "mov %edi,%eax; ret")
F(twice, "mov %edi,%eax; je 1f; nop; 1: ret")
F(clobbers, "mov %rsi,%rdi; test %esi,%esi; je 1f; nop; 1: ret")
F(makes_room, "sub $8,%rsp; test %edi,%edi; je 1f; nop; 1: add $8,%rsp; ret")
F(far_away, "movabs $1,%rax; movabs $2,%rcx; movabs $3,%rdx; xor %eax,%eax; je 1f; nop; 1: ret")
F(back_again, "dec %edi; jne back_again; ret")
F(calls_itself, "test %edi,%edi; je 1f; dec %edi; call calls_itself; 1: ret")
int main(void) {{ return 0; }}
"""
FIXED = f"""{MACRO}
F(by_table, "xor %eax,%eax; 1: test %edi,%edi; je 2f; dec %edi; mov %edi,%ecx; jmp *table(,%rcx,8); 2: ret;"
  " .section .rodata; .p2align 3; table: .quad 2b; .quad 1b; .text")
F(by_number, "xor %eax,%eax; 1: test %edi,%edi; je 2f; dec %edi; mov $1b,%ecx; jmp *%rcx; 2: ret")
F(free_way, "xor %eax,%eax; test %edi,%edi; je 2f; dec %edi; 2: ret")
int main(void) {{ return 0; }}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("gcc", tmp_path_factory.mktemp("placing"), "placing", FUNCTIONS)


def entry(path: Path, name: str, **how: Any) -> Site:
    """The entry's site in a plan of this function alone."""
    return sites(planned(of(path, {"function": name, "mode": "histogram", **how})), name)[0]


@pytest.mark.parametrize(
    ("name", "offset", "instruction"),
    [("straight", 4, "je"), ("behind_endbr", 8, "je"), ("only_endbr", 4, "push rbx"), ("calls_itself", 2, "je"), ("twice", 2, "je")],
)
def test_entry_and_return_probe_go_together_to_the_first_emulated_instruction(path: Path, name: str, offset: int, instruction: str) -> None:
    """The plan has the address, the instruction, the cost and how far it is from the function's first byte."""
    plan = planned(of(path, {"function": name, "mode": "histogram"}))
    enter, leave = sites(plan, name)
    where = address(path, name) + offset
    for site in (enter, leave):
        assert (site.address, site.entry, site.cost, site.stays) == (where, where - offset, "emulated", "")
        assert site.instruction.startswith(instruction)
        assert site.before != 0
    assert (enter.role, enter.uretprobe, leave.role, leave.uretprobe) == ("enter", False, "return", True)
    assert enter.file_offset == leave.file_offset
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("short_loop", "the branch at "),
        ("long_loop", "the branch at "),
        ("long_condition", "the branch at "),
        ("onto_the_jump", "the branch at "),
        ("from_elsewhere", "the branch at "),
        ("in_table", "a jump table has "),
        ("in_pointer", "a pointer to "),
        ("takes_label", "code takes the address "),
        ("two_entries", "second_entry"),
        ("returns_first", "ret ends the search"),
        ("makes_room", "sub rsp, 8 moves the stack pointer"),
        ("far_away", "nothing that the kernel emulates is near"),
    ],
)
def test_what_enters_behind_the_first_instruction_keeps_the_probes_there(path: Path, name: str, why: str) -> None:
    """A loop's head, another function's jump, a jump table, a pointer, a label's address: the plan says which, and the site stays dear."""
    together = {"function": "second_entry", "mode": "histogram"}  # planned too, where it matters
    plan = planned(of(path, {"function": name, "mode": "histogram"}, *([together] if name == "two_entries" else [])))
    site = sites(plan, name)[0]
    assert (site.address, site.entry, site.cost, site.before) == (address(path, name), address(path, name), "single-step", 0)
    assert why in site.stays


@pytest.mark.parametrize(("name", "why"), [("by_table", "a pointer to "), ("by_number", "a pointer to "), ("free_way", "")])
def test_programs_with_fixed_addresses_have_them_as_numbers(tmp_path: Path, name: str, why: str) -> None:
    """Without position independence jump tables hold addresses, and code has them as operands."""
    site = entry(compiled("gcc", tmp_path, "fixed", FIXED, "-no-pie"), name)
    assert why in site.stays
    assert (site.cost == "emulated") is (why == "")


def test_arguments_that_are_read_keep_the_probes_in_front_of_what_overwrites_them(path: Path) -> None:
    """The same function moves when its argument is not read."""
    read = {"attributes": {"a": {"arg": 1}}, "mode": "spans"}
    assert "overwrites an argument that is read (di)" in entry(path, "clobbers", **read).stays
    assert entry(path, "clobbers").address == address(path, "clobbers") + 5
    assert entry(path, "clobbers", attributes={"a": {"arg": 2}}, mode="spans").address == address(path, "clobbers") + 5


def test_counting_entries_alone_minds_no_stack_pointer(path: Path) -> None:
    """mode: count has no return probe, so its probe may sit behind sub rsp."""
    site = entry(path, "makes_room", mode="count")
    assert (site.role, site.address - site.entry) == ("point", 6)


def test_all_probes_of_one_function_share_its_place(path: Path) -> None:
    """What one of them reads keeps the others at the first instruction as well."""
    reads = {"name": "reads", "function": "clobbers", "attributes": {"a": {"arg": 1}}}
    plan = planned(of(path, reads, {"name": "times", "function": "clobbers", "mode": "histogram"}))
    assert {site.address for site in plan.sites} == {address(path, "clobbers")}
    assert all("(di)" in site.stays for site in plan.sites)


def test_another_probe_of_the_plan_on_that_instruction_keeps_it(path: Path) -> None:
    """Which of two probes at one address comes first nobody knows."""
    there = address(path, "straight") + 4
    plan = planned(of(path, {"function": "straight", "mode": "histogram"}, {"name": "p", "probe": f"addr:{there:#x}"}))
    assert sites(plan, "straight")[0].address == address(path, "straight")
    assert "another probe of this plan" in sites(plan, "straight")[0].stays


def test_jumps_back_to_the_entry_are_noted_wherever_the_probe_is(path: Path) -> None:
    """One call enters more than once; a call of itself is none."""
    (note,) = planned(of(path, {"function": "back_again", "mode": "histogram"})).notes
    assert note.startswith("func:back_again: the jump at ")
    assert planned(of(path, {"function": "calls_itself", "mode": "histogram"})).notes == ()


def test_go_programs_are_left_alone(tmp_path: Path) -> None:
    """Their functions are entered again when the stack has grown."""
    source = '__attribute__((section(".go.buildinfo"), used)) char go[8];' + FUNCTIONS
    site = entry(compiled("gcc", tmp_path, "go", source), "straight", mode="count")
    assert site.address == site.entry
    assert "Go" in site.stays


def test_cxx_functions_have_their_return_probes_on_other_instructions(tmp_path: Path) -> None:
    """A moved entry never shares an instruction with a return: `jump_out` returns by its first jump."""
    source = f"""{MACRO}
        F(jump_out, "mov $1,%esi; jmp straight_out")
        F(straight_out, "mov %esi,%eax; test %edi,%edi; je 1f; inc %eax; 1: ret")
        int __gxx_personality_v0(void) {{ return 0; }}
        int main(void) {{ return 0; }}
    """
    path = compiled("gcc", tmp_path, "cxx", source)
    plan = planned(of(path, *({"function": name, "mode": "histogram"} for name in ("jump_out", "straight_out"))))
    out, straight = sites(plan, "jump_out"), sites(plan, "straight_out")
    assert [(site.role, site.address - out[0].entry) for site in out] == [("enter", 0), ("return", 5)]
    assert "another probe of this plan" in out[0].stays
    assert [(site.role, site.address - straight[0].entry) for site in straight] == [("enter", 4), ("return", 8)]


def test_sections_may_be_missing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without section headers all that is loaded is looked at as both code and data; the answers are the same."""
    plain = {name: entry(path, name) for name in ("straight", "short_loop", "in_table", "in_pointer")}
    loaded = Binary.loaded

    def without(self: Binary, *, code: bool) -> Iterator[tuple[int, bytes]]:
        kept, self._sections = self._sections, ()
        yield from loaded(self, code=code)
        self._sections = kept

    monkeypatch.setattr(Binary, "loaded", without)
    assert {name: entry(path, name) for name in plain} == plain
