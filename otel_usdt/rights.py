"""Giving up rights: the planner and the pipeline run as another user from their first instruction, with the few capabilities they need.

Standard library only. Capability numbers: include/uapi/linux/capability.h.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import struct
from collections.abc import Callable
from pathlib import Path

from otel_usdt.errors import UsageError
from otel_usdt.probes import syscalls

CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_CHECKPOINT_RESTORE = 2, 19, 40
# The planner reads other processes' /proc and files in their mount namespaces; map_files wants CHECKPOINT_RESTORE (5.9).
PLANNER = (CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_CHECKPOINT_RESTORE)
# The pipeline may read its own code wherever the package lies (/root/...) until it has imported it; then it drops this one too.
PIPELINE_START = (CAP_DAC_READ_SEARCH,)

_LIBC = ctypes.CDLL(None, use_errno=True)
_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT, _RAISE, _CLEAR_ALL = 47, 2, 4
_PR_SET_KEEPCAPS = 8


def _capset(capabilities: int) -> None:
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    header = ctypes.create_string_buffer(struct.pack("<Ii", _VERSION_3, 0))
    data = ctypes.create_string_buffer(struct.pack("<6I", low, low, low, high, high, high))
    if _LIBC.capset(header, data) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"capset: {os.strerror(error)}")


def held() -> int:
    """Our effective capabilities, a bit each."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("CapEff:")[1].split()[0], 16)


def as_user(name: str, capabilities: tuple[int, ...]) -> Callable[[], None]:
    """A function for a child to call between fork and exec: it becomes that user with just these capabilities, for good."""
    try:
        user = pwd.getpwnam(name)
    except KeyError as error:
        raise UsageError(f"no user {name!r} on this host", hint="set pipeline.user to an existing unprivileged user") from error
    if user.pw_uid == 0:
        raise UsageError(
            f"{name!r} is root: the pipeline must have no rights", hint="set pipeline.user to an unprivileged user, such as nobody"
        )
    mask = sum(1 << capability for capability in capabilities) & held()  # CHECKPOINT_RESTORE may be missing: then map_files is not read

    def become() -> None:
        syscalls.prctl(_PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        _capset(mask)
        for capability in range(64):
            if mask >> capability & 1:
                _LIBC.prctl(_PR_CAP_AMBIENT, _RAISE, capability, 0, 0)
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)

    return become


def drop_all() -> None:
    """No capability from here on, and no way to any. Only for a process of one thread: capabilities are each thread's own."""
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise OSError("other threads run already, and would keep their capabilities")
    _LIBC.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    _capset(0)
    if held():
        raise OSError("capabilities are left after dropping them")
