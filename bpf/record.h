/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * What crosses between the kernel and user space, and nothing else: the one description of rows, records and counters.
 * otel_usdt/probes/rows.py and otel_usdt/stream/records.py mirror it; a test compiles this file and compares every offset.
 */
#pragma once

#define ARGS 4            /* integers that one record carries */
#define TEXTS 2           /* strings that one record carries */
#define TEXT 256          /* bytes of each, its NUL included */
#define STEPS 512         /* by which a duration finds its cell: eight an octave over all of u64 */
#define READS (ARGS + TEXTS)
#define WORD 64           /* bytes kept of a string that is a dimension, its NUL included */

/* OFF: attached, but not to be heeded. LAST: a return after the last entry; it ends calls that are open, and is no orphan. */
enum role { ROLE_OFF, ROLE_ENTER, ROLE_RETURN, ROLE_POINT, ROLE_LAST };
enum how { HOW_NONE, HOW_REGISTER, HOW_MEMORY, HOW_CONSTANT };
enum scope { SCOPE_ANY, SCOPE_TGID, SCOPE_MAP };
enum binding { BINDING_LOOSE, BINDING_BODY, BINDING_ACTIVATION };
enum mode { MODE_COUNT, MODE_HISTOGRAM, MODE_SPANS };

/* How the two ends of a call that may change threads are told to be of one call: by nothing, by a number, by a string's hash. */
enum keyed { KEYED_NOT, KEYED_NUMBER, KEYED_STRING };

/* Where a call may find the trace that it belongs to, in this order; bits of `join`. */
enum join { JOIN_ARGUMENT = 1, JOIN_ENCLOSING = 2, JOIN_OBI = 4, JOIN_NEW = 8 };

/* What the plan at hand wants of the program. The loader puts it in as a constant, so that the verifier neither follows nor keeps the rest. */
enum wanted { WANT_CALLS = 1, WANT_TEXT = 2, WANT_TRACEPARENT = 4, WANT_KEYS = 8, WANT_SERIES = 16 };
#define WANTED_MARK 0x3a6465746e61773a   /* stands in the image where the constant goes */

/* When a call has failed: its result compares so with a number. */
enum when { WHEN_NEVER, WHEN_LESS, WHEN_LESS_OR_EQUAL, WHEN_EQUAL, WHEN_NOT_EQUAL, WHEN_GREATER_OR_EQUAL, WHEN_GREATER };

/* How to read one argument; `slot` is where the value goes. Offsets of registers are into struct pt_regs. */
struct argument {
    __u8 how, size, is_signed, is_string;
    __u8 slot, scale;     /* scale 0: no index register */
    __u16 max;            /* of a string: bytes kept, NUL included */
    __u16 reg, index;
    __u32 unused;
    __s64 offset;
};

/* A probe site: a row of `sites`, chosen by the attach cookie. */
struct site {
    __u32 probe;          /* span probe: its place in `counters`, and in a record */
    __u8 role, scope, binding, mode;
    __u32 tgid;           /* SCOPE_TGID */
    __u32 sp_bias;        /* at a return: what to take from the stack pointer to have the entry's */
    __u64 target;         /* SCOPE_MAP: this target's bit */
    __u64 min_duration_ns;
    __u32 sample_below;   /* a trace rooted here is recorded when that part of its id (joining.bpf.h) is at most this; 0: never */
    __u32 stride;         /* rows of `counters` from one CPU to the next: the span probes that the map has room for */
    __u32 reads;          /* of `argument`, how many are in use */
    __u8 has_text;        /* this span probe's records go to the text ring */
    __u8 join;
    __u8 in_comment;      /* `traceparent` points to a statement that may have it in a comment, not to the header's value */
    __u8 keyed;
    __u32 rows;           /* of `histogram`, of one CPU */
    __u16 cells;          /* of a row */
    __u16 ladder;
    __u8 apart;           /* it has a row of `dimensions` */
    __u8 moved;           /* at a function's entry: bytes from its first one to here, fewer than 32 */
    __u16 words;          /* of `word`, how many are in use */
    __u32 before;         /* a number made of the code from there to here; another tracer's breakpoint in it changes it */
    struct argument argument[READS];
    struct argument traceparent;      /* HOW_NONE: none */
    struct argument key;
    struct argument word[TEXTS];      /* strings that are dimensions: their hashes go to slots of numbers */
};

