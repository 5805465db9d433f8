/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands on standard input ("outer 101", "threads 5 13"), one JSON object a line on standard output as the answer.
 * With arguments ("workload leaf 7") it runs that one command silently and exits: what vfork and exec start.
 */
#include "workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct {
    const char *name;
    void (*run)(long, long);
} commands[] = {
    {"leaf", run_leaf},
    {"outer", run_outer},
    {"heap", run_heap},
    {"descend", run_descend},
    {"thrower", run_thrower},
    {"escaper", run_escaper},
    {"timed", run_timed},
    {"timed_threads", run_timed_threads},
    {"sleeper", run_sleeper},
    {"widths", run_widths},
    {"greet", run_greet},
    {"fallible", run_fallible},
    {"mixed", run_mixed},
    {"paced", run_paced},
    {"tail", run_tail},
    {"hops", run_hops},
    {"pingpong", run_pingpong},
    {"threads", run_threads},
    {"forks", run_forks},
    {"nursery", run_nursery},
    {"wake", run_wake},
    {"generations", run_generations},
    {"fork_inside", run_fork_inside},
    {"spawn", run_spawn},
    {"thread_exits", run_thread_exits},
    {"child_killed", run_child_killed},
    {"signals", run_signals},
    {"hang", run_hang},
    {"vanish", run_vanish},
    {"pairs", run_pairs},
    {"abandoned", run_abandoned},
    {"crossing", run_crossing},
    {"split", run_split},
    {"sizes", run_sizes},
    {"statements", run_statements},
    {"request", run_request},
    {"pool", run_pool},
    {"backlog", run_backlog},
    {"same", run_same},
    {"named", run_named},
    {"chaos", run_chaos},
    {"chaos_stop", run_chaos_stop},
    {"chaos_child", run_chaos_child},
    {"steps", run_steps},
    {"odd_names", run_odd_names},
    {"guarded", run_guarded},
    {"semaphores", run_semaphores},
};

char *own_path;

long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

void say(const char *key, long value) { printf(", \"%s\": %ld", key, value); }

void say_list(const char *key, const long *values, long count)
{
    printf(", \"%s\": [", key);
    for (long i = 0; i < count; i++) printf("%s%ld", i ? ", " : "", values[i]);
    printf("]");
}

static int obey(const char *name, long n, long m)
{
    for (unsigned i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(commands[i].name, name)) {
            commands[i].run(n, m);
            return 1;
        }
    return 0;
}

int main(int argc, char **argv)
{
    char line[128], name[32];
    own_path = argv[0];
    if (argc > 1) {
        if (!freopen("/dev/null", "w", stdout)) return 1;
        return !obey(argv[1], argc > 2 ? atol(argv[2]) : 0, argc > 3 ? atol(argv[3]) : 0);
    }
    printf("{\"ready\": %d}\n", getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        long n = 0, m = 0;
        if (sscanf(line, "%31s %ld %ld", name, &n, &m) < 1) continue;
        printf("{\"command\": \"%s\"", name);
        if (!obey(name, n, m)) say("unknown", 1);
        puts("}");
        fflush(stdout);
    }
    return 0;
}
