/* SPDX-License-Identifier: Apache-2.0
 *
 * USDT pairs without semaphores: nested, abandoned, crossing, and with their ends in different functions.
 */
#include "workload.h"

#include <stdint.h>
#include <sys/sdt.h>

PROBED long within(long n)
{
    DTRACE_PROBE1(workload, within__start, n);
    long result = leaf(n);
    DTRACE_PROBE1(workload, within__done, result);
    return result;
}

PROBED long around(long n)
{
    DTRACE_PROBE1(workload, around__start, n);
    long result = within(n) + within(n + 1);
    DTRACE_PROBE2(workload, around__done, n, result);
    return result;
}

/* n around with two within in each. */
void run_pairs(long n, long unused)
{
    for (long i = 0; i < n; i++) around(i);
}

PROBED long again(long n)
{
    long result = 0;
    for (long i = 0; i < 2; i++) {
        DTRACE_PROBE1(workload, again__start, i);
        result += n;
    }
    DTRACE_PROBE1(workload, again__done, n);
    return result;
}

/* n times two starts and one end: the first start is abandoned. */
void run_abandoned(long n, long unused)
{
    for (long i = 0; i < n; i++) again(i);
}

PROBED long cross(long n)
{
    DTRACE_PROBE1(workload, left__start, n);
    DTRACE_PROBE1(workload, right__start, n);
    DTRACE_PROBE1(workload, left__done, n);
    DTRACE_PROBE1(workload, right__done, n);
    return n;
}

/* n times two pairs that overlap. */
void run_crossing(long n, long unused)
{
    for (long i = 0; i < n; i++) cross(i);
}

PROBED void begin(long n) { DTRACE_PROBE1(workload, split__start, n); }
PROBED void commit(long n) { DTRACE_PROBE1(workload, split__commit, n); }
PROBED void rollback(long n) { DTRACE_PROBE1(workload, split__abort, n); }

/* n transactions: begun in one function, ended in another, every third by rollback; leaf within. */
void run_split(long n, long unused)
{
    long aborted = 0;
    for (long i = 0; i < n; i++) {
        begin(i);
        leaf(i);
        if (i % 3 == 0) rollback(i);
        else commit(i);
        aborted += i % 3 == 0;
    }
    say("aborted", aborted);
}

PROBED long sizes(long i)
{
    int8_t a = -1 - i;
    uint8_t b = 255 - i;
    int16_t c = -300 - i;
    uint16_t d = 65535 - i;
    int32_t e = -70000 - i;
    uint32_t f = 4294967295u - i;
    int64_t g = -(1L << 40) - i;
    uint64_t h = (1UL << 63) + i;
    DTRACE_PROBE8(workload, sizes__start, a, b, c, d, e, f, g, h);
    DTRACE_PROBE2(workload, sizes__done, -7, "constant");
    return i;
}

/* n calls with an argument of every size and sign: the formulae are above. */
void run_sizes(long n, long unused)
{
    for (long i = 0; i < n; i++) sizes(i);
}
