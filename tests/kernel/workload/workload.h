/* SPDX-License-Identifier: Apache-2.0
 *
 * The program that the kernel tests probe: it does what it is told, so many times, and says what it did.
 */
#pragma once

/* Never inlined, cloned or reasoned about: each call in the source is a call in the program. */
#define PROBED __attribute__((noipa))

/* Fields of the answer to the present command. */
void say(const char *key, long value);
void say_list(const char *key, const long *values, long count);

long now_ns(void);  /* CLOCK_MONOTONIC, as the kernel's bpf_ktime_get_ns */
extern char *own_path;

long leaf(long n);
long outer(long n);
long sleeper(long microseconds);

/* Commands: two numbers each; see the comment at each definition. calls.c */
void run_leaf(long n, long unused);
void run_outer(long n, long unused);
void run_heap(long n, long unused);
void run_descend(long n, long depth);
void run_thrower(long n, long depth);
void run_escaper(long n, long unused);
void run_timed(long n, long rounds);
void run_timed_threads(long threads, long n);
void run_sleeper(long n, long microseconds);
void run_widths(long n, long unused);
void run_greet(long n, long unused);
void run_fallible(long n, long unused);
void run_mixed(long n, long every);
/* paced.c */
void run_paced(long n, long rate);
/* tail.c */
void run_tail(long n, long unused);
void run_hops(long n, long unused);
void run_pingpong(long n, long hops);
/* processes.c */
void run_threads(long n, long calls);
void run_forks(long n, long calls);
void run_nursery(long n, long calls);
void run_wake(long n, long unused);
void run_generations(long n, long calls);
void run_fork_inside(long n, long unused);
void run_spawn(long n, long calls);
void run_thread_exits(long n, long how);
void run_child_killed(long n, long unused);
void run_signals(long n, long unused);
void run_hang(long unused, long also_unused);
void run_vanish(long unused, long also_unused);
/* usdt.c */
void run_pairs(long n, long unused);
void run_abandoned(long n, long unused);
void run_crossing(long n, long unused);
void run_split(long n, long unused);
void run_sizes(long n, long unused);
/* joining.c */
void run_statements(long n, long times);
void run_request(long unused, long also_unused);
/* keyed.c */
void run_pool(long n, long threads);
void run_backlog(long n, long unused);
void run_same(long n, long gets);
void run_named(long n, long unused);
/* chaos.c */
void run_chaos(long n, long seed);
void run_chaos_stop(long unused, long also_unused);
void run_chaos_child(long seed, long unused);
/* series.c */
void run_steps(long n, long calls);
void run_odd_names(long n, long unused);
/* guarded.c */
void run_guarded(long n, long unused);
void run_semaphores(long unused, long also_unused);
