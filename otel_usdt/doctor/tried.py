"""What the kernel says when really asked: maps, programs, perf events, uprobes on our own binary. All is closed again at once.

The uprobes sit on the entry point of the running Python, for this process alone, where nothing comes by a second time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from otel_usdt.doctor.check import Check, not_tried
from otel_usdt.doctor.rights import ADMIN, BITS, Rights
from otel_usdt.errors import OtelUsdtError
from otel_usdt.probes import syscalls
from otel_usdt.probes.attach import uprobe_pmu
from otel_usdt.probes.tracepoints import TRACEFS, process_tracepoints

# Instructions (include/uapi/linux/bpf.h): opcode, registers, offset, immediate.
_READ_COOKIE = struct.pack("<BBhi", 0x85, 0, 0, 174) + syscalls.RETURN_0  # helper 174: bpf_get_attach_cookie
ARRAY = {"map_type": 2, "key_size": 4, "value_size": 8, "max_entries": 1, "map_flags": 0}
_SOFTWARE, _DUMMY = 1, 9  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY
SELF = Path("/proc/self/exe")


def attempt(name: str, rights: Rights, act: Callable[[], str], remedy: str) -> Check:
    """`act` returns what it found; a refusal by the kernel is a failed check."""
    if not rights.can_try:
        return not_tried(name)
    try:
        return Check(name, "ok", act())
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            remedy = "see capabilities, lockdown and seccomp below"
        return Check(name, "fail", f"{error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})", remedy)
    except OtelUsdtError as error:
        return Check(name, "fail", str(error), error.hint)


@contextmanager
def _open(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def entry_offset(image: bytes) -> int:
    """File offset of a 64-bit ELF file's entry point, from its first page (elf(5))."""
    entry, table = struct.unpack_from("<QQ", image, 24)
    size, count = struct.unpack_from("<HH", image, 54)
    for at in range(table, table + size * count, size):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", image, at)
        if kind == 1 and address <= entry < address + length:
            return int(entry - address + offset)
    raise OSError(errno.ENOEXEC, "our own binary has no entry point")


def _own_entry() -> tuple[ctypes.Array[ctypes.c_char], int]:
    with SELF.open("rb") as file:
        return ctypes.create_string_buffer(str(SELF.resolve()).encode()), entry_offset(file.read(4096))


def _uprobe(is_return: bool = False) -> int:
    path, offset = _own_entry()
    return syscalls.perf_event_open(uprobe_pmu(), int(is_return), ctypes.addressof(path), offset, os.getpid())


def bpf_map(rights: Rights) -> Check:
    """bpf(2) at all: an array of one element."""

    def act() -> str:
        with _open(syscalls.create_map(ARRAY, "doctor")):
            return "made a map"

    return attempt("bpf(2)", rights, act, "a kernel with CONFIG_BPF_SYSCALL is needed")


def program(rights: Rights) -> Check:
    """A program of the kind that uprobes run."""

    def act() -> str:
        with _open(syscalls.load_program("kprobe", syscalls.RETURN_0, "doctor")):
            return "loaded a program"

    return attempt("BPF program", rights, act, "a kernel with CONFIG_BPF_EVENTS is needed")


def perf_event(rights: Rights) -> Check:
    """perf_event_open(2) at all: an event that counts nothing."""

    def act() -> str:
        with _open(syscalls.perf_event_open(_SOFTWARE, _DUMMY, pid=os.getpid())):
            return "opened an event"

    return attempt("perf_event_open(2)", rights, act, "a kernel with CONFIG_PERF_EVENTS is needed")


def uprobe(rights: Rights) -> Check:
    """Entry and return probes."""

    def act() -> str:
        with _open(_uprobe()), _open(_uprobe(is_return=True)):
            return "probed our own binary, entry and return"

    return attempt("uprobe", rights, act, "a kernel with CONFIG_UPROBE_EVENTS is needed; the file system must allow mapping")


def _cookie_link() -> str:
    with (
        _open(syscalls.load_program("kprobe", _READ_COOKIE, "doctor")) as program,
        _open(_uprobe()) as event,
        _open(syscalls.link(program, event, 0x2A)),
    ):
        return "attached a program with a cookie"


def cookie(rights: Rights) -> Check:
    """bpf_get_attach_cookie and BPF_LINK_CREATE on a perf event: what puts the floor at 5.15."""
    return attempt("attach cookie", rights, _cookie_link, "boot a kernel from 5.15 on")


def _uprobe_links(name: str, rights: Rights, kind: int, there: str, absent: str) -> Check:
    """Uprobes by links of a kind. A better way where it is there, so its absence is no fault."""
    if not rights.can_try:
        return not_tried(name)
    return Check(name, "ok", f"there: {there}" if syscalls.takes_uprobe_links(kind) else f"not in this kernel: {absent}")


def uprobe_multi(rights: Rights) -> Check:
    """Many uprobes by one link."""
    absent = "one perf event a probe does the same, and takes 0.1 s each to detach"
    return _uprobe_links("uprobe_multi", rights, syscalls.BPF_TRACE_UPROBE_MULTI, "many probes attach and detach as one", absent)


def uprobe_session(rights: Rights) -> Check:
    """One link for entry and return, where the entry decides whether there will be a return probe."""
    there, absent = "calls outside the scope pay for no return probe", "calls outside the scope pay for entry and return"
    return _uprobe_links("uprobe session", rights, syscalls.BPF_TRACE_UPROBE_SESSION, there, absent)


def tracefs_is_mounted() -> bool:
    """Whether the tracepoints can be read without mounting anything; true as well where only root may look."""
    try:
        return any((folder / "events").is_dir() for folder in (TRACEFS, Path("/sys/kernel/debug/tracing")))
    except PermissionError:
        return True


def tracefs(rights: Rights) -> Check:
    """The tracepoints of fork and exit are read from it; a private mount in a child does where it is not mounted."""

    def act() -> str:
        process_tracepoints()
        return "mounted" if tracefs_is_mounted() else "not mounted: a private mount, for a moment, does"

    return attempt("tracefs", rights, act, f"mount -t tracefs tracefs {TRACEFS}")


def why_admin(rights: Rights) -> str:
    """What CAP_SYS_ADMIN is needed for here, besides CAP_BPF and CAP_PERFMON; "" when for nothing that could be found.

    Kernels patched to insist on it for uprobes are found by trying, in a thread that has given it up: capabilities belong to
    threads, and this one ends with the answer.
    """
    reasons = [] if tracefs_is_mounted() else ["mount tracefs privately, as it is not mounted"]
    wanted = sum(1 << BITS[name] for name in ("CAP_BPF", "CAP_PERFMON"))
    if rights.effective & wanted == wanted:
        refused: list[OSError] = []
        thread = threading.Thread(target=_try_without_admin, args=(rights.effective & ~(1 << BITS[ADMIN]), refused))
        thread.start()
        thread.join()
        if refused:
            reasons.append("attach uprobes, as this kernel insists")
    return ", and ".join(reasons)


def _try_without_admin(left: int, refused: list[OSError]) -> None:
    low, high = left & 0xFFFFFFFF, left >> 32
    header = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0))  # _LINUX_CAPABILITY_VERSION_3, this thread
    data = ctypes.create_string_buffer(struct.pack("<6I", low, low, 0, high, high, 0))
    if ctypes.CDLL(None).capset(header, data) != 0:
        return
    try:
        _cookie_link()
    except PermissionError as error:
        refused.append(error)
    except (OSError, OtelUsdtError):
        return  # refused for another reason, which `cookie` reports
