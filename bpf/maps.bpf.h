/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Every map. The sizes here are those of a small plan; the loader patches them to the plan's own (probes/image.py).
 */
#pragma once

#define DEPTH 64          /* the kernel itself drops return probes past this nesting */
#define THREADS 16384

enum { DEAD, LIVE };
enum fate { FATE_RECORD, FATE_SAMPLED_OUT, FATE_RATE_LIMITED };

/* One open call of a thread. */
struct frame {
    u64 start_ktime_ns, sp, ip, span, parent;
    u32 probe;
    u8 state, binding, has_text, texts_read;   /* has_text: an entry of `texts` is ours; texts_read: CALL_TEXT flags */
    s64 arg[ARGS];
};

/* The open calls of one thread, oldest first. `fate` was decided at the root and holds for its whole trace. */
struct thread {
    u64 trace[2];
    u32 depth, stride, fate, unused;
    struct frame frame[DEPTH];
};

struct text { char text[TEXTS][TEXT]; };
struct ceiling { u64 second, records; };

BPF_TABLE("array", u32, struct site, sites, 64);                                      /* key: attach cookie */
BPF_F_TABLE("array", u32, struct counters, counters, 64, BPF_F_MMAPABLE);             /* key: cpu * stride + probe */
BPF_F_TABLE("array", u32, u64, histogram, 64 * BUCKETS, BPF_F_MMAPABLE);              /* key: counters' * BUCKETS + bucket */
BPF_F_TABLE("array", u32, struct losses, losses, 1, BPF_F_MMAPABLE);
BPF_TABLE("array", u32, struct settings, settings, 1);
BPF_TABLE("array", u32, struct ceiling, ceiling, 1);
BPF_TABLE("hash", u32, u64, scope, 32768);                                            /* key: tgid, value: bits of targets */
BPF_F_TABLE("hash", u64, struct thread, threads, THREADS, BPF_F_NO_PREALLOC);         /* key: tgid << 32 | tid */
BPF_F_TABLE("hash", u64, struct text, texts, THREADS, BPF_F_NO_PREALLOC);             /* key: span id */
BPF_ARRAY(blank_thread, struct thread, 1);                                            /* zeroes, never written: too large for the stack */
BPF_ARRAY(blank_text, struct text, 1);
BPF_RINGBUF_OUTPUT(records, 64);                                                      /* struct call */
BPF_RINGBUF_OUTPUT(text_records, 64);                                                 /* struct call_text */
