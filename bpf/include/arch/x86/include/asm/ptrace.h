/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * The registers at a trap, as the kernel lays them out for BPF programs (its arch/x86/include/asm/ptrace.h, 64 bits):
 * an interface that has never changed, with the names of the kernel side, which bcc's PT_REGS macros use.
 */
#pragma once

struct pt_regs {
    unsigned long r15, r14, r13, r12, bp, bx;
    unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
    unsigned long orig_ax, ip, cs, flags, sp, ss;
};

_Static_assert(sizeof(struct pt_regs) == 21 * 8, "pt_regs");
_Static_assert(__builtin_offsetof(struct pt_regs, di) == 14 * 8, "the first argument");
_Static_assert(__builtin_offsetof(struct pt_regs, sp) == 19 * 8, "the stack pointer");
