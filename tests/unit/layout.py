"""What the C compiler makes of bpf/record.h: every struct's fields with offset and size, every enumerator and constant."""

from __future__ import annotations

import functools
import json
import platform
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from otel_usdt.probes.sources import bpf_folder


@dataclass(frozen=True, slots=True)
class Field:
    """A struct's member. `kind` is i or u, V for a struct."""

    offset: int
    size: int
    element_size: int
    kind: str


@dataclass(frozen=True, slots=True)
class Layout:
    """`structs` are in the order of their declaration, and so are their fields."""

    structs: dict[str, dict[str, Field]]
    sizes: dict[str, int]
    enums: dict[str, dict[str, int]]
    constants: dict[str, int]


def run_c(text: str, *flags: str) -> str:
    """What a C program prints."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "print.c", Path(folder) / "print"
        source.write_text(text)
        subprocess.run(["gcc", "-Wall", "-Werror", *flags, "-o", program, source], check=True)
        return subprocess.run([program], check=True, capture_output=True, text=True).stdout


@functools.cache
def record_layout() -> Layout:
    """Compiles record.h with the host's gcc and lets it say where everything is."""
    header = re.sub(r"/\*.*?\*/", "", (bpf_folder() / "record.h").read_text(), flags=re.DOTALL)
    structs = {name: _declared(body) for name, body in re.findall(r"^struct (\w+) \{(.*?)^\};", header, re.DOTALL | re.MULTILINE)}
    enums = {
        name: re.findall(r"(\w+)\s*(?:=[^,]*)?(?:,|$)", body.strip())
        for name, body in re.findall(r"^enum (\w+) \{(.*?)\};", header, re.DOTALL | re.MULTILINE)
    }
    constants = re.findall(r"^#define (\w+) ", header, re.MULTILINE)
    names = [*constants, *(name for members in enums.values() for name in members)]
    lines = [f'printf("v {name} %lld\\n", (long long)({name}));' for name in names]
    for struct, fields in structs.items():
        lines.append(f'printf("s {struct} %zu\\n", sizeof(struct {struct}));')
        for field in fields:
            member = f"((struct {struct} *)0)->{field}"
            lines.append(f'printf("f {struct} {field} %zu %zu\\n", offsetof(struct {struct}, {field}), sizeof {member});')
    includes = '#include <stddef.h>\n#include <stdio.h>\n#include <linux/types.h>\n#include "record.h"\n'
    told = run_c(f"{includes}int main(void) {{ {' '.join(lines)} return 0; }}", f"-I{bpf_folder()}")
    return _parsed(told, structs, enums, constants)


def registers() -> dict[str, int]:
    """Offset of every member of this machine's struct of saved registers, by its name in the user-space header."""
    if platform.machine() == "x86_64":
        first = [f"r{i}" for i in range(8, 16)]
        names = [*first, "rbp", "rbx", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss"]
        struct, members = "pt_regs", {name: name for name in names}
    else:
        struct, members = "user_pt_regs", {**{f"x{i}": f"regs[{i}]" for i in range(31)}, "sp": "sp", "ip": "pc"}
    format_ = json.dumps(dict.fromkeys(members, 0)).replace(": 0", ": %zu")
    offsets = ", ".join(f"offsetof(struct {struct}, {member})" for member in members.values())
    includes = "#include <stddef.h>\n#include <stdio.h>\n#include <asm/ptrace.h>\n"
    text = f"{includes}int main(void) {{ printf({json.dumps(format_)}, {offsets}); }}"
    told: dict[str, int] = json.loads(run_c(text))
    return told


def _declared(body: str) -> dict[str, tuple[str, str]]:
    """Field name -> (type, what is written behind the name)."""
    found = {}
    for declaration in body.split(";"):
        if words := re.fullmatch(r"\s*((?:struct )?\w+) (.+)", declaration, re.DOTALL):
            for one in words[2].split(","):
                name, brackets = re.fullmatch(r"\s*(\w+)((?:\[\w+\])*)\s*", one).groups()  # type: ignore[union-attr]
                found[name] = words[1], brackets
    return found


def _parsed(told: str, structs: dict[str, dict[str, tuple[str, str]]], enums: dict[str, list[str]], constants: list[str]) -> Layout:
    rows = [line.split() for line in told.splitlines()]
    values = {name: int(value) for what, name, value, *_ in rows if what == "v"}
    sizes = {name: int(size) for what, name, size, *_ in rows if what == "s"}
    fields: dict[str, dict[str, Field]] = {name: {} for name in structs}
    elements = {"__u8": 1, "__u16": 2, "__u32": 4, "__u64": 8, "__s64": 8, "char": 1}
    for what, struct, *rest in rows:
        if what == "f":
            name, offset, size = rest[0], int(rest[1]), int(rest[2])
            type_ = structs[struct][name][0]
            element = sizes[type_.removeprefix("struct ")] if type_.startswith("struct ") else elements[type_]
            fields[struct][name] = Field(offset, size, element, "V" if " " in type_ else "i" if type_ == "__s64" else "u")
    return Layout(
        fields, sizes, {name: {one: values[one] for one in members} for name, members in enums.items()}, {c: values[c] for c in constants}
    )