enum call_flag {
    CALL_TEXT0 = 1, CALL_TEXT1 = 2,   /* shifted by slot: that text was read */
    CALL_REMOTE = 4,                  /* the parent is a span of another process, or of another tracer */
    CALL_DISAGREES = 8,               /* the context from outside was another at the return than at the entry */
    CALL_ENTER = 16,                  /* not a call, but the beginning of a keyed one; user space pairs it with the end of its key */
    CALL_RETURN = 32,                 /* its end, on whatever thread; trace and span are of the call that was open there */
    CALL_SAMPLED_OUT = 64, CALL_RATE_LIMITED = 128 /* with CALL_ENTER: the call is to be counted, but makes no span */
};

/* A paired call. All times CLOCK_MONOTONIC, nanoseconds. */
struct call {
    __u64 trace[2];
    __u64 span, parent;   /* parent 0: a root */
    __u64 link;           /* another span of this trace that the call belongs to; 0: none */
    __u64 start_ktime_ns;
    __u64 duration_ns;    /* with CALL_ENTER or CALL_RETURN: the key */
    __u64 thread;         /* tgid << 32 | tid, of the initial pid namespace */
    __u32 probe;
    __u16 depth;          /* 1: a root */
    __u16 flags;
    __s64 arg[ARGS];
};

/* The same with captured text; goes to a ring of its own, so that each ring has one size of record. */
struct call_text {
    struct call call;
    char text[TEXTS][TEXT];
};

/* The ledger of one span probe on one CPU; see docs/architecture.md for the equations. */
struct counters {
    __u64 entries, returns, calls, in_flight;
    __u64 orphaned, unwound, map_full, too_deep;
    __u64 filtered, recorded, sampled_out, rate_limited;
    __u64 too_short, ring_full, sum_ns, max_ns;
    __u64 min_ns_inverted;  /* ~minimum, so that 0 means none yet */
    __u64 text_lost;        /* a string that could not be read or kept; its span goes out without it */
    __u64 joined_argument, joined_obi;  /* calls whose parent came from outside; no part of the equations, nor is the next */
    __u64 bad_traceparent;  /* one was there, but no valid one: the call went on as if there were none */
};

/* How a histogram is counted (otel_usdt/ladder.py): of what falls into a step, `cell` has what is not longer than `bound`, the next the rest. */
struct step {
    __u64 bound;
    __u64 cell;
};

struct ladder {
    struct step step[STEPS];
};

/* By what the calls of a span probe are counted apart, and the rows of `histogram` that it has for that. */
struct dimensions {
    __u32 first, room, used;   /* `used` is the kernel's own */
    __u8 slots, words;         /* bits: numbers of a record that are dimensions; of these, the hashes of strings */
    __u8 error_when, error_slot;
    __u32 error_by_value;      /* every value that means failure is a series of its own */
    __u32 unused;
    __s64 error_value;
};

/* What tells a series from the others; `failed` is 0 or 1, and numbers that are no dimension are 0. */
struct series_key {
    __u32 probe, failed;
    __s64 value[ARGS];
};

/* Whose a row is, by its number less the span probes': it is in use when anything is counted there. */
struct series {
    struct series_key key;
    char text[TEXTS][WORD];    /* its strings, in the order of their slots */
};

/* Of one row on one CPU, where calls are counted apart. */
struct extent {
    __u64 sum_ns, max_ns;
    __u64 min_ns_inverted;     /* as in `counters` */
};

/* Patched in when the image is loaded: this kernel's tracepoint records, the record ceiling. */
struct settings {
    __u32 fork_child_pid, free_pid, exec_old_pid;   /* byte offsets, from the tracepoints' format files */
    __u32 records_per_second;                       /* 0: no ceiling */
};

/* Losses that belong to no span probe. */
struct losses {
    __u64 scope_full;     /* a child process that found no place in the scope map: it is not traced */
};

_Static_assert(sizeof(struct argument) == 24, "argument");
_Static_assert(sizeof(struct site) == 64 + (READS + 2 + TEXTS) * 24, "site");
_Static_assert(sizeof(struct call) == 104, "call");
_Static_assert(sizeof(struct call_text) == 104 + TEXTS * TEXT, "call_text");
_Static_assert(sizeof(struct counters) == 168, "counters");
_Static_assert(sizeof(struct dimensions) == 32, "dimensions");
_Static_assert(sizeof(struct series) == 40 + TEXTS * WORD, "series");
_Static_assert(sizeof(struct ladder) == STEPS * 16, "ladder");
_Static_assert(sizeof(struct settings) == 16, "settings");
