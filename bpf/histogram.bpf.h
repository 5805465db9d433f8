/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Durations are counted in the cells of a ladder of bounds (otel_usdt/ladder.py), each (lower, upper]: found in two steps, so that any
 * bounds cost one comparison.
 */
#pragma once

/* Eight an octave, each (lower, upper]: the three bits after the leading one of d - 1. */
static u32 step_of(u64 duration)
{
    u64 v = duration ? duration - 1 : 0, x = v;
    u32 log = 0;
    if (v < 8) return v;
    if (x >> 32) { log += 32; x >>= 32; }
    if (x >> 16) { log += 16; x >>= 16; }
    if (x >> 8) { log += 8; x >>= 8; }
    if (x >> 4) { log += 4; x >>= 4; }
    if (x >> 2) { log += 2; x >>= 2; }
    if (x >> 1) log += 1;
    return log << 3 | (v >> (log - 3) & 7);
}

/* One more in the cell of `row`. */
static void count_in(struct site *s, u32 row, u64 duration)
{
    u32 which = s->ladder;
    u64 at = step_of(duration);
    struct ladder *ladder = ladders.lookup(&which);
    if (!ladder) return;
    forget(at);
    struct step *step = &ladder->step[at & (STEPS - 1)];
    u32 slot = (bpf_get_smp_processor_id() * s->rows + row) * s->cells + step->cell + (duration > step->bound);
    u64 *count = histogram.lookup(&slot);
    if (count) lock_xadd(count, 1);
}

static void measure(struct counters *c, u64 duration)
{
    lock_xadd(&c->sum_ns, duration);
    /* Not atomic: a thread preempted between the two instructions may lose another's extreme, never a count. */
    if (duration > c->max_ns) c->max_ns = duration;
    if (~duration > c->min_ns_inverted) c->min_ns_inverted = ~duration;
}
