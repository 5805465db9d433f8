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

static u64 register_at(struct pt_regs *ctx, u32 offset)
{
    u64 value = 0;
    bpf_probe_read_kernel(&value, sizeof value, (void *)ctx + (offset & 0x1ff));
    return value;
}

/* The registers that arguments and results are passed in, without the call: the verifier wants their offsets to be constants, so clang must not
 * make one load of many. */
#define CASE(name) \
    case __builtin_offsetof(struct pt_regs, name): \
        asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(value) : "r"(ctx), "i"(__builtin_offsetof(struct pt_regs, name))); \
        return value

static u64 argument_register(struct pt_regs *ctx, u32 offset)
{
    u64 value;
    switch (offset) {
#if CALL_PUSHES
    CASE(di); CASE(si); CASE(dx); CASE(cx); CASE(r8); CASE(r9); CASE(ax);
#else
    CASE(regs[0]); CASE(regs[1]); CASE(regs[2]); CASE(regs[3]); CASE(regs[4]); CASE(regs[5]);
#endif
    default: return register_at(ctx, offset);
    }
}

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
