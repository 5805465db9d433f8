/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Which trace a call belongs to, and under which span. The first that there is, of those that the row's `join` admits:
 *
 *   argument   a W3C traceparent among the probe's arguments, or in a comment of the SQL that one points to
 *   enclosing  the probed call that is open on this thread
 *   OBI        the request that OpenTelemetry eBPF Instrumentation sees this thread serve
 *   new        a trace of its own; where the row does not admit that, the call is sampled out
 */
#pragma once

#define CHUNK (SCAN - 1)          /* bytes of text that one read into `scan` brings: the last is a NUL */
#define CHUNKS 32                 /* a statement's end is looked for in so many: 16 KiB */
#define TRACEPARENT_BYTES 55      /* W3C Trace Context, 3.2.2: 00-(32 hex)-(16 hex)-(2 hex) */
#define SLASH_STAR 0x2a2f         /* as little-endian numbers */
#define TRACEPAR 0x7261706563617274ULL
#define ENT_EQUALS 0x3d746e65

/* xoroshiro128++ 1.0 (Blackman and Vigna, 2019), seeded by the kernel once a thread: a helper's call for each id is dear. No id is 0. */
static u64 random64(struct thread *t)
{
    u64 a = t->random[0], b = t->random[1], sum = a + b, made = (sum << 17 | sum >> 47) + a;
    b ^= a;
    t->random[0] = (a << 49 | a >> 15) ^ b ^ b << 21;
    t->random[1] = b << 28 | b >> 36;
    return made ? made : 1;
}

static char *scan_at(struct thread *t, u64 i)
{
    forget(i);
    return &t->scan[i & (SCAN - 1)];
}

/* The value of a lower-case hex digit; more than 15 for anything else (W3C Trace Context has no upper case). */
static u8 hex(u8 c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 16;
}

/* What stands behind a whole version 00 value; later versions may go on with a dash. */
static bool ends_value(u8 c, u32 version)
{
    return !c || c == '\'' || c == '"' || c == '%' || c == ',' || c == '*' || c == ' ' || c == '\\' || (version && c == '-');
}

/* The traceparent at scan[at], its dashes perhaps percent-encoded, into the frame. False: malformed.
 * What is known so far is kept in memory: in registers, the verifier would follow each of its values through all that is left. */
static bool parse_traceparent(struct thread *t, struct frame *f)
{
    volatile struct scanning *now = &t->scanning;
    now->word = 0;
    #pragma clang loop unroll(disable)
    for (u32 i = 0; i < TRACEPARENT_BYTES; i++) {
        u32 at = now->at;
        u8 c = *scan_at(t, at);
        now->at = at + 1;
        if (i == 2 || i == 35 || i == 52) {
            if (c == '%' && *scan_at(t, at + 1) == '2' && (*scan_at(t, at + 2) | 0x20) == 'd') now->at = at + 3;
            else if (c != '-') return false;
            now->word = 0;
            continue;
        }
        u8 digit = hex(c);
        if (digit > 15) return false;
        u64 word = now->word << 4 | digit;
        now->word = word;
        if (i == 1) now->version = word;
        if (i == 18) f->trace[0] = word;
        if (i == 34) f->trace[1] = word;
        if (i == 51) f->parent = word;
    }
    f->fate = now->word & 1 ? FATE_RECORD : FATE_SAMPLED_OUT;
    return now->version != 0xff && (f->trace[0] | f->trace[1]) && f->parent && ends_value(*scan_at(t, now->at), now->version);
}

/* The value of the last comment's traceparent in scan[0..length): sets `at`; false when there is none. The key is compared as it stands. */
static bool find_in_comment(struct thread *t)
{
    volatile struct scanning *now = &t->scanning;
    now->at = now->within = 0;
    #pragma clang loop unroll(disable)
    for (u32 i = 0; i < SCAN; i++) {
        if (i >= now->length) break;
        char *here = scan_at(t, i), before = *scan_at(t, (u64)i - 1);
        if (*here == '*') {
            if (before == '/') now->within = 1;
            else if (here[1] == '/') now->within = 0;
        } else if (*here == 't' && now->within && (before == '*' || before == ',' || before == ' ')) {
            if (!((*(u64 *)here ^ TRACEPAR) | (*(u32 *)(here + 8) ^ ENT_EQUALS))) now->at = i + 12;
        }
    }
    u32 at = now->at;
    if (!at) return false;
    u8 quote = *scan_at(t, at);
    if (quote == '\\') quote = *scan_at(t, ++at);
    if (quote == '\'' || quote == '"') at++;
    else if (quote == '%' && *scan_at(t, at + 1) == '2' && *scan_at(t, at + 2) == '7') at += 3;
    now->at = at;
    return true;
}

/* The part of a statement that may hold the comment into `scan`: the beginning if that is one, else the end. Returns its length, 0 when
 * there is no comment at either place, negative when the text cannot be read. */
