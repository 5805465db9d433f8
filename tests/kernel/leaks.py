"""What a test must not leave behind: processes, mounts, BPF programs, temporary files."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.kernel.session import MARK

SYS_BPF = 321 if os.uname().machine == "x86_64" else 280
BPF_PROG_GET_NEXT_ID, BPF_LINK_GET_NEXT_ID = 11, 31  # include/uapi/linux/bpf.h, enum bpf_cmd
GRACE_S = 20.0  # the kernel lets go of a closed probe after a grace period, 0.1 s each

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Traces:
    """What there is at one moment."""

    processes: frozenset[str]
    mounts: tuple[str, ...]
    programs: frozenset[int]
    links: frozenset[int]
    files: frozenset[str]


def traces() -> Traces:
    """Looks at everything once."""
    return Traces(
        frozenset(marked_processes()),
        tuple(sorted(Path("/proc/self/mounts").read_text().splitlines())),
        frozenset(bpf_ids(BPF_PROG_GET_NEXT_ID)),
        frozenset(bpf_ids(BPF_LINK_GET_NEXT_ID)),
        frozenset(temporary_files()),
    )


def left_behind(before: Traces) -> list[str]:
    """What is new since `before` and does not go within the grace time: empty is good."""
    end = time.monotonic() + GRACE_S
    while faults := differences(before, traces()):
        if time.monotonic() > end:
            return faults
        time.sleep(0.05)
    return []


def differences(before: Traces, after: Traces) -> list[str]:
    """A sentence for each thing that is in `after` only."""
    new = [f"process {one}" for one in sorted(after.processes - before.processes)]
    new += [f"mount {one}" for one in after.mounts if one not in before.mounts]
    new += [f"file {one}" for one in sorted(after.files - before.files)]
    strangers = held_by_strangers() if after.programs - before.programs or after.links - before.links else frozenset()
    new += [f"BPF program {one}" for one in sorted(after.programs - before.programs) if ("prog", one) not in strangers]
    new += [f"BPF link {one}" for one in sorted(after.links - before.links) if ("link", one) not in strangers]
    return new


def marked_processes() -> Iterator[str]:
    """Every process that a test started: its environment says so."""
    ((name, value),) = MARK.items()
    mark = f"{name}={value}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    yield f"{folder.name} {(folder / 'cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace').strip()}"


def bpf_ids(command: int) -> Iterator[int]:
    """Ids of all BPF programs or links of this machine, by bpf(2)."""
    at = 0
    while True:
        request = ctypes.create_string_buffer(struct.pack("<III", at, 0, 0).ljust(128, b"\0"))
        if libc.syscall(SYS_BPF, command, request, len(request)) < 0:
            return
        at = struct.unpack_from("<I", request, 4)[0]
        yield at


def held_by_strangers() -> frozenset[tuple[str, int]]:
    """Programs and links that a process holds which no test has started: another's work on this machine, not ours to judge."""
    ours = {one.split()[0] for one in marked_processes()} | {str(os.getpid())}
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or folder.name in ours:
            continue
        with suppress(OSError):
            for entry in (folder / "fdinfo").iterdir():
                with suppress(OSError):
                    for line in entry.read_text().splitlines():
                        name, _, value = line.partition(":")
                        if name in ("prog_id", "link_id"):
                            found.add((name.removesuffix("_id"), int(value)))
    return frozenset(found)


def temporary_files() -> Iterator[str]:
    """All in TMPDIR, which is this test's alone; elsewhere what is ours by its name."""
    with suppress(OSError):
        yield from map(str, Path(os.environ["TMPDIR"]).iterdir())
    for folder in ("/run", "/dev/shm", "/var/tmp", "/sys/fs/bpf"):
        with suppress(OSError):
            yield from (str(path) for path in Path(folder).iterdir() if "usdt" in path.name)
