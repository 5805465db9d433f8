"""Kinds of maps that the program and the pipeline need, made, filled or mapped, and closed again."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import ExitStack

from otel_usdt.doctor.check import Check, not_tried
from otel_usdt.doctor.rights import Rights
from otel_usdt.doctor.tried import attempt
from otel_usdt.probes import obi, syscalls

_RINGBUF, _ARRAY, _MMAPABLE = 27, 2, 1 << 10  # include/uapi/linux/bpf.h


def ring_buffer(rights: Rights) -> Check:
    """Records and counters are read from maps that the pipeline maps: it has no rights for more."""

    def act() -> str:
        with ExitStack() as stack:
            for kind, sizes, flags in ((_RINGBUF, (0, 0, mmap.PAGESIZE), 0), (_ARRAY, (4, 8, 1), _MMAPABLE)):
                shape = dict(zip(("key_size", "value_size", "max_entries"), sizes, strict=True))
                made = syscalls.create_map({"map_type": kind, **shape, "map_flags": flags}, "doctor")
                stack.callback(os.close, made)
                mmap.mmap(made, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ).close()
        return "made and mapped a ring buffer and an array"

    return attempt("ring buffer", rights, act, "boot a kernel from 5.8 on (BPF ring buffers)")


def obi_slot(rights: Rights) -> Check:
    """OBI's map goes into a slot of an array of maps. 6.1 takes it only when the slot's template has BTF as well; ours has."""
    name = "map in map"
    if not rights.can_try:
        return not_tried(name)
    try:
        with ExitStack() as stack:
            template, theirs = obi.template(), obi.template()  # OBI's has the same shape, with BTF
            stack.callback(os.close, template)
            stack.callback(os.close, theirs)
            shape = {"map_type": syscalls.ARRAY_OF_MAPS, "key_size": 4, "value_size": 4}
            slots = syscalls.create_map(shape, "doctor", inner=template)
            stack.callback(os.close, slots)
            syscalls.update(slots, obi.SLOT, theirs.to_bytes(4, "little"))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return Check(name, "fail", str(error.strerror), "see capabilities, lockdown and seccomp below")
        return Check(name, "warn", f"a map like OBI's finds no place ({error.strerror})", "calls will not join OBI's requests; report this")
    return Check(name, "ok", "a map like OBI's finds its place")