static s64 read_commented(struct thread *t, u64 address)
{
    s64 got = bpf_probe_read_user_str(t->scan, SCAN, (void *)address);
    if (got <= 1) return got < 0 ? got : 0;
    if (*(u16 *)t->scan == SLASH_STAR || got < SCAN) return got - 1;
    u64 length = CHUNK;
    #pragma clang loop unroll(disable)
    for (u32 i = 1; i < CHUNKS && got == SCAN; i++) {
        got = bpf_probe_read_user_str(t->scan, SCAN, (void *)(address + length));
        if (got < 0) return got;
        length += got - 1;
    }
    if (got == SCAN) return 0;
    got = bpf_probe_read_user_str(t->scan, SCAN, (void *)(address + length - CHUNK));
    return got > 0 ? got - 1 : got;
}

static bool join_argument(struct pt_regs *ctx, struct site *s, struct counters *c, struct thread *t, struct frame *f)
{
    u64 address = read_argument(ctx, &s->traceparent);
    s64 length = s->in_comment ? read_commented(t, address) : bpf_probe_read_user_str(t->scan, SCAN, (void *)address);
    if (length < 0) {
        lock_xadd(&c->text_lost, 1);
        return false;
    }
    t->scanning.length = length;
    t->scanning.at = 0;
    if (s->in_comment ? !find_in_comment(t) : length <= 1) return false;
    if (!parse_traceparent(t, f)) {
        lock_xadd(&c->bad_traceparent, 1);
        f->parent = 0;
        f->fate = FATE_RECORD;
        return false;
    }
    lock_xadd(&c->joined_argument, 1);
    f->flags |= CALL_REMOTE;
    return true;
}

/* OBI's context of this thread, as host-order numbers; false where there is none. */
static bool obi_context(u64 id, struct context *found)
{
    u32 slot = 0;
    void *map = contexts.lookup(&slot);
    struct context *now = map ? bpf_map_lookup_elem(map, &id) : 0;
    if (!now) return false;
    found->trace[0] = __builtin_bswap64(now->trace[0]);
    found->trace[1] = __builtin_bswap64(now->trace[1]);
    found->span = __builtin_bswap64(now->span);
    return (found->trace[0] | found->trace[1]) && found->span;
}

/* While a request makes calls of its own, OBI's entry names those: the first span seen of a trace is the request's. */
static bool join_obi(struct counters *c, struct thread *t, struct frame *f, u64 id)
{
    struct context now;
    if (!obi_context(id, &now)) return false;
    if (now.trace[0] != t->first.trace[0] || now.trace[1] != t->first.trace[1]) t->first = now;
    f->trace[0] = now.trace[0];
    f->trace[1] = now.trace[1];
    f->parent = t->first.span;
    if (now.span != f->parent) f->link = now.span;
    f->from_obi = true;
    f->flags |= CALL_REMOTE;
    lock_xadd(&c->joined_obi, 1);
    return true;
}

/* At the return of a call that has joined OBI's trace: does the thread still serve it? */
static void check_obi(struct frame *f, u64 id)
{
    struct context now;
    if (!obi_context(id, &now) || now.trace[0] != f->trace[0] || now.trace[1] != f->trace[1]) f->flags |= CALL_DISAGREES;
    else if (now.span != f->parent) f->link = now.span;
}

/* Decided here: trace, parent, span, flags and fate of the call that begins in frame `f` above `over`, the call that is open, or 0. */
static void join_trace(struct pt_regs *ctx, struct site *s, struct counters *c, struct thread *t, struct frame *f, struct frame *over, u64 id)
{
    bool within = over && over->span && s->join & JOIN_ENCLOSING;
    f->flags = f->from_obi = 0;
    f->link = f->parent = f->span = 0;
    f->fate = FATE_RECORD;
    if (s->mode != MODE_SPANS) {
        /* It makes no span: calls within it belong where it does. */
        if (!within) return;
        f->trace[0] = over->trace[0];
        f->trace[1] = over->trace[1];
        f->span = over->span;
        f->fate = over->fate;
        return;
    }
    f->span = random64(t);
    if (wants(WANT_TRACEPARENT) && s->join & JOIN_ARGUMENT && s->traceparent.how != HOW_NONE && join_argument(ctx, s, c, t, f)) {
        if (f->fate == FATE_RECORD && over_ceiling(false)) f->fate = FATE_RATE_LIMITED;
        return;
    }
    if (within) {
        f->trace[0] = over->trace[0];
        f->trace[1] = over->trace[1];
        f->parent = over->span;
        f->fate = over->fate;
        return;
    }
    if (!(s->join & JOIN_OBI && join_obi(c, t, f, id))) {
        f->trace[0] = random64(t);
        f->trace[1] = random64(t);
        if (!(s->join & JOIN_NEW)) f->fate = FATE_SAMPLED_OUT;
    }
    /* By the trace id, so that all threads that serve one request decide alike, and as the SDKs' TraceIdRatioBased samplers do, OBI's too:
     * by the id's right half, seen as a big-endian number. */
    if (f->fate == FATE_RECORD && (!s->sample_below || f->trace[1] >> 32 > s->sample_below)) f->fate = FATE_SAMPLED_OUT;
    if (f->fate == FATE_RECORD && over_ceiling(false)) f->fate = FATE_RATE_LIMITED;
}
