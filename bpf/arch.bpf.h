/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * What differs between machines. bcc defines the machine's name as it compiles.
 */
#pragma once

#if defined(__aarch64__) || defined(__TARGET_ARCH_arm64)
#define CALL_PUSHES 0     /* bytes that a call pushes: none, the return address is in x30 */
#else
#define CALL_PUSHES 8
#endif

static u64 return_address(struct pt_regs *ctx)
{
    u64 address = 0;
#if CALL_PUSHES
    bpf_probe_read_user(&address, sizeof address, (void *)PT_REGS_SP(ctx));
#else
    address = ctx->regs[30];
#endif
    return address;
}

/* The kernel's return trampoline begins the [uprobes] page, whose place varies (five-level paging, no address space randomisation),
 * so look at its code (arch/x86/kernel/uprobes.c: int3 up to 6.10; push %rax, %rcx, %r11 since. arch/arm64: brk, 0xd42000a0).
 * Unreadable: nothing has run there yet, so the kernel has just mapped it. */
static bool is_trampoline(u64 address)
{
    u32 code = 0;
    if (address & 0xfff) return false;
    if (bpf_probe_read_user(&code, sizeof code, (void *)address) < 0) return true;
#if CALL_PUSHES
    return (u8)code == 0xcc || code == 0x53415150;
#else
    return code == 0xd42000a0;
#endif
}
