/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * One static program for every probe site. A site is a row of `sites`, chosen by the attach cookie (kernel 5.15); all that
 * differs between sites is data. A hit: find the row, check the scope, then open a frame, close one, or just count.
 */
#include <uapi/linux/ptrace.h>
#include "record.h"
#include "maps.bpf.h"
#include "arch.bpf.h"
#include "arguments.bpf.h"
#include "scope.bpf.h"
#include "pairing.bpf.h"

#define SECOND_NS 1000000000
#define NO_WAKEUP 1       /* BPF_RB_NO_WAKEUP: the reader comes by a timer, for a wakeup costs the target 50 times what a record does */
#define FORCE_WAKEUP 2    /* BPF_RB_FORCE_WAKEUP: one record in WAKE_EVERY of a probe and CPU, so that a burst does not wait for the timer */
#define WAKE_EVERY 1024
#define WAKE_EVERY_TEXT 256

/* True when this second's records are used up. Readers race by at most a record a CPU. */
static bool over_ceiling(bool take)
{
    u32 zero = 0;
    struct settings *known = settings.lookup(&zero);
    struct ceiling *used = ceiling.lookup(&zero);
    if (!known || !used || !known->records_per_second) return false;
    u64 second = bpf_ktime_get_ns() / SECOND_NS;
    if (used->second != second) {
        used->second = second;
        used->records = 0;
    }
    if (used->records >= known->records_per_second) return true;
    if (take) lock_xadd(&used->records, 1);
    return false;
}

#include "joining.bpf.h"

