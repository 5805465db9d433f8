/* SPDX-License-Identifier: Apache-2.0
 *
 * A USDT pair with semaphores, as dtrace -h makes them: the program asks whether anybody listens before it fires.
 */
#include "workload.h"

#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>

unsigned short workload_guarded__start_semaphore __attribute__((section(".probes"), unused));
unsigned short workload_guarded__done_semaphore __attribute__((section(".probes"), unused));

static volatile unsigned short *const start_listeners = &workload_guarded__start_semaphore;
static volatile unsigned short *const done_listeners = &workload_guarded__done_semaphore;

PROBED long guarded(long n)
{
    if (*start_listeners) DTRACE_PROBE1(workload, guarded__start, n);
    long result = leaf(n);
    if (*done_listeners) DTRACE_PROBE1(workload, guarded__done, result);
    return result;
}

/* n calls; how many found a listener at their start. */
void run_guarded(long n, long unused)
{
    long heard = 0;
    for (long i = 0; i < n; i++) {
        heard += *start_listeners != 0;
        guarded(i);
    }
    say("heard", heard);
}

/* What the semaphores hold now. */
void run_semaphores(long unused, long also_unused)
{
    say("start", *start_listeners);
    say("done", *done_listeners);
}
