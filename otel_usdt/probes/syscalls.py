"""bpf(2), perf_event_open(2) and the few others that Python's standard library lacks. Numbers only, no policy.

Sources: include/uapi/linux/bpf.h, include/uapi/linux/perf_event.h, prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)
_BPF, _PERF_EVENT_OPEN = {"x86_64": (321, 298), "aarch64": (280, 241)}[platform.machine()]

MAP_CREATE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM, MAP_GET_NEXT_KEY, PROG_LOAD = 0, 1, 2, 3, 4, 5
OBJ_GET, OBJ_GET_INFO_BY_FD, BTF_LOAD, LINK_CREATE = 7, 15, 18, 28
LRU_HASH, ARRAY_OF_MAPS = 9, 12  # map types
BPF_F_RDONLY = 8
PROGRAM_TYPES = {"kprobe": 2, "tracepoint": 5}
BPF_PERF_EVENT, BPF_TRACE_UPROBE_MULTI, BPF_TRACE_UPROBE_SESSION = 41, 48, 57  # attach types
PERF_TYPE_TRACEPOINT = 2
PERF_FLAG_FD_CLOEXEC = 8
INTERRUPTED_TRIES = 5  # of a load that a signal cuts short
RETURN_0 = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # the shortest program
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def bpf(command: int, attribute: bytes) -> int:
    """bpf(2): a descriptor or 0; OSError with its errno."""
    buffer = ctypes.create_string_buffer(attribute, len(attribute))
    return _checked(_LIBC.syscall(_BPF, command, buffer, len(attribute)))


def create_map(shape: dict[str, int], name: str, *, inner: int = 0, btf: tuple[int, int, int] = (0, 0, 0)) -> int:
    """A map of that shape (map_type, key_size, value_size, and perhaps max_entries, else 1, and map_flags); its descriptor.

    `inner` is the descriptor of a map like those that a map of maps will hold; `btf` has a descriptor, and the type ids of key and value.
    """
    sizes = shape["map_type"], shape["key_size"], shape["value_size"], shape.get("max_entries", 1), shape.get("map_flags", 0)
    return bpf(MAP_CREATE, struct.pack("<IIIIIII16sIIII", *sizes, inner, 0, name.encode()[:15], 0, *btf))


def load_btf(told: bytes) -> int:
    """BTF from its bytes; its descriptor."""
    buffer = ctypes.create_string_buffer(told, len(told))
    return bpf(BTF_LOAD, struct.pack("<QQIII", ctypes.addressof(buffer), 0, len(told), 0, 0))


def open_pinned_map(path: str) -> int:
    """A map that is pinned in a bpffs, for reading; its descriptor."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return bpf(OBJ_GET, struct.pack("<QII", ctypes.addressof(name), 0, BPF_F_RDONLY))


def map_shape(map_fd: int) -> tuple[int, int, int]:
    """Map type, bytes of a key, bytes of a value."""
    info = ctypes.create_string_buffer(80)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", map_fd, len(info), ctypes.addressof(info)))
    kind, _, key_bytes, value_bytes = struct.unpack_from("<IIII", info.raw)
    return kind, key_bytes, value_bytes


def delete(map_fd: int, key: bytes) -> None:
    """Take one element out; FileNotFoundError when there is none."""
    buffer = ctypes.create_string_buffer(key, len(key))
    bpf(MAP_DELETE_ELEM, struct.pack("<I4xQ", map_fd, ctypes.addressof(buffer)))


def update(map_fd: int, key: bytes, value: bytes) -> None:
    """Set one element; key and value as they lie in memory."""
    key_buffer, value_buffer = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    bpf(MAP_UPDATE_ELEM, struct.pack("<I4xQQQ", map_fd, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer), 0))


def lookup(map_fd: int, key: bytes, size: int) -> bytes | None:
    """One element's value of `size` bytes, or None when there is none."""
    key_buffer, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    try:
        bpf(MAP_LOOKUP_ELEM, struct.pack("<I4xQQQ", map_fd, ctypes.addressof(key_buffer), ctypes.addressof(value), 0))
    except FileNotFoundError:
        return None
    return value.raw


def keys(map_fd: int, size: int) -> list[bytes]:
    """All keys of a map that may be changing meanwhile: one that comes or goes may be missed, none appears twice."""
    found: dict[bytes, None] = {}
    here, following = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
    first = True
    while True:
        try:
            bpf(MAP_GET_NEXT_KEY, struct.pack("<I4xQQ", map_fd, 0 if first else ctypes.addressof(here), ctypes.addressof(following)))
        except FileNotFoundError:
            return list(found)
        if following.raw in found:  # `here` was deleted: the kernel began anew
            return list(found)
        found[following.raw] = None
        here.raw, first = following.raw, False