static struct thread *this_thread(u64 id, u32 stride)
{
    struct thread *t = threads.lookup(&id);
    u32 zero = 0;
    if (t) return t;
    struct thread *empty = blank_thread.lookup(&zero);
    if (!empty || threads.insert(&id, empty) < 0) return 0;
    t = threads.lookup(&id);
    if (!t) return 0;
    t->stride = stride;
    t->random[0] = (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
    t->random[1] = (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32() | 1;    /* one that is not 0 */
    return t;
}

/* Straight into the map's own memory: a scratch buffer of the CPU could be overwritten by the thread that preempts this one. */
static struct text *text_for(u64 span, struct counters *c)
{
    u32 zero = 0;
    struct text *empty = blank_text.lookup(&zero);
    struct text *text = empty && texts.insert(&span, empty) == 0 ? texts.lookup(&span) : 0;
    if (!text) lock_xadd(&c->text_lost, 1);
    return text;
}

/* For what the return reads: the entry's text, or a new one where the entry read none. */
static struct text *text_of(struct site *s, struct counters *c, struct frame *f)
{
    u64 span = f->span;
    if (!wants(WANT_TEXT) || !s->has_text) return 0;
    if (f->has_text) return texts.lookup(&span);
    struct text *text = text_for(span, c);
    f->has_text = text != 0;
    return text;
}

static void fill(struct call *r, struct thread *t, struct frame *f, u64 id, u64 duration)
{
    r->trace[0] = f->trace[0];
    r->trace[1] = f->trace[1];
    r->span = f->span;
    r->parent = f->parent;
    r->link = f->link;
    r->start_ktime_ns = f->start_ktime_ns;
    r->duration_ns = duration;
    r->thread = id;
    r->probe = f->probe;
    r->depth = t->depth;
    r->flags = f->flags;
    #pragma unroll
    for (int i = 0; i < ARGS; i++) r->arg[i] = f->arg[i];
}

#include "keyed.bpf.h"
#include "histogram.bpf.h"
#include "series.bpf.h"

/* True when a frame was opened. */
static bool enter(struct pt_regs *ctx, struct site *s, struct counters *c, u64 id)
{
    struct thread *t = this_thread(id, s->stride);
    if (!t) {
        lock_xadd(&c->map_full, 1);
        return false;
    }
    u64 sp = PT_REGS_SP(ctx);
    if (t->depth) settle(ctx, t, s, sp);
    u32 depth = t->depth;
    if (depth >= DEPTH) {
        lock_xadd(&c->too_deep, 1);
        return false;
    }
    struct frame *f = frame_at(t, depth);
    join_trace(ctx, s, c, t, f, depth ? frame_at(t, depth - 1) : 0, id);
    f->sp = sp;
    f->ip = PT_REGS_IP(ctx);
    f->probe = s->probe;
    f->binding = s->binding;
    f->has_text = 0;
    f->state = LIVE;
    #pragma unroll
    for (int i = 0; i < ARGS; i++) f->arg[i] = 0;
    if (s->reads) {
        struct text *text = wants(WANT_TEXT) && s->has_text && s->mode == MODE_SPANS && f->fate == FATE_RECORD ? text_for(f->span, c) : 0;
        f->has_text = text != 0;
        f->flags |= read_arguments(ctx, s, c, f->arg, text);
    }
    if (wants(WANT_SERIES) && s->words) read_words(ctx, s, t, f->arg);
    if (wants(WANT_KEYS) && s->keyed) {
        begin_keyed(ctx, s, c, t, f, id);
        return false;
    }
    t->depth = depth + 1;
    lock_xadd(&c->in_flight, 1);
    f->start_ktime_ns = bpf_ktime_get_ns();          /* last: our own time is not the target's */
    return true;
}

static bool record(struct thread *t, struct site *s, struct counters *c, struct frame *f, u64 id, u64 duration)
{
    if (!wants(WANT_TEXT) || !s->has_text) {
        struct call *r = records.ringbuf_reserve(sizeof *r);
        if (!r) return false;
        fill(r, t, f, id, duration);
        records.ringbuf_submit(r, c->recorded % WAKE_EVERY ? NO_WAKEUP : FORCE_WAKEUP);
        return true;
    }
    struct call_text *r = text_records.ringbuf_reserve(sizeof *r);
    if (!r) return false;
    fill(&r->call, t, f, id, duration);
    u64 span = f->span;
    struct text *text = f->has_text ? texts.lookup(&span) : 0;
    if (text) __builtin_memcpy(r->text, text->text, sizeof r->text);
    else r->call.flags &= ~(CALL_TEXT0 | CALL_TEXT1);
    text_records.ringbuf_submit(r, c->recorded % WAKE_EVERY_TEXT ? NO_WAKEUP : FORCE_WAKEUP);
    return true;
}

static void leave(struct pt_regs *ctx, struct site *s, struct counters *c, u64 id, u64 now)
{
    if (wants(WANT_KEYS) && s->keyed) {
        end_keyed(ctx, s, c, id, now);
        return;
    }
    struct thread *t = threads.lookup(&id);
    struct frame *f = t && t->depth ? partner(t, s, PT_REGS_SP(ctx) - s->sp_bias) : 0;
    if (!f) {
        if (t) trim(t);
        if (s->role == ROLE_LAST) return;
        lock_xadd(&c->returns, 1);
        lock_xadd(&c->orphaned, 1);
        return;
    }
    lock_xadd(&c->returns, 1);
    u64 duration = now > f->start_ktime_ns ? now - f->start_ktime_ns : 0;
    lock_xadd(&c->calls, 1);
    lock_xadd(&c->in_flight, -1);
    if (s->mode != MODE_COUNT) {
        u32 row = s->probe;
        if (wants(WANT_SERIES) && s->apart) {
            if (s->reads) read_arguments(ctx, s, c, f->arg, 0);
            if (s->words) read_words(ctx, s, t, f->arg);
            row = row_of(s, f->arg);
            measure_series(s, row, duration);
        }
        count_in(s, row, duration);
        measure(c, duration);
    }
    if (s->mode == MODE_SPANS) {
        if (duration < s->min_duration_ns) lock_xadd(&c->too_short, 1);
        else if (f->fate == FATE_SAMPLED_OUT) lock_xadd(&c->sampled_out, 1);
        else if (f->fate == FATE_RATE_LIMITED || over_ceiling(true)) lock_xadd(&c->rate_limited, 1);
        else {
            if (f->from_obi) check_obi(f, id);
            if (s->reads) f->flags |= read_arguments(ctx, s, c, f->arg, text_of(s, c, f));
            if (record(t, s, c, f, id, duration)) lock_xadd(&c->recorded, 1);
            else lock_xadd(&c->ring_full, 1);
        }
    }
    close_frame(f);
    trim(t);
}

/* True when the hit has opened a frame. */
static bool hit(struct pt_regs *ctx, u32 row)
{
    struct site *s = sites.lookup(&row);
    u8 role = s ? *(volatile u8 *)&s->role : ROLE_OFF;   /* once: rows are switched while calls go on, and an entry that is counted is opened */
    if (!s || role == ROLE_OFF) return false;
    bool ends = wants(WANT_CALLS) && (role == ROLE_RETURN || role == ROLE_LAST);
    u64 now = ends ? bpf_ktime_get_ns() : 0;         /* first: our own time is not the target's */
    u64 id = bpf_get_current_pid_tgid();
    struct counters *c = counters_of(s->stride, s->probe);
    if (!c) return false;
    if (!in_scope(s, id >> 32)) {
        lock_xadd(&c->filtered, 1);
        return false;
    }
    if (ends) {
        leave(ctx, s, c, id, now);
        return false;
    }
    lock_xadd(&c->entries, 1);
    return wants(WANT_CALLS) && role == ROLE_ENTER && enter(ctx, s, c, id);
}

int on_site(struct pt_regs *ctx)
{
    hit(ctx, bpf_get_attach_cookie(ctx));
    return 0;
}

/* A function's entry and return by one link (uprobe_multi's session form); the cookie has a row for each. For a call that has opened no
 * frame, being out of scope or without room, the entry returns 1, and the kernel sets no return probe up: what is not ours pays half. */
int on_session(struct pt_regs *ctx)
{
    u64 rows = bpf_get_attach_cookie(ctx);
    bool returns = bpf_get_func_ip(ctx) != PT_REGS_IP(ctx);
    return !hit(ctx, returns ? rows >> 32 : rows);
}

/* sched_process_exit, in the thread that ends: by exit, by a signal, or because another thread called execve. */
int on_exit(void *ctx) { return unwind_all(bpf_get_current_pid_tgid()); }

/* sched_process_exec: the old program's frames are gone; the thread may have had another number (fs/exec.c, de_thread). */
int on_exec(void *ctx)
{
    u32 zero = 0, old = 0;
    struct settings *known = settings.lookup(&zero);
    if (!known || bpf_probe_read_kernel(&old, sizeof old, ctx + (known->exec_old_pid & 0xff)) < 0) return 0;
    return unwind_all(bpf_get_current_pid_tgid() >> 32 << 32 | old);
}
