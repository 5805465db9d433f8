/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Entry and return of one thread become a call. Each thread has a stack of open frames; a frame's stack pointer says
 * whether it can still be alive. Stacks grow down, so with `sp` of the hit and `f->sp` of an open frame:
 *
 *   activation  f->sp is where a function's entry found the stack. Alive while f->sp > sp. At f->sp == sp it is alive when
 *               the hit is inside it (a USDT probe of a leaf function), when it made a tail call (then the return address
 *               at sp is the kernel's trampoline), or when both were entered by this very trap; else longjmp or an exception
 *               has removed it.
 *   body        f->sp is the stack of a function's body, and both ends of the pair lie in that body: alive while the
 *               stack has not shrunk past it.
 *   loose       the two ends may lie in different functions: dead only when its start fires again at the same f->sp.
 *
 * A frame that dies without its return is counted `unwound`, never paired with another's return.
 */
#pragma once

static struct frame *frame_at(struct thread *t, u64 i)
{
    forget(i);
    return &t->frame[i & (DEPTH - 1)];
}

static struct counters *counters_of(u32 stride, u32 probe)
{
    u32 slot = bpf_get_smp_processor_id() * stride + probe;
    return counters.lookup(&slot);
}

static void close_frame(struct frame *f)
{
    if (f->has_text) {
        u64 span = f->span;
        texts.delete(&span);
    }
    f->state = DEAD;
}

static void unwind(struct thread *t, struct frame *f)
{
    struct counters *c = counters_of(t->stride, f->probe);
    if (c) {
        lock_xadd(&c->unwound, 1);
        lock_xadd(&c->in_flight, -1);
    }
    close_frame(f);
}

/* Dead frames stay where they are while an open one lies above them. */
static void trim(struct thread *t)
{
    u32 depth = t->depth;
    #pragma clang loop unroll(disable)
    for (int i = 0; i < DEPTH && depth; i++) {
        forget(depth);
        if (frame_at(t, depth - 1)->state == LIVE) break;
        depth--;
    }
    t->depth = depth;
}

/* The thread, or what it was, is gone. */
static int unwind_all(u64 id)
{
    struct thread *t = threads.lookup(&id);
    if (!t) return 0;
    #pragma clang loop unroll(disable)
    for (u32 i = 0; i < DEPTH && i < t->depth; i++) {
        struct frame *f = frame_at(t, i);
        if (f->state == LIVE) unwind(t, f);
    }
    threads.delete(&id);
    return 0;
}

/* A function is entered at `sp` in place of the one that `f` stands for: by a tail call? */
static bool left_by_tail_call(struct pt_regs *ctx)
{
    return is_trampoline(return_address(ctx));
}

/* Has another tracer a probe on what lies between the function's first byte and here? Then the trampoline in the return address's
 * place may be that tracer's, and tells nothing. Code that cannot be read has no breakpoint either. */
static bool probed_in_front(struct pt_regs *ctx, struct site *s)
{
    u64 word[4] = {}, value = 0;
    u32 moved = s->moved & 31;
    if (!moved || bpf_probe_read_user(word, moved, (void *)(PT_REGS_IP(ctx) - moved)) < 0) return false;
    #pragma unroll
    for (int i = 0; i < 4; i++) value = 3 * value + word[i];
    return (u32)(value >> 32 ^ value) != s->before;
}

static bool outlived(struct pt_regs *ctx, struct frame *f, struct site *s, u64 sp)
{
    bool function = s->binding == BINDING_ACTIVATION;
    if (f->probe == s->probe && f->sp == sp) return f->binding != BINDING_ACTIVATION || !left_by_tail_call(ctx) || probed_in_front(ctx, s);
    if (f->binding == BINDING_LOOSE) return false;
    if (f->binding == BINDING_BODY) return function ? f->sp < sp + CALL_PUSHES : f->sp < sp;
    if (f->sp != sp) return f->sp < sp;
    return function && f->ip != PT_REGS_IP(ctx) && !left_by_tail_call(ctx);
}

/* At an entry: close what longjmp, an exception or a missing end has left open. Afterwards t->depth is what is alive. */
static void settle(struct pt_regs *ctx, struct thread *t, struct site *s, u64 sp)
{
    u32 at = t->depth;
    #pragma clang loop unroll(disable)
    for (int i = 0; i < DEPTH && at; i++) {
        forget(at);
        struct frame *f = frame_at(t, at - 1);
        if (f->state == LIVE) {
            if (f->binding == BINDING_ACTIVATION && f->sp > sp) break;      /* alive, and so is all below it */
            if (outlived(ctx, f, s, sp)) unwind(t, f);
        }
        at--;
    }
    trim(t);
}

/* At a return: the open frame that it closes, or none. */
static struct frame *partner(struct thread *t, struct site *s, u64 sp)
{
    u32 at = t->depth;
    bool function = s->binding == BINDING_ACTIVATION;
    #pragma clang loop unroll(disable)
    for (int i = 0; i < DEPTH && at; i++) {
        forget(at);
        struct frame *f = frame_at(t, at - 1);
        at--;
        if (f->state != LIVE) continue;
        if (f->probe == s->probe && (!function || f->sp == sp)) return f;
        if (f->binding == BINDING_LOOSE) continue;
        if (f->sp < sp) unwind(t, f);
        else if (function && f->sp > sp && f->binding == BINDING_ACTIVATION) return 0;   /* older than this return: its entry was never seen */
    }
    return 0;
}
