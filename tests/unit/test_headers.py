"""Our own kernel headers: BCC compiles with them alone, for both machines."""

from __future__ import annotations

import json
import os
import platform
import subprocess

import pytest

from otel_usdt.probes.sources import bpf_folder

# Stores four registers; prints their offsets in the context, and whether the kernel takes the program (on the machine it is for).
COMPILE = r"""
import bcc, json, os
program = bcc.BPF(text='''
#include <uapi/linux/ptrace.h>
BPF_RINGBUF_OUTPUT(records, 1);
BPF_HASH(seen, u32, u64);
int probe(struct pt_regs *ctx)
{
    u32 zero = 0;
    u64 all = PT_REGS_IP(ctx) + PT_REGS_SP(ctx) + PT_REGS_PARM1(ctx) + PT_REGS_RC(ctx);
    seen.update(&zero, &all);
    return 0;
}''')
code = program.dump_func("probe")
if "ARCH" not in os.environ:
    program.load_func("probe", bcc.BPF.KPROBE)
# 0x79: load 8 bytes; source register in the high half of the second byte, then a 16-bit offset
print(json.dumps(sorted(int.from_bytes(code[at + 2:at + 4], "little") for at in range(0, len(code), 8) if code[at] == 0x79)))
"""
# Register x 8: arch/x86/include/asm/ptrace.h (ax, di, ip, sp) and arch/arm64/include/uapi/asm/ptrace.h (regs[0] twice, read once; sp, pc).
OFFSETS = {"x86_64": [80, 112, 128, 152], "aarch64": [0, 248, 256]}


def compile_with(machine: str) -> list[int]:
    environment = {**os.environ, "BCC_KERNEL_SOURCE": str(bpf_folder() / "include")}
    if machine != platform.machine():
        environment["ARCH"] = machine
    told = subprocess.run(["/usr/bin/python3", "-I", "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    offsets: list[int] = json.loads(told.stdout)
    return offsets


@pytest.mark.kernel
@pytest.mark.parametrize("machine", OFFSETS)
def test_bcc_compiles_with_our_headers_alone(machine: str) -> None:
    """A uprobe program reads its registers where the kernel of that machine puts them; no kernel headers are installed for it."""
    assert compile_with(machine) == OFFSETS[machine]
