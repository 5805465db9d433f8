"""What kernel this is, by its own account: version, build, switches, and the faults that its version is known for.

Functions take the root of the file system, so that tests can show them another host.
"""

from __future__ import annotations

import re
from pathlib import Path

from otel_usdt.doctor.check import Check

FLOOR = (5, 15)  # bpf_get_attach_cookie, by which one program serves every probe site
ROOT = Path("/")


def version_of(release: str) -> tuple[int, int]:
    """(6, 1) of "6.1.0-28-amd64"; (0, 0) of what is no kernel release."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def read(path: Path) -> str | None:
    """The file's text without the line's end, or None when it is not there or not ours to read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def kernel_version(release: str) -> Check:
    """Against the floor. Distributions carry features back, so below it the later checks have the last word."""
    if version_of(release) >= FLOOR:
        return Check("kernel", "ok", release)
    return Check("kernel", "fail", f"{release}: older than 5.15", "boot a kernel from 5.15 on (attach cookies for uprobes)")


def btf(root: Path = ROOT) -> Check:
    """The kernel's types. Our programs need none; other tools, OBI among them, do."""
    if (root / "sys/kernel/btf/vmlinux").exists():
        return Check("BTF", "ok", "/sys/kernel/btf/vmlinux")
    return Check("BTF", "ok", "none: not needed here, but OBI and most other BPF tools want it")


def uprobe_pmu(root: Path = ROOT) -> Check:
    """The perf event type by which uprobes are made."""
    kind = read(root / "sys/bus/event_source/devices/uprobe/type")
    if kind is not None:
        return Check("uprobe PMU", "ok", f"perf event type {kind}")
    return Check(
        "uprobe PMU",
        "fail",
        "no /sys/bus/event_source/devices/uprobe/type",
        "a kernel with CONFIG_UPROBE_EVENTS is needed; in a container, mount the host's /sys",
    )


def lockdown(root: Path = ROOT) -> Check:
    """Confidentiality takes bpf_probe_read_kernel away, by which probes read registers; integrity does not."""
    told = read(root / "sys/kernel/security/lockdown")
    mode = re.search(r"\[(\w+)\]", told or "")
    if mode is None:
        return Check("lockdown", "ok", "not in this kernel, or securityfs is not mounted")
    if mode[1] == "confidentiality":
        return Check("lockdown", "fail", mode[1], "boot with lockdown=integrity: in confidentiality BPF may not read registers")
    return Check("lockdown", "ok", mode[1])


def unprivileged_bpf(root: Path = ROOT) -> Check:
    """A matter of the host's safety; we never load programs without rights."""
    value = read(root / "proc/sys/kernel/unprivileged_bpf_disabled")
    meaning = {"0": "any user may load some BPF programs", "1": "needs CAP_BPF, until reboot", "2": "needs CAP_BPF"}
    found = "not there: needs CAP_BPF or CAP_SYS_ADMIN" if value is None else f"{value}: {meaning.get(value, 'unknown')}"
    return Check("unprivileged_bpf_disabled", "ok", found)


def perf_event_paranoid(root: Path = ROOT) -> Check:
    """Binds only those without CAP_PERFMON."""
    value = read(root / "proc/sys/kernel/perf_event_paranoid")
    return Check("perf_event_paranoid", "ok", "not there" if value is None else f"{value}: no matter with CAP_PERFMON")


def uretprobe_pid_filter(release: str) -> Check:
    """Seen on 6.1 and 6.12: a return probe for one pid fires for every process that another event probes there.

    By its version: to see it would take two processes and a program, and it changes nothing, for the check in BPF is always made.
    """
    name = "fault: pid filter"
    if version_of(release) < (6, 13):
        return Check(name, "ok", "return probes ignore their pid up to 6.12: handled, the BPF program checks it again")
    return Check(name, "ok", "not in this kernel")


def processes_under_seccomp(root: Path = ROOT) -> int:
    """How many processes here run under a seccomp filter."""
    statuses = (read(folder / "status") or "" for folder in (root / "proc").glob("[0-9]*"))
    return sum("\nSeccomp:\t2" in status for status in statuses)
