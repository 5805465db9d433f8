/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * The registers at a trap. The kernel's own struct begins with the one that user space sees (arch/arm64/include/uapi/asm/ptrace.h)
 * and what follows differs from version to version; the verifier lets a probe read the first part only. bcc's PT_REGS macros
 * use the names of both.
 */
#pragma once

struct user_pt_regs {
    __u64 regs[31];
    __u64 sp, pc, pstate;
};

struct pt_regs {
    union {
        struct user_pt_regs user_regs;
        struct {
            __u64 regs[31];
            __u64 sp, pc, pstate;
        };
    };
};

_Static_assert(sizeof(struct pt_regs) == 34 * 8, "pt_regs");
_Static_assert(__builtin_offsetof(struct pt_regs, sp) == 31 * 8, "the stack pointer");
