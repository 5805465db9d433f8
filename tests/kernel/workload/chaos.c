/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls in every way at once: nested, recursive, left by longjmp, in signal handlers, on threads and in children that come and go, exec
 * and are killed. What was done is kept in a file (CHAOS_TRUTH) that all of them map, so that a SIGKILL takes nothing away.
 *
 * A thread writes its own slot: `begun` just before a call, `ended` just after it. So what a probe
 * saw of a thread is exact but for the one count that a SIGKILL (or another thread's execve) has kept from its call, or a call from its
 * count; and one more when it was in a signal's handler. Such threads leave their slot RUNNING.
 */
#define _GNU_SOURCE
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sdt.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOTS 16384
#define THREADS 64        /* of one process's own */
#define STORM 8           /* that come and go at once */
#define CHILD_CALLS 20    /* of a child that nobody kills: each is some twenty */
#define DEEPEST 9         /* a handler's calls and a child's stand on those of what they interrupt or left: all together below 64 */

enum kind { WORK, NEST, JUMP, SIGNAL, PAIR, KINDS };
enum state { FREE, RUNNING, ENDED };               /* an ENDED slot is taken again; its counts go on */

struct slot {
    uint32_t state, tid, handling, unused;         /* handling: a signal's handler runs, which is between counts of its own */
    uint64_t begun[KINDS], ended[KINDS];
};

static struct truth {
    uint64_t broken;                               /* children that ended as they should not have: the probes harmed them */
    uint64_t unused[7];
    struct slot slot[SLOTS];
} *truth;

static __thread struct slot *self;
static __thread uint64_t dice;
static __thread sigjmp_buf out;
static __thread long nested;                       /* open calls of NEST */
static __thread long last;                         /* it ends when so many are open */
static __thread int is_child;                      /* children have no children */
static volatile int stopping;

static uint64_t roll(uint64_t sides)
{
    dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
    return (dice >> 11) % sides;
}

/* One instruction on memory each, so that a signal between two of them finds whole numbers. */
static void count(uint64_t *what, uint64_t by) { __atomic_fetch_add(what, by, __ATOMIC_RELAXED); }

#define CALL(kind, call)                                                                                                                   \
    do {                                                                                                                                   \
        count(&self->begun[kind], 1);                                                                                                      \
        call;                                                                                                                              \
        count(&self->ended[kind], 1);                                                                                                      \
    } while (0)

static void signals(int how)
{
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    pthread_sigmask(how, &one, 0);
}

/* Signals are blocked until it has a slot. */
static int begin_thread(uint64_t seed)
{
    dice = seed * 0x9e3779b97f4a7c15 | 1;
    nested = last = 0;
    self = 0;
    for (uint64_t i = 0, at = roll(SLOTS); i < SLOTS && !self; i++, at = (at + 1) % SLOTS) {
        uint32_t state = __atomic_load_n(&truth->slot[at].state, __ATOMIC_ACQUIRE);
        if (state != RUNNING && __atomic_compare_exchange_n(&truth->slot[at].state, &state, RUNNING, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            self = &truth->slot[at];
    }
    if (!self) return 0;
    self->tid = syscall(SYS_gettid);
    signals(SIG_UNBLOCK);
    return 1;
}

/* No handler runs from here on, and no call is made. */
static void end_thread(void)
{
    signals(SIG_BLOCK);
    __atomic_store_n(&self->state, ENDED, __ATOMIC_RELEASE);
}

PROBED long chaos_work(long n)
{
    for (volatile long i = 0; i < n;) i++;
    return n;
}

PROBED long chaos_jump(long depth)
{
    if (depth < 2) siglongjmp(out, 1);
    count(&self->begun[JUMP], 1);
    return 1 + chaos_jump(depth - 1);
}

PROBED long chaos_signal(long depth)
{
    if (depth > 1) CALL(SIGNAL, chaos_signal(depth - 1));
    return depth;
}

/* Of `depth` calls none returns; those around them are open as before. */
static void jump(long depth)
{
    sigjmp_buf outer;
    __builtin_memcpy(outer, out, sizeof out);
    if (!sigsetjmp(out, 0)) {
        count(&self->begun[JUMP], 1);
        chaos_jump(depth);
    }
    __builtin_memcpy(out, outer, sizeof out);
}

static void on_usr1(int number)
{
    int error = errno;
    if (!self) return;
    self->handling = 1;
    CALL(SIGNAL, chaos_signal(1 + roll(3)));
    if (roll(4) == 0) jump(1 + roll(3));
    self->handling = 0;
    errno = error;
}

static void end_inside(void);
static void some_child(void);

PROBED long chaos_nest(long depth)
{
    count(&self->begun[PAIR], 1);
    DTRACE_PROBE1(workload, chaos__start, depth);
    nested++;
    if (nested == last) end_inside();
    if (depth > 1) CALL(NEST, chaos_nest(depth - 1));
    for (uint64_t i = roll(4); i > 0; i--) CALL(WORK, chaos_work(roll(50)));
    switch (roll(64)) {
    case 0: jump(1 + roll(DEEPEST)); break;
    case 1: raise(SIGUSR1); break;
    case 2: if (!is_child && roll(16) == 0) some_child(); break;
    }
    nested--;
    DTRACE_PROBE1(workload, chaos__done, depth);
    count(&self->ended[PAIR], 1);
    return depth;
}

static void some_calls(void) { CALL(NEST, chaos_nest(1 + roll(DEEPEST))); }

/* The thread ends in the midst of its calls. */
static void end_inside(void)
{
    int bare = roll(2);
    end_thread();
    if (bare) syscall(SYS_exit, 0);
    pthread_exit(0);
}

static void *guest(void *seed)
{
    if (!begin_thread((uint64_t)seed)) return 0;
    for (uint64_t i = 1 + roll(20); i > 0; i--) some_calls();
    last = roll(3);
    some_calls();                                  /* ends here, at the first or second level; or not */
    last = 0;
    end_thread();
    return 0;
}

static void *spinner(void *seed)
{
    if (begin_thread((uint64_t)seed))
        for (;;) {
            some_calls();
            usleep(roll(500));
        }
    return 0;
}

static void storm(void)
{
    pthread_t thread[STORM];
    int started = 0;
    while (started < STORM && !pthread_create(&thread[started], 0, guest, (void *)roll(1L << 40))) started++;
    while (started > 0) pthread_join(thread[--started], 0);
}

static void become_another(uint64_t seed)
{
    char text[32];
    snprintf(text, sizeof text, "%lu", seed);
    execl(own_path, own_path, "chaos_child", text, (char *)0);
    _exit(127);
}

enum fate { EXITS, IS_KILLED, EXECS, EXECS_AMONG_THREADS, FATES };

static void live(enum fate fate, uint64_t seed, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
    is_child = 1;
    if (!begin_thread(seed)) _exit(0);
    for (int i = 0; i < CHILD_CALLS || fate == IS_KILLED; i++) {
        some_calls();
        usleep(roll(1000));
    }
    if (fate == EXECS_AMONG_THREADS) {
        pthread_t thread;
        for (int i = 0; i < 2; i++) pthread_create(&thread, 0, spinner, (void *)(seed + 1 + i));
        usleep(roll(2000));
    }
    end_thread();
    if (fate == EXECS || fate == EXECS_AMONG_THREADS) become_another(seed + 3);
    _exit(0);
}

/* Forked inside whatever calls are open; they are the parent's, and the child never returns from them. */
static void some_child(void)
{
    enum fate fate = roll(FATES);
    uint64_t seed = roll(1L << 40);
    int by_vfork = fate == EXECS && roll(2), status;
    pid_t parent = getpid();
    signals(SIG_BLOCK);
    pid_t child = by_vfork ? vfork() : fork();
    if (child == 0 && by_vfork) become_another(seed);
    if (child == 0) live(fate, seed, parent);
    signals(SIG_UNBLOCK);
    if (child < 0) return;
    if (fate == IS_KILLED) {
        usleep(roll(20000));
        kill(child, SIGKILL);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    int killed = fate == IS_KILLED && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (!killed && !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) count(&truth->broken, 1);
}

static void *worker(void *seed)
{
    if (!begin_thread((uint64_t)seed)) return 0;
    while (!stopping) {
        some_calls();
        if (roll(200) == 0) storm();
        else if (roll(8)) usleep(roll(20000));
    }
    end_thread();
    return 0;
}

/* Signals to threads that have a slot, whatever they are doing. A number that is no longer a thread of ours is refused by the kernel. */
static void *pest(void *seed)
{
    dice = (uint64_t)seed | 1;
    while (!stopping) {
        struct slot *one = &truth->slot[roll(SLOTS)];
        for (int i = 0; i < 64 && one->state != RUNNING; i++) one = &truth->slot[roll(SLOTS)];
        if (one->state == RUNNING) syscall(SYS_tgkill, getpid(), one->tid, SIGUSR1);
        usleep(200);
    }
    return 0;
}

static int map_truth(void)
{
    struct sigaction action = {.sa_handler = on_usr1, .sa_flags = SA_RESTART};
    const char *path = getenv("CHAOS_TRUTH");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    truth = mmap(0, sizeof *truth, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    signals(SIG_BLOCK);
    sigaction(SIGUSR1, &action, 0);
    return truth != MAP_FAILED;
}

static pthread_t threads[THREADS];
static long started;

/* n threads at work, and one that sends them signals, until chaos_stop; all that is by chance comes from `seed`. */
void run_chaos(long n, long seed)
{
    if (!map_truth()) return;
    stopping = 0;
    for (started = 0; started < n && started < THREADS - 1; started++) pthread_create(&threads[started], 0, worker, (void *)(seed + started));
    pthread_create(&threads[started++], 0, pest, (void *)seed);
    say("started", started);
}

void run_chaos_stop(long unused, long also_unused)
{
    stopping = 1;
    while (started > 0) pthread_join(threads[--started], 0);
    say("broken", truth->broken);
}

/* What a child that execs becomes. */
void run_chaos_child(long seed, long unused)
{
    if (!map_truth() || !begin_thread(seed)) return;
    is_child = 1;
    for (int i = 0; i < CHILD_CALLS; i++) some_calls();
    end_thread();
}
