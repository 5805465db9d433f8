/* SPDX-License-Identifier: Apache-2.0
 *
 * Compiled with sibling calls optimised: a function that ends in another's call jumps there, and both return by one ret.
 */
#include "workload.h"

PROBED long tail_leaf(long n) { return n * 5; }
PROBED long tail_middle(long n) { return tail_leaf(n + 1); }
PROBED long tail_outer(long n) { return tail_middle(n + 1); }

/* n chains of three functions with one return. */
void run_tail(long n, long unused)
{
    for (long i = 0; i < n; i++) tail_outer(i);
}

PROBED long last_hop(long n) { return n & 1 ? n * 7 : -n; }
PROBED long next_hop(long n) { return last_hop(n + 1); }
PROBED long first_hop(long n) { return next_hop(n + 1); }

/* As run_tail, of functions that nothing else looks at. */
void run_hops(long n, long unused)
{
    for (long i = 0; i < n; i++) first_hop(i);
}

PROBED long pong(long hops);
PROBED long ping(long hops) { return hops ? pong(hops - 1) : 0; }
PROBED long pong(long hops) { return hops ? ping(hops - 1) : 1; }

/* n times ping, pong, ping, ...: 1 + hops calls in all, on one stack frame. */
void run_pingpong(long n, long hops)
{
    for (long i = 0; i < n; i++) ping(hops);
}
