"""What rights we hold, what is missing, and the sentence that grants it to a systemd unit or a pod."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from otel_usdt.doctor.check import Check

# Bits of include/uapi/linux/capability.h.
BITS = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
WHY = {
    "CAP_BPF": "load programs and maps",
    "CAP_PERFMON": "attach uprobes",
    "CAP_SYS_PTRACE": "look into other users' processes",
    "CAP_DAC_READ_SEARCH": "read their binaries",
    "CAP_CHECKPOINT_RESTORE": "read binaries that were deleted since they started",
    "CAP_SETUID": "give the pipeline a user without rights",
    "CAP_SETGID": "give the pipeline a group without rights",
    "CAP_KILL": "stop it",
}
ADMIN = "CAP_SYS_ADMIN"
INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # include/linux/proc_ns.h PROC_PID_INIT_INO


@dataclass(frozen=True, slots=True)
class Rights:
    """Ours: `effective` has a bit for each capability; `seccomp` is the mode (0 none, 2 a filter)."""

    effective: int
    seccomp: int
    root: bool
    initial_pid_namespace: bool

    def holds(self, capability: str) -> bool:
        """CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON too (kernel/capability.c bpf_capable, perfmon_capable)."""
        held = self.effective >> BITS[capability] & 1
        return bool(held or (capability in ("CAP_BPF", "CAP_PERFMON") and self.effective >> BITS[ADMIN] & 1))

    @property
    def can_try(self) -> bool:
        """Whether the privileged checks are worth trying: as root always, so that what is missing shows as failed."""
        return self.root or (self.holds("CAP_BPF") and self.holds("CAP_PERFMON"))


def parse_rights(status: str, *, uid: int, pid_namespace: int) -> Rights:
    """From the text of /proc/self/status, our effective user id and the inode of /proc/self/ns/pid."""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return Rights(int(fields["CapEff"], 16), int(fields.get("Seccomp", "0")), uid == 0, pid_namespace == INITIAL_PID_NAMESPACE)


def our_rights() -> Rights:
    """This process's."""
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    return parse_rights(Path("/proc/self/status").read_text(), uid=os.geteuid(), pid_namespace=namespace)


def needed(why_admin: str) -> dict[str, str]:
    """The capabilities that the supervisor uses, and what for; CAP_SYS_ADMIN where `why_admin` says what for."""
    return WHY | ({ADMIN: why_admin} if why_admin else {})


def capabilities(rights: Rights, why_admin: str) -> Check:
    """Held against needed."""
    missing = [f"{name} ({why})" for name, why in needed(why_admin).items() if not rights.holds(name)]
    if not missing:
        return Check("capabilities", "ok", "all that are needed")
    grant = f"in a systemd unit:\n{systemd_lines(why_admin)}\nor in a pod:\n{kubernetes_lines(why_admin)}"
    if rights.root:
        return Check("capabilities", "fail", "missing: " + "; ".join(missing), grant)
    return Check("capabilities", "warn", "missing: " + "; ".join(missing), f"run as root, or {grant}")


def systemd_lines(why_admin: str) -> str:
    """For the [Service] section."""
    names = " ".join(needed(why_admin))
    return f"AmbientCapabilities={names}\nCapabilityBoundingSet={names}"


def kubernetes_lines(why_admin: str) -> str:
    """For the container, in YAML; the pod itself needs hostPID: true besides."""
    names = ", ".join(name.removeprefix("CAP_") for name in needed(why_admin))
    return f"securityContext: {{runAsUser: 0, capabilities: {{drop: [ALL], add: [{names}]}}}}"


def profile(rights: Rights, why_admin: str) -> dict[str, object]:
    """The privilege profile, for machines."""
    return {
        "capabilities_held": [name for name in BITS if rights.effective >> BITS[name] & 1],
        "capabilities_needed": list(needed(why_admin)),
        "systemd": systemd_lines(why_admin),
        "kubernetes": kubernetes_lines(why_admin),
    }


def pid_namespace(rights: Rights) -> Check:
    """BPF sees the pids of the initial namespace, so ours must be that one for a pid to mean the same to both."""
    if rights.initial_pid_namespace:
        return Check("pid namespace", "ok", "the host's")
    found = "not the host's: pids here are not those that probes see"
    return Check("pid namespace", "fail", found, "hostPID: true in the pod's spec; docker run --pid=host")


def seccomp(rights: Rights, calls_work: bool) -> Check:
    """A container's filter may forbid bpf(2) and perf_event_open(2); `calls_work` is what trying them has shown."""
    if rights.seccomp == 0:
        return Check("seccomp", "ok", "no filter on this process")
    if calls_work:
        return Check("seccomp", "ok", "a filter, which permits what is needed")
    return Check(
        "seccomp",
        "warn",
        "a filter on this process, which may forbid bpf(2) or perf_event_open(2)",
        "pod: securityContext: {seccompProfile: {type: Unconfined}}; docker run --security-opt seccomp=unconfined",
    )
