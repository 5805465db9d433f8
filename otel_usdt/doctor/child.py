"""What only a probed process shows: a child maps a function of its own, probes it, calls it, and looks at what the kernel has made of it.

Whatever a kernel's fault does there, it does to that child. x86_64 only: elsewhere these faults are unknown. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import signal
import struct
from collections.abc import Callable
from pathlib import Path

from otel_usdt.probes import syscalls
from otel_usdt.probes.attach import uprobe_pmu

FUNCTION = bytes.fromhex("0f1f440000 c3")  # a 5-byte nop, ret
CALL, BREAKPOINT, RETURNED = "e8", "cc", "returned"  # what is seen
CALLS = 16  # the kernel rewrites a nop after its first hit
TRAMPOLINES = {"cc": "a breakpoint", "50514153": "the uretprobe system call"}  # as bpf/arch.bpf.h knows them
URETPROBE = 335  # arch/x86/entry/syscalls/syscall_64.tbl
_SET_MODE_FILTER, _SECCOMP, _ALLOW, _KILL = 1, 317, 0x7FFF0000, 0x80000000


def in_child(act: Callable[[], str]) -> str:
    """What `act` returns, in a child of our own. ChildProcessError says how the child died; OSError what the kernel refused it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = "=" + act()
        except OSError as error:
            answer = f"!{error.errno or errno.EINVAL}"
        except BaseException:  # nothing of the parent's may go on here
            answer = f"!{errno.EINVAL}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise ChildProcessError(errno.ECHILD, signal.Signals(os.WTERMSIG(status)).name)
    if not told.startswith("="):
        number = int(told[1:] or errno.EIO)
        raise OSError(number, os.strerror(number))
    return told[1:]


def _probed(*, uretprobe: bool) -> tuple[Callable[[], None], int]:
    """The function, mapped and probed in this process; and its address. Lives as long as the process does."""
    file = os.memfd_create("otel-usdt-doctor")
    os.write(file, FUNCTION.ljust(mmap.PAGESIZE, b"\xf4"))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    name = ctypes.create_string_buffer(f"/proc/self/fd/{file}".encode())
    syscalls.perf_event_open(uprobe_pmu(), int(uretprobe), ctypes.addressof(name), 0, os.getpid())
    return ctypes.CFUNCTYPE(None)(address), int(address)


def nop5_becomes() -> str:
    """The first byte of a probed 5-byte nop after some hits, in hex: CALL or BREAKPOINT."""

    def act() -> str:
        function, address = _probed(uretprobe=False)
        for _ in range(CALLS):
            function()
        return ctypes.string_at(address, 1).hex()

    return in_child(act)


def trampoline_code() -> str:
    """The code at which a function with a return probe returns, in hex: four bytes, or a breakpoint's one."""

    def act() -> str:
        function, _ = _probed(uretprobe=True)
        function()
        for line in Path("/proc/self/maps").read_text().splitlines():
            if re.search(r"\[uprobes\]$", line):
                code = ctypes.string_at(int(line.partition("-")[0], 16), 4).hex()
                return BREAKPOINT if code.startswith(BREAKPOINT) else code
        raise OSError(errno.ENOENT, "no page of uprobes")

    return in_child(act)


def returns_under_seccomp() -> str:
    """RETURNED, from a function with a return probe, under a filter that kills for the system call by which the kernel does it."""

    def act() -> str:
        function, _ = _probed(uretprobe=True)
        lines = ((0x20, 0, 0, 0), (0x15, 0, 1, URETPROBE), (0x06, 0, 0, _KILL), (0x06, 0, 0, _ALLOW))  # load nr; is it?; kill; allow
        code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
        program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(lines), ctypes.addressof(code)))
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(_SECCOMP, _SET_MODE_FILTER, 0, program) != 0:
            raise OSError(ctypes.get_errno(), "seccomp")
        function()
        return RETURNED

    return in_child(act)
