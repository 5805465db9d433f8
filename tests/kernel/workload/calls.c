/* SPDX-License-Identifier: Apache-2.0
 *
 * No tricks of the compiler: nesting, recursion, longjmp, durations, arguments, return values.
 */
#include "workload.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

PROBED long leaf(long n) { return n * 3; }

PROBED long middle(long n)
{
    long sum = 0;
    for (long i = 0; i < 3; i++) sum += leaf(n + i);
    return sum;
}

PROBED long outer(long n) { return middle(n) + leaf(n); }

/* n calls of leaf, with the whole time that they took. */
void run_leaf(long n, long unused)
{
    long began = now_ns();
    for (long i = 0; i < n; i++) leaf(i);
    say("elapsed_ns", now_ns() - began);
}

/* n x outer: n middle and 4 n leaf inside; with the whole time that they took. */
void run_outer(long n, long unused)
{
    long began = now_ns();
    for (long i = 0; i < n; i++) outer(i);
    say("elapsed_ns", now_ns() - began);
}

/* n pairs of malloc and free, with the whole time that they took. */
void run_heap(long n, long unused)
{
    long began = now_ns();
    for (long i = 0; i < n; i++) {
        void *volatile block = malloc(64);
        free(block);
    }
    say("elapsed_ns", now_ns() - began);
}

PROBED long descend(long depth) { return depth < 2 ? 1 : 1 + descend(depth - 1); }

/* n times `depth` nested calls of descend. */
void run_descend(long n, long depth)
{
    for (long i = 0; i < n; i++) descend(depth);
}

static jmp_buf out;

PROBED long thrower(long depth)
{
    if (depth < 2) longjmp(out, 1);
    return 1 + thrower(depth - 1);
}

/* n times `depth` nested calls of thrower that never return, then one leaf at the caller's depth. */
void run_thrower(long n, long depth)
{
    for (volatile long i = 0; i < n; i++)
        if (!setjmp(out)) thrower(depth);
    leaf(0);
}

/* Returns its argument's triple when that is 0, else leaves by longjmp: so first comes a jump, and no room of its own. */
PROBED long escaper(long n)
{
    if (n) longjmp(out, 1);
    return 3 * n;
}

/* n calls of escaper on one stack frame: one returns, two leave, and so on; then one leaf at the caller's depth. */
void run_escaper(long n, long unused)
{
    for (volatile long i = 0; i < n; i++)
        if (!setjmp(out)) escaper(i % 3);
    leaf(0);
}

static __thread long inner_ns;

PROBED long timed(long rounds)
{
    long began = now_ns();
    for (volatile long i = 0; i < rounds;) i++;
    inner_ns = now_ns() - began;
    return rounds;
}

#define TIMED_THREADS 16
#define ROUNDS 300

struct timing {
    long n, rounds, *inside, *around;
};

static void *time_calls(void *of)
{
    struct timing *t = of;
    for (long i = 0; i < t->n; i++) {
        long began = now_ns();
        timed(t->rounds * (1 + i % 7));
        t->around[i] = now_ns() - began;
        t->inside[i] = inner_ns;
    }
    return 0;
}

/* `threads` at once, n calls of timed each; for every call the time inside it and the time around it, on this program's own clock. */
static void time_threads(long threads, long n, long rounds)
{
    pthread_t thread[TIMED_THREADS];
    struct timing timing[TIMED_THREADS];
    long *inside = calloc(threads * n, sizeof *inside), *around = calloc(threads * n, sizeof *around);
    for (long i = 0; i < threads; i++) {
        timing[i] = (struct timing){n, rounds, inside + i * n, around + i * n};
        if (i) pthread_create(&thread[i], 0, time_calls, &timing[i]);
    }
    time_calls(&timing[0]);
    for (long i = 1; i < threads; i++) pthread_join(thread[i], 0);
    say_list("inside_ns", inside, threads * n);
    say_list("around_ns", around, threads * n);
    free(inside);
    free(around);
}

void run_timed(long n, long rounds) { time_threads(1, n, rounds); }
void run_timed_threads(long threads, long n) { time_threads(threads, n, ROUNDS); }

PROBED long sleeper(long microseconds)
{
    if (microseconds) usleep(microseconds);
    return microseconds;
}

void run_sleeper(long n, long microseconds)
{
    for (long i = 0; i < n; i++) sleeper(microseconds);
}

/* n sleepers, of which each `every`th sleeps 20 ms and the others not at all. */
void run_mixed(long n, long every)
{
    long slow = 0;
    for (long i = 0; i < n; i++) {
        int sleeps = i % every == 0;
        sleeper(sleeps ? 20000 : 0);
        slow += sleeps;
    }
    say("slow", slow);
}

PROBED long widths(int8_t a, uint16_t b, int32_t c, int64_t d) { return a + b + c + d; }

/* Each call with other values, of each sign: see the formulae. */
void run_widths(long n, long unused)
{
    for (long i = 0; i < n; i++) widths(-1 - i, 65535 - i, i % 2 ? -i : i, -(1L << 40) * i);
}

PROBED long greet(const char *who) { return who ? (long)strlen(who) : -1; }

/* n strings, of which each has its number in it; the last one is longer than any record keeps; then a null pointer. */
void run_greet(long n, long unused)
{
    char text[512];
    for (long i = 0; i < n; i++) {
        memset(text, 'x', sizeof text);
        strcpy(text, "SELECT ");
        text[7] = '0' + i % 10;
        text[i == n - 1 ? 511 : 8] = 0;
        greet(text);
    }
    greet(0);
}

/* Fails with -errno every third time: as an int, whose upper half of rax is zero, and as a long. */
PROBED int fallible_int(long i) { return i % 3 == 0 ? -5 : (int)i; }
PROBED long fallible_long(long i) { return i % 3 == 0 ? -5 : i << 31; }

void run_fallible(long n, long unused)
{
    long failed = 0;
    for (long i = 0; i < n; i++) {
        failed += fallible_long(i) < 0;
        fallible_int(i);
    }
    say("failed", failed);
}
