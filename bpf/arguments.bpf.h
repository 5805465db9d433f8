/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Reading a probe's arguments by the data of its row.
 */
#pragma once

/* clang drops a bound that it can prove, the verifier needs it: hide the value from clang first. */
#define forget(x) asm volatile("" : "+r"(x))

#define STRING_(x) #x
#define STRING(x) STRING_(x)

static bool wants(enum wanted what)
{
    u64 wanted;
    asm volatile("%0 = " STRING(WANTED_MARK) " ll" : "=r"(wanted));
    return wanted & what;
}

static u64 read_argument(struct pt_regs *ctx, struct argument *a)
{
    u64 value = a->offset;
    u32 size = a->size & 15;
    if (a->how == HOW_REGISTER) value = argument_register(ctx, a->reg);
    if (a->how == HOW_MEMORY) {
        u64 address = register_at(ctx, a->reg) + a->offset;
        if (a->scale) address += register_at(ctx, a->index) * a->scale;
        value = 0;
        if (size <= sizeof value) bpf_probe_read_user(&value, size, (void *)address);
    }
    u32 shift = 64 - 8 * size;
    if (shift < 64) value = a->is_signed ? (u64)((s64)(value << shift) >> shift) : value << shift >> shift;
    return value;
}

/* Integers of this row into arg[]; strings into text and their CALL_TEXT flags. Returns the flags. */
static u16 read_arguments(struct pt_regs *ctx, struct site *s, struct counters *c, s64 *arg, struct text *text)
{
    u16 flags = 0;
    #pragma clang loop unroll(disable)
    for (u32 i = 0; i < READS; i++) {
        if (i >= s->reads) break;
        u64 at = i;
        forget(at);
        if (at >= READS) break;
        struct argument *a = &s->argument[at];
        u64 value = read_argument(ctx, a), slot = a->slot;
        if (!a->is_string) {
            forget(slot);
            arg[slot & (ARGS - 1)] = value;
        } else if (wants(WANT_TEXT) && text) {
            u64 max = a->max;
            forget(slot);
            forget(max);
            if (max > TEXT) max = TEXT;
            slot &= TEXTS - 1;
            if (bpf_probe_read_user_str(text->text[slot], max, (void *)value) >= 0) flags |= CALL_TEXT0 << slot;
            else lock_xadd(&c->text_lost, 1);
        }
    }
    return flags;
}
