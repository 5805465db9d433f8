/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls that are to be told apart: by a name, by a number, by how they end.
 */
#include "workload.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

PROBED int step(const char *operation, long tenant) { return operation && tenant % 4 == 3 ? -(int)tenant : (int)tenant; }

static void *take_steps(void *calls)
{
    char operation[160];
    for (long i = 0; i < (long)calls; i++) {
        snprintf(operation, sizeof operation, "operation %ld", i % 5);
        step(operation, i % 7);
    }
    return 0;
}

/* n threads at once, each so many calls of step: five operations by seven tenants, of which tenant 3 fails. */
void run_steps(long n, long calls)
{
    pthread_t *threads = calloc(n, sizeof *threads);
    for (long i = 0; i < n; i++) pthread_create(&threads[i], 0, take_steps, (void *)calls);
    for (long i = 0; i < n; i++) pthread_join(threads[i], 0);
    free(threads);
}

/* Names that are no names: none at all, an empty one, one that is longer than what is kept, two that differ behind that. */
void run_odd_names(long n, long unused)
{
    char name[200];
    snprintf(name, sizeof name, "%0150d", 7);
    for (long i = 0; i < n; i++) {
        step(0, 1);
        step("", 1);
        name[149] = '0' + i % 2;
        step(name, 1);
    }
}
