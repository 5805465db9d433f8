/* SPDX-License-Identifier: Apache-2.0
 *
 * Many threads and processes, and the ways in which a call ends without its return.
 */
#define _GNU_SOURCE
#include "workload.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *call_leaf(void *calls)
{
    for (long i = 0; i < (long)calls; i++) leaf(i);
    return 0;
}

/* n threads at once, each `calls` times leaf. */
void run_threads(long n, long calls)
{
    pthread_t *threads = calloc(n, sizeof *threads);
    for (long i = 0; i < n; i++) pthread_create(&threads[i], 0, call_leaf, (void *)calls);
    for (long i = 0; i < n; i++) pthread_join(threads[i], 0);
    free(threads);
}

/* Waits for n children; true when all ended well. */
static int all_well(long n)
{
    int status, well = 1;
    while (n-- > 0) {
        if (wait(&status) < 0) return 0;
        well &= WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    return well;
}

/* n children at once; each calls leaf `calls` times, from its first instruction on, and exits. */
void run_forks(long n, long calls)
{
    for (long i = 0; i < n; i++)
        if (fork() == 0) {
            call_leaf((void *)calls);
            _exit(0);
        }
    say("well", all_well(n));
}

static int wake_up[2];

/* n children that wait; once woken, each has a child of its own, and both call leaf `calls` times. */
void run_nursery(long n, long calls)
{
    char nothing;
    if (pipe(wake_up)) return;
    for (long i = 0; i < n; i++)
        if (fork() == 0) {
            close(wake_up[1]);
            if (read(wake_up[0], &nothing, 1)) _exit(1);
            pid_t child = fork();
            call_leaf((void *)calls);
            _exit(child ? !all_well(1) : 0);
        }
}

/* Wakes the n children of run_nursery, and waits until they are done. */
void run_wake(long n, long unused)
{
    close(wake_up[1]);
    close(wake_up[0]);
    say("well", all_well(n));
}

/* A child of a child of ... to the nth generation; each calls leaf `calls` times. */
void run_generations(long n, long calls)
{
    if (n == 0) return;
    if (fork() == 0) {
        call_leaf((void *)calls);
        for (long rest = n - 1; rest > 0; rest--) {
            if (fork()) _exit(!all_well(1));
            call_leaf((void *)calls);
        }
        _exit(0);
    }
    say("well", all_well(1));
}

PROBED long forker(long n) { return fork() + n; }

/* n calls of forker, from which two processes return each time. */
void run_fork_inside(long n, long unused)
{
    for (long i = 0; i < n; i++)
        if (forker(0) == 0) _exit(0);
    say("well", all_well(n));
}

/* n times vfork and exec of this program, which then calls leaf `calls` times. */
void run_spawn(long n, long calls)
{
    char count[32];
    snprintf(count, sizeof count, "%ld", calls);
    for (long i = 0; i < n; i++)
        if (vfork() == 0) {
            execl(own_path, own_path, "leaf", count, (char *)0);
            _exit(127);
        }
    say("well", all_well(n));
}

PROBED long last_call(long how)
{
    if (how) pthread_exit(0);
    return syscall(SYS_exit, 0);
}

static void *end_in_call(void *how)
{
    last_call((long)how);
    return 0;
}

/* n threads that end while last_call is open: by pthread_exit, or by the bare system call. */
void run_thread_exits(long n, long how)
{
    pthread_t thread;
    for (long i = 0; i < n; i++) {
        pthread_create(&thread, 0, end_in_call, (void *)how);
        pthread_join(thread, 0);
    }
}

PROBED long doomed(long n)
{
    kill(getpid(), SIGKILL);
    return n;
}

/* n children that are killed in the midst of doomed. */
void run_child_killed(long n, long unused)
{
    for (long i = 0; i < n; i++)
        if (fork() == 0) {
            doomed(i);
            _exit(0);
        }
    say("well", all_well(n));
}

/* The handler's stack lies in .bss: far below the stack of the thread that it interrupts. */
static char handler_stack[1 << 16] __attribute__((aligned(16)));

static void on_signal(int number) { leaf(number); }

PROBED long interrupted(long n)
{
    raise(SIGUSR1);
    return n;
}

/* n calls of interrupted; in each a signal handler on another stack calls leaf. */
void run_signals(long n, long unused)
{
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack}, none = {.ss_flags = SS_DISABLE};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    sigaltstack(&stack, 0);
    sigaction(SIGUSR1, &action, 0);
    for (long i = 0; i < n; i++) interrupted(i);
    sigaltstack(&none, 0);
}

/* Never answers: for ever in sleeper, in outer's place. */
void run_hang(long unused, long also_unused)
{
    puts("}");
    fflush(stdout);
    for (;;) sleeper(1000000000L);
}

/* Calls outer once and ends the process at once. */
void run_vanish(long unused, long also_unused)
{
    outer(1);
    _exit(0);
}
