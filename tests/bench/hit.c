/* SPDX-License-Identifier: Apache-2.0
 *
 * What `hit.py` probes: functions that do next to nothing, whose first instruction is the one that is wanted. Commands on standard input
 * ("emulated 20000"); the answer is the CPU time of the fastest of BATCHES batches, in picoseconds a call.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#define BATCHES 20

long emulated(long a, long b, long c, long d), stepped(long a, long b, long c, long d);

#ifdef __x86_64__
#define EMULATED "push %rbx\n pop %rbx\n mov %rdi, %rax\n ret\n"   /* the kernel emulates a push, and single-steps a lea */
#define STEPPED "lea (%rdi,%rdi,2), %rax\n ret\n"
#else
#define EMULATED "nop\n ret\n"
#define STEPPED "add x0, x0, x0\n ret\n"
#endif
#define FUNCTION(name, code) __asm__(".text\n .globl " #name "\n .type " #name ", %function\n" #name ":\n" code ".size " #name ", . - " #name "\n")
FUNCTION(emulated, EMULATED);
FUNCTION(stepped, STEPPED);

#ifdef __x86_64__
/* Two calls: its own, and the one inside it. */
FUNCTION(nested, "push %rbx\n call emulated\n pop %rbx\n ret\n");
#else
FUNCTION(nested, "nop\n stp x29, x30, [sp, #-16]!\n bl emulated\n ldp x29, x30, [sp], #16\n ret\n");
#endif
long nested(long a, long b, long c, long d);

static long cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

int main(void)
{
    char line[64], name[32];
    long n;
    while (fgets(line, sizeof line, stdin) && sscanf(line, "%31s %ld", name, &n) == 2) {
        long (*function)(long, long, long, long) = !strcmp(name, "emulated") ? emulated : !strcmp(name, "stepped") ? stepped : nested;
        long fastest = 0;
        for (int batch = 0; batch < BATCHES; batch++) {
            long began = cpu_ns();
            for (long i = 0; i < n; i++) function(i, i + 1, i + 2, i + 3);
            long took = cpu_ns() - began;
            if (!fastest || took < fastest) fastest = took;
        }
        printf("%ld\n", fastest * 1000 / n);
        fflush(stdout);
    }
    return 0;
}
