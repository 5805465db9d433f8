/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Which processes a site is for. The kernel's own pid filter of return probes is wrong on 6.1 and 6.12, so this always decides.
 */
#pragma once

static bool in_scope(struct site *s, u32 tgid)
{
    if (s->scope == SCOPE_TGID) return s->tgid == tgid;
    if (s->scope == SCOPE_ANY) return true;
    u64 *targets = scope.lookup(&tgid);
    return targets && *targets & s->target;
}

/* sched_process_fork, in the parent, before the child runs: the child is in every scope that the parent is in, and in no other,
 * whoever had its number before. A new thread looks the same from here; its entry goes when the thread does. */
int on_fork(void *ctx)
{
    u32 zero = 0, child = 0, parent = bpf_get_current_pid_tgid() >> 32;
    struct settings *known = settings.lookup(&zero);
    if (!known || bpf_probe_read_kernel(&child, sizeof child, ctx + (known->fork_child_pid & 0xff)) < 0) return 0;
    u64 *targets = scope.lookup(&parent);
    if (!targets) {
        scope.delete(&child);
        return 0;
    }
    u64 same = *targets;
    if (scope.update(&child, &same) < 0) {
        struct losses *l = losses.lookup(&zero);
        if (l) lock_xadd(&l->scope_full, 1);
    }
    return 0;
}

/* sched_process_free: the number is about to be free for others. Not at the exit: a process lives on when its first thread has left. */
int on_free(void *ctx)
{
    u32 zero = 0, pid = 0;
    struct settings *known = settings.lookup(&zero);
    if (known && bpf_probe_read_kernel(&pid, sizeof pid, ctx + (known->free_pid & 0xff)) == 0) scope.delete(&pid);
    return 0;
}
