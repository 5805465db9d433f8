"""What the supervisor opens for the pipeline, which may open nothing: the file for OTLP/JSON lines, the folder of the spool, and the
memory that one pipeline of a session leaves to the next.

Standard library only. The paths came by the planner, which is not trusted: nothing is followed, and what is not ours is left alone.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import stat

from otel_usdt import errors
from otel_usdt.errors import NotPermitted
from otel_usdt.layout import Layout

CARRIED_BYTES, CARRIED_BYTES_A_SPAN, CARRIED_BYTES_A_ROW = 4096, 4096, 96  # room for what carried.py keeps; untouched it takes no memory
OUTPUT_BEGINS = b'{"resource'  # a line of OTLP/JSON: resourceSpans or resourceMetrics


def open_output(path: str) -> int:
    """The file for OTLP/JSON lines: a new one, or one that has such lines already; the path came by the planner, which is not trusted."""
    hint = "choose another export.file.path; a symbolic link is not followed"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    except OSError as error:
        kind = NotPermitted if isinstance(error, PermissionError) else errors.UsageError
        raise kind(f"{path} cannot be written: {error.strerror}", hint=hint) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode) and os.pread(descriptor, len(OUTPUT_BEGINS), 0) not in (b"", OUTPUT_BEGINS):
        os.close(descriptor)
        raise errors.UsageError(f"{path} exists, and holds no OTLP/JSON lines: it is left alone", hint=hint)
    return descriptor


def open_spool(path: str, user: str) -> int:
    """The spool's folder, for `user` alone and held by one session at a time; made when absent (not the folder that it is in)."""
    hint = "choose another export.spool.path: a folder of its own, that nobody else may write to"
    owner = pwd.getpwnam(user)
    try:
        made = _made(path)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        kind = NotPermitted if isinstance(error, PermissionError) else errors.UsageError
        raise kind(f"spool {path}: {error.strerror}", hint=hint) from error
    try:
        told = os.fstat(folder)
        others_write = told.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        with os.scandir(folder) as inside:
            empty = next(inside, None) is None
        if made or (empty and told.st_uid == 0 and not others_write):  # as we make it, or a package has
            os.fchown(folder, owner.pw_uid, owner.pw_gid)
            os.fchmod(folder, 0o700)
        elif told.st_uid != owner.pw_uid or others_write:
            raise errors.UsageError(f"spool {path} is not {user}'s alone", hint=hint)
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # for as long as the pipeline has it
    except BlockingIOError as error:
        os.close(folder)
        raise errors.UsageError(f"spool {path} is another session's", hint="give each session a folder of its own") from error
    except BaseException:
        os.close(folder)
        raise
    return folder


def _made(path: str) -> bool:
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102 (a path as it was told, and no more of it)
    except FileExistsError:
        return False
    return True


def open_carried(layout: Layout) -> int:
    """The memory for what carried.py keeps of such a plan; its size is sealed, for a page that is taken away is a SIGBUS."""
    descriptor = os.memfd_create("otel-usdt-carried", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rows = 4 * (layout.rows + layout.spans)  # two slots each of what was read and of what was told
    size = CARRIED_BYTES + layout.spans * CARRIED_BYTES_A_SPAN + rows * (CARRIED_BYTES_A_ROW + 8 * layout.cells)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor
