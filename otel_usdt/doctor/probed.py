"""The faults and ways of a kernel that only a probed program shows: a child of ours is probed, and looked at (doctor/child.py)."""

from __future__ import annotations

from collections.abc import Callable

from otel_usdt.doctor import child
from otel_usdt.doctor.check import Check, not_tried
from otel_usdt.doctor.rights import Rights

ABSENT = "not in this kernel"


def _seen(name: str, rights: Rights, machine: str, look: Callable[[], str], told: Callable[[str], Check]) -> Check:
    """`told` of what `look` saw, where it is worth looking. A child that dies is what it saw too: the signal's name."""
    if machine != "x86_64":
        return Check(name, "ok", "x86_64 only")
    if not rights.can_try:
        return not_tried(name)
    try:
        return told(look())
    except ChildProcessError as death:
        return told(str(death.strerror))
    except OSError as error:
        return Check(name, "warn", f"could not be tried: {error.strerror}", "see uprobe and seccomp above")


def nop5(rights: Rights, machine: str) -> Check:
    """From 6.16 the kernel makes a call of a probed 5-byte nop, which is cheap, and writes below the stack pointer."""
    name = "fault: 5-byte nop"

    def told(seen: str) -> Check:
        if seen == child.BREAKPOINT:
            return Check(name, "ok", f"{ABSENT}: a probe on a 5-byte nop is a breakpoint like others, and costs as much")
        if seen == child.CALL:
            found = "a probe on a 5-byte nop becomes a call, which corrupts the stack inside a function: handled, such places are refused"
            return Check(name, "ok", found)
        return Check(
            name, "warn", f"a probe on a 5-byte nop has become something unknown: {seen}", "report this; such places are refused anyway"
        )

    return _seen(name, rights, machine, child.nop5_becomes, told)


def uretprobe_seccomp(rights: Rights, machine: str, filtered: int) -> Check:
    """Since 6.11 returning through a return probe is a system call; until cf6cb56ef244 a seccomp filter could kill the process for it."""
    name = "fault: seccomp"

    def told(seen: str) -> Check:
        if seen == child.RETURNED:
            return Check(name, "ok", f"{ABSENT}: a filter lets processes return through return probes")
        found = f"return probes kill processes under a seccomp filter (there are {filtered}): a child of ours ended by {seen}"
        return Check(name, "warn", found, "for containers and sandboxed services use USDT pairs, not functions; or boot 6.14 or newer")

    return _seen(name, rights, machine, child.returns_under_seccomp, told)


def trampoline(rights: Rights, machine: str) -> Check:
    """Tail calls are told from abandoned calls by the code of the kernel's return trampoline, which 6.11 changed."""
    name = "return trampoline"

    def told(seen: str) -> Check:
        if kind := child.TRAMPOLINES.get(seen):
            return Check(name, "ok", f"with {kind}: recognised by its code, wherever it is mapped")
        found = f"unknown code ({seen}): tail calls would be counted as unwound"
        return Check(name, "warn", found, "report this, with uname -r; all but tail calls is paired rightly")

    return _seen(name, rights, machine, child.trampoline_code, told)
