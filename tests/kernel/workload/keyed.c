/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls that begin on one thread and end on another: jobs in a queue, told apart by a number or a name.
 */
#include "workload.h"

#include <pthread.h>
#include <stdio.h>

#define ROOM 64
#define MOST_THREADS 16

PROBED long put(long key, long n) { return key + n; }
PROBED long got(long key, long n) { return key - n; }
PROBED long put_named(const char *name, long n) { return name[0] + n; }
PROBED long got_named(const char *name, long n) { return name[0] - n; }

static struct {
    pthread_mutex_t lock;
    pthread_cond_t filled, drained;
    long job[ROOM], first, count;
} queue = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER};

/* A key is never used twice at a time: it is the job's own address-like number. */
PROBED void produce(long n)
{
    if (n >= 0) put(0x10000 + n, n);
    pthread_mutex_lock(&queue.lock);
    while (queue.count == ROOM) pthread_cond_wait(&queue.drained, &queue.lock);
    queue.job[(queue.first + queue.count++) % ROOM] = n;
    pthread_cond_signal(&queue.filled);
    pthread_mutex_unlock(&queue.lock);
}

PROBED long consume(void)
{
    pthread_mutex_lock(&queue.lock);
    while (!queue.count) pthread_cond_wait(&queue.filled, &queue.lock);
    long n = queue.job[queue.first++ % ROOM];
    queue.count--;
    pthread_cond_signal(&queue.drained);
    pthread_mutex_unlock(&queue.lock);
    if (n >= 0) got(0x10000 + n, n);
    return n;
}

static void *work(void *unused)
{
    while (consume() >= 0) continue;
    return 0;
}

/* n jobs through a pool of so many threads. */
void run_pool(long n, long threads)
{
    pthread_t thread[MOST_THREADS];
    for (long i = 0; i < threads; i++) pthread_create(&thread[i], 0, work, 0);
    for (long i = 0; i < n; i++) produce(i);
    for (long i = 0; i < threads; i++) produce(-1 - i);
    for (long i = 0; i < threads; i++) pthread_join(thread[i], 0);
}

/* n puts, and then n gets: all of them are open at once. */
void run_backlog(long n, long unused)
{
    for (long i = 0; i < n; i++) put(i, i);
    for (long i = 0; i < n; i++) got(i, i);
}

/* n puts of one key, then so many gets of it. */
void run_same(long n, long gets)
{
    for (long i = 0; i < n; i++) put(7, i);
    for (long i = 0; i < gets; i++) got(7, i * 1000);
}

/* n jobs with names. */
void run_named(long n, long unused)
{
    char name[128];
    for (long i = 0; i < n; i++) {
        snprintf(name, sizeof name, "order-%ld", i);
        put_named(name, i);
    }
    for (long i = n; i-- > 0;) {
        snprintf(name, sizeof name, "order-%ld", i);
        got_named(name, i);
    }
}
