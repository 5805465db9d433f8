/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls at a steady rate, and how long each took: what a target under load feels.
 */
#include "workload.h"

#include <string.h>

#define PER_OCTAVE 8
#define BUCKETS (40 * PER_OCTAVE)

static long counts[BUCKETS];

/* Bucket of a duration: PER_OCTAVE a power of two, by the three bits after the leading one. */
static int bucket(long ns)
{
    int log = 63 - __builtin_clzl(ns | PER_OCTAVE);
    int at = (log - 3) * PER_OCTAVE + (int)(ns >> (log - 3));
    return at < BUCKETS ? at : BUCKETS - 1;
}

/* n calls of outer, `rate` a second (0: as fast as it goes), waiting busily; one that is late does not make the next one wait.
 * Bucket i of the answer counts calls of less than (8 + i % 8 + 1) << (i / 8 - 1) ns, from i 8 on; below, of i ns. */
void run_paced(long n, long rate)
{
    long began = now_ns(), now = began;
    memset(counts, 0, sizeof counts);
    for (long i = 0; i < n; i++) {
        long due = rate ? began + (long)((__int128)i * 1000000000 / rate) : 0;
        while (now < due) now = now_ns();
        outer(i);
        long after = now_ns();
        counts[bucket(after - now)]++;
        now = after;
    }
    say("elapsed_ns", now - began);
    say_list("counts", counts, BUCKETS);
}
