/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Every map. The sizes here are those of a small plan; the loader patches them to the plan's own (probes/image.py).
 */
#pragma once

#define DEPTH 64          /* the kernel itself drops return probes past this nesting */
#define THREADS 16384
#define SCAN 512          /* bytes of a statement's beginning or end that may hold the comment */
#define SCAN_PAD 64       /* so that what begins in them can be read on */

enum { DEAD, LIVE };
enum fate { FATE_RECORD, FATE_SAMPLED_OUT, FATE_RATE_LIMITED };

/* One open call of a thread. `span` is what calls within it have for their parent; 0: they find one elsewhere. `fate` was decided where
 * the trace began, or entered this thread, and is inherited. */
struct frame {
    u64 start_ktime_ns, sp, ip, span, parent, link;
    u64 trace[2];
    u32 probe;
    u8 state, binding, has_text, fate;         /* has_text: an entry of `texts` is ours */
    u16 flags;                                 /* CALL_... */
    u8 from_obi, unused[5];
    s64 arg[ARGS];
};

/* OBI's context of a thread, as it lies in the map that it pins: ids as on the wire. */
struct context { u64 trace[2], span; };

/* The open calls of one thread, oldest first. */
struct thread {
    u32 depth, stride;
    u64 random[2];                             /* the state of `random64` */
    struct context first;                      /* of OBI's contexts: the first that was seen of its trace */
    struct frame frame[DEPTH];
    struct scanning { u64 word; u32 length, at, within, version; } scanning;
    char scan[SCAN + SCAN_PAD];                /* text in which a traceparent is looked for: ours alone, whoever preempts us */
};

struct text { char text[TEXTS][TEXT]; };
struct ceiling { u64 second, records; };
struct word { char text[WORD]; };

BPF_TABLE("array", u32, struct site, sites, 64);                                      /* key: attach cookie */
BPF_F_TABLE("array", u32, struct counters, counters, 64, BPF_F_MMAPABLE);             /* key: cpu * stride + probe */
BPF_F_TABLE("array", u32, u64, histogram, 64 * 288, BPF_F_MMAPABLE);                  /* key: (cpu * rows + row) * cells + cell */
BPF_TABLE("array", u32, struct ladder, ladders, 4);
BPF_TABLE("array", u32, struct dimensions, dimensions, 32);                           /* key: span probe */
BPF_TABLE("hash", struct series_key, u32, series_rows, 2);                            /* value: the row of `histogram` */
BPF_F_TABLE("array", u32, struct series, series, 1, BPF_F_MMAPABLE);                  /* key: row - span probes */
BPF_F_TABLE("array", u32, struct extent, extents, 32, BPF_F_MMAPABLE);                /* key: cpu * rows + row */
BPF_TABLE("hash", u64, struct word, words, 1);                                        /* key: hash */
BPF_F_TABLE("array", u32, struct losses, losses, 1, BPF_F_MMAPABLE);
BPF_TABLE("array", u32, struct settings, settings, 1);
BPF_TABLE("array", u32, struct ceiling, ceiling, 1);
BPF_TABLE("hash", u32, u64, scope, 32768);                                            /* key: tgid, value: bits of targets */
BPF_F_TABLE("hash", u64, struct thread, threads, THREADS, BPF_F_NO_PREALLOC);         /* key: tgid << 32 | tid */
BPF_F_TABLE("hash", u64, struct text, texts, THREADS, BPF_F_NO_PREALLOC);             /* key: span id */
BPF_ARRAY(blank_thread, struct thread, 1);                                            /* zeroes, never written: too large for the stack */
BPF_ARRAY(blank_text, struct text, 1);
BPF_TABLE("lru_hash", u64, struct context, obi_template, 1);                           /* the shape of OBI's map; never filled */
BPF_ARRAY_OF_MAPS(contexts, "obi_template", 1);                                       /* slot 0: OBI's map, while there is one */
BPF_RINGBUF_OUTPUT(records, 64);                                                      /* struct call */
BPF_RINGBUF_OUTPUT(text_records, 64);                                                 /* struct call_text */
