/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Keyed calls: their two ends may run on different threads or processes, so each is a record of its own, and user space pairs them
 * by their key (otel_usdt/spans/pairing.py). An end whose record is lost is counted as an entry without room, or a return without entry.
 */
#pragma once

#define KEY_BYTES WORD            /* of a string that is a key: longer ones are told apart by so many */
#define FNV_OFFSET 0xcbf29ce484222325ULL   /* FNV-1a, 64 bits (RFC 9923) */
#define FNV_PRIME 0x100000001b3ULL

static bool hash_string(struct thread *t, u64 address, u64 *key)
{
    volatile struct scanning *now = &t->scanning;   /* in memory: see parse_traceparent */
    s64 length = bpf_probe_read_user_str(t->scan, KEY_BYTES, (void *)address);
    if (length < 0) return false;
    now->length = length;
    now->word = FNV_OFFSET;
    #pragma clang loop unroll(disable)
    for (u32 i = 0; i < KEY_BYTES; i++) {
        u8 c = *scan_at(t, i);
        if (i >= now->length || !c) break;
        now->word = (now->word ^ c) * FNV_PRIME;
    }
    *key = now->word;
    return true;
}

static bool read_key(struct pt_regs *ctx, struct site *s, struct counters *c, struct thread *t, u64 *key)
{
    *key = read_argument(ctx, &s->key);
    if (s->keyed == KEYED_NUMBER || hash_string(t, *key, key)) return true;
    lock_xadd(&c->text_lost, 1);
    return false;
}

/* The frame is filled, but is not pushed: the call does not end with what this thread does. */
static void begin_keyed(struct pt_regs *ctx, struct site *s, struct counters *c, struct thread *t, struct frame *f, u64 id)
{
    u64 key = 0;
    struct call *r = read_key(ctx, s, c, t, &key) ? records.ringbuf_reserve(sizeof *r) : 0;
    if (!r) {
        lock_xadd(&c->map_full, 1);
        return;
    }
    f->start_ktime_ns = bpf_ktime_get_ns();
    fill(r, t, f, id, key);
    r->depth = t->depth + 1;
    r->flags |= CALL_ENTER;
    if (f->fate != FATE_RECORD) r->flags |= f->fate == FATE_SAMPLED_OUT ? CALL_SAMPLED_OUT : CALL_RATE_LIMITED;
    records.ringbuf_submit(r, c->entries % WAKE_EVERY ? NO_WAKEUP : FORCE_WAKEUP);
}

static void end_keyed(struct pt_regs *ctx, struct site *s, struct counters *c, u64 id, u64 now)
{
    u64 key = 0;
    struct thread *t = this_thread(id, s->stride);
    struct call *r = 0;
    if (t && read_key(ctx, s, c, t, &key)) r = records.ringbuf_reserve(sizeof *r);
    lock_xadd(&c->returns, 1);
    if (!r) {
        lock_xadd(&c->orphaned, 1);
        return;
    }
    __builtin_memset(r, 0, sizeof *r);
    if (t->depth) {
        struct frame *over = frame_at(t, t->depth - 1);
        r->trace[0] = over->trace[0];
        r->trace[1] = over->trace[1];
        r->span = over->fate == FATE_RECORD ? over->span : 0;
    }
    r->start_ktime_ns = now;
    r->duration_ns = key;
    r->thread = id;
    r->probe = s->probe;
    r->flags = CALL_RETURN;
    read_arguments(ctx, s, c, r->arg, 0);
    records.ringbuf_submit(r, c->returns % WAKE_EVERY ? NO_WAKEUP : FORCE_WAKEUP);
}