def load_program(kind: str, code: bytes, name: str, attach_type: int = 0) -> int:
    """Verify and load; its descriptor. `attach_type` is how it will be attached, where the kernel wants to know that.

    On refusal the OSError's strerror ends with the verifier's last lines.
    """
    text, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")

    def attempt(log: ctypes.Array[ctypes.c_char] | None) -> int:
        place = (1, len(log), ctypes.addressof(log)) if log else (0, 0, 0)
        head = (PROGRAM_TYPES[kind], len(code) // 8, ctypes.addressof(text), ctypes.addressof(licence))
        return bpf(PROG_LOAD, struct.pack("<IIQQIIQII16sII", *head, *place, 0, 0, name.encode()[:15], 0, attach_type))

    try:
        for _ in range(INTERRUPTED_TRIES):
            with contextlib.suppress(BlockingIOError):  # EAGAIN, by a signal while the verifier works (kernel/bpf/verifier.c, do_check)
                return attempt(None)
        return attempt(None)
    except OSError as error:
        log = ctypes.create_string_buffer(1 << 24)
        try:
            return attempt(log)
        except OSError:
            tail = log.value.decode(errors="replace").strip().splitlines()[-6:]
            raise OSError(error.errno, "\n".join([error.strerror or "", *tail])) from error


def perf_event_open(kind: int, config: int = 0, config1: int = 0, config2: int = 0, pid: int = -1) -> int:
    """A perf event with sample_period 1 on CPU 0 (of a pid: on any); its descriptor, closed on exec."""
    attribute = bytearray(128)  # PERF_ATTR_SIZE_VER7
    struct.pack_into("<IIQQ", attribute, 0, kind, len(attribute), config, 1)
    struct.pack_into("<IIQQ", attribute, 48, 1, 0, config1, config2)  # wakeup_events, bp_type
    return _checked(_LIBC.syscall(_PERF_EVENT_OPEN, bytes(attribute), pid, 0 if pid == -1 else -1, -1, PERF_FLAG_FD_CLOEXEC))


def link(program_fd: int, event_fd: int, cookie: int) -> int:
    """BPF_LINK_CREATE on a perf event (kernel 5.15); closing the link detaches."""
    return bpf(LINK_CREATE, struct.pack("<IIIIQ", program_fd, event_fd, BPF_PERF_EVENT, 0, cookie))


def link_uprobes(
    program_fd: int,
    attach_type: int,
    path: str,
    offsets: list[int],
    semaphores: list[int],
    cookies: list[int],
    *,
    uretprobe: bool,
    pid: int,
) -> int:
    """BPF_LINK_CREATE with many uprobes of one file; closing the link detaches all. `pid` 0: every process that maps it.

    BPF_TRACE_UPROBE_MULTI (kernel 6.6) makes entry or return probes; BPF_TRACE_UPROBE_SESSION (6.13) both at each place.
    """
    name = ctypes.create_string_buffer(path.encode())
    arrays = [(ctypes.c_uint64 * len(offsets))(*values) for values in (offsets, semaphores, cookies)]
    places = (ctypes.addressof(name), *map(ctypes.addressof, arrays))
    head = (program_fd, 0, attach_type, 0)
    return bpf(LINK_CREATE, struct.pack("<IIIIQQQQIII4x", *head, *places, len(offsets), int(uretprobe), pid))


def takes_uprobe_links(attach_type: int) -> bool:
    """Does this kernel link uprobes by that attach type? One that does not may still load a program of that type, without a look at it.

    Tried with a folder for the file: a kernel that knows the type says EBADF (kernel/trace/bpf_trace.c, bpf_uprobe_multi_link_attach).
    """
    try:
        program = load_program("kprobe", RETURN_0, "probe", attach_type)
    except OSError:
        return False
    try:
        os.close(link_uprobes(program, attach_type, "/", [0], [0], [0], uretprobe=False, pid=0))
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.EOPNOTSUPP)
    finally:
        os.close(program)
    return True


def prctl(option: int, argument: int) -> None:
    """prctl(2) with one argument."""
    _checked(_LIBC.prctl(option, argument, 0, 0, 0))


def private_mounts() -> None:
    """Leave the mount namespace for one of our own from which nothing propagates."""
    clone_newns, ms_rec_private = 0x20000, 0x4000 | 0x40000
    _checked(_LIBC.unshare(clone_newns))
    _checked(_LIBC.mount(b"none", b"/", None, ms_rec_private, None))


def mount(kind: str, where: str) -> None:
    """mount(2) of a pseudo file system."""
    _checked(_LIBC.mount(kind.encode(), where.encode(), kind.encode(), 0, None))
