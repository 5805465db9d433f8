"""All checks, in the order in which they are told: what the kernel is, what it permits, what rights we have, what lies about."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from otel_usdt.doctor import host, kernel, maps, probed, rights, tried
from otel_usdt.doctor.check import Check


@dataclass(frozen=True, slots=True)
class Report:
    """`profile` is the privilege profile: capabilities held and needed, and how to grant them."""

    checks: tuple[Check, ...]
    profile: dict[str, object]

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(check.status == "fail" for check in self.checks)


def examine() -> Report:
    """Look at this host. Takes about a second: each closed probe waits for the kernel."""
    release, machine = platform.release(), platform.machine()
    ours = rights.our_rights()
    asked = (
        tried.bpf_map(ours),
        tried.program(ours),
        tried.perf_event(ours),
        kernel.uprobe_pmu(),
        tried.uprobe(ours),
        tried.cookie(ours),
    )
    why_admin = tried.why_admin(ours)
    checks = (
        kernel.kernel_version(release),
        kernel.btf(),
        *asked,
        tried.uprobe_multi(ours),
        tried.uprobe_session(ours),
        maps.ring_buffer(ours),
        maps.obi_slot(ours),
        tried.tracefs(ours),
        host.bpffs(),
        rights.capabilities(ours, why_admin),
        rights.pid_namespace(ours),
        rights.seccomp(ours, all(check.status == "ok" for check in asked)),
        kernel.lockdown(),
        kernel.unprivileged_bpf(),
        kernel.perf_event_paranoid(),
        host.kernel_image(),
        kernel.uretprobe_pid_filter(release),
        probed.nop5(ours, machine),
        probed.uretprobe_seccomp(ours, machine, kernel.processes_under_seccomp()),
        probed.trampoline(ours, machine),
        host.obi(),
    )
    return Report(checks, rights.profile(ours, why_admin))
