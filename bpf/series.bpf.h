/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Series: the calls of one span probe counted apart, by arguments and by failure. A series has a row of `histogram` of its own, up to a
 * number that the plan says; calls of all further ones are counted in the span probe's own row, so the sum over its rows is every call.
 */
#pragma once

#define CLAIM 2           /* in place of `failed`: not a series, but a row that is taken */
#define NEAR 8            /* rows that are looked at again behind the last: one may have been given back */
#define TRIES 64

/* A string's hash in place of a number, and the string where the series' name is made. One that cannot be read is 0: no value. */
static void read_words(struct pt_regs *ctx, struct site *s, struct thread *t, s64 *arg)
{
    #pragma clang loop unroll(disable)
    for (u32 i = 0; i < TEXTS; i++) {
        if (i >= s->words) break;
        u64 at = i, hash = 0;
        forget(at);
        struct argument *a = &s->word[at & (TEXTS - 1)];
        u64 slot = a->slot;
        __builtin_memset(t->scan, 0, WORD);       /* what is left of longer texts is nobody's name */
        if (!hash_string(t, read_argument(ctx, a), &hash)) continue;
        forget(slot);
        arg[slot & (ARGS - 1)] = hash;
        if (!words.lookup(&hash)) words.insert(&hash, (struct word *)t->scan);
    }
}

static bool has_failed(struct dimensions *d, s64 *arg)
{
    u64 slot = d->error_slot;
    forget(slot);
    s64 value = arg[slot & (ARGS - 1)], limit = d->error_value;
    u8 when = d->error_when;
    if (when == WHEN_LESS) return value < limit;
    if (when == WHEN_LESS_OR_EQUAL) return value <= limit;
    if (when == WHEN_EQUAL) return value == limit;
    if (when == WHEN_NOT_EQUAL) return value != limit;
    if (when == WHEN_GREATER_OR_EQUAL) return value >= limit;
    return when == WHEN_GREATER && value > limit;
}

/* The strings of a new series beside its row. False when one has found no room. */
static bool name_series(struct dimensions *d, struct series *told)
{
    u64 texts_told = 0;
    #pragma unroll
    for (int i = 0; i < ARGS; i++) {
        u64 hash = told->key.value[i];
        if (!(d->words & 1 << i)) continue;
        struct word *word = hash ? words.lookup(&hash) : 0;
        forget(texts_told);
        char *text = told->text[texts_told & (TEXTS - 1)];
        if (word) __builtin_memcpy(text, word->text, WORD);
        else if (hash) return false;
        texts_told++;
    }
    return true;
}

/*
 * Rare: once a series. Processors may race for a row, and for the same series: who is later gives its row back. A call for which no row is
 * free, though it is its own series that has just taken the last one, is counted with the overflow: waiting would harm the program.
 */
static u32 new_series(struct site *s, struct dimensions *d, struct series_key *key)
{
    struct series_key claim = {.probe = key->probe, .failed = CLAIM};
    u32 start = d->used, row = 0, at = 0;
    bool claimed = false;
    if (start >= d->room) goto theirs;
    start = start > NEAR ? start - NEAR : 0;
    #pragma clang loop unroll(disable)
    for (u32 i = 0; i < TRIES; i++) {
        at = start + i;
        if (at >= d->room) break;
        row = d->first + at;
        claim.value[0] = row;
        claimed = series_rows.insert(&claim, &row) == 0;
        if (claimed) break;
    }
    if (!claimed) goto theirs;
    at = row - s->stride;
    struct series *told = series.lookup(&at);
    if (told) {
        told->key = *key;
        if (name_series(d, told) && series_rows.insert(key, &row) == 0) {
            lock_xadd(&d->used, 1);
            return row;
        }
    }
    series_rows.delete(&claim);
theirs:;
    u32 *theirs = series_rows.lookup(key);
    return theirs ? *theirs : key->probe;
}

/* The row in which a call with these numbers is counted. */
static u32 row_of(struct site *s, s64 *arg)
{
    u32 probe = s->probe;
    struct dimensions *d = dimensions.lookup(&probe);
    if (!d) return probe;
    struct series_key key = {.probe = probe, .failed = has_failed(d, arg)};
    #pragma unroll
    for (int i = 0; i < ARGS; i++)
        if (d->slots & 1 << i || (key.failed && d->error_by_value && d->error_slot == i)) key.value[i] = arg[i];
    u32 *row = series_rows.lookup(&key);
    return row ? *row : new_series(s, d, &key);
}

/* Sum, least and most of one row. */
static void measure_series(struct site *s, u32 row, u64 duration)
{
    u32 slot = bpf_get_smp_processor_id() * s->rows + row;
    struct extent *e = extents.lookup(&slot);
    if (!e) return;
    lock_xadd(&e->sum_ns, duration);
    if (duration > e->max_ns) e->max_ns = duration;         /* as in `measure` */
    if (~duration > e->min_ns_inverted) e->min_ns_inverted = ~duration;
}
