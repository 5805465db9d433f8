"""Reading what others wrote: bounded in length, never waited for, no error for what it says. Standard library only."""

from __future__ import annotations

import os
import stat
from urllib.parse import unquote

ATTRIBUTES = 64  # from one source; a resource goes out with every batch
KEY, VALUE = 128, 1024  # characters


def read(path: str, most: int, regular: bool = False) -> bytes:
    """At most `most` bytes; b"" for what is gone or may not be read. Reads until the end: /proc gives a page at a time.

    `regular`: only a regular file that is no symbolic link, for folders that others may write to.
    """
    some: list[bytes] = []
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if regular else 0))
    except (OSError, ValueError):
        return b""
    try:
        if regular and not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        while most > 0 and (part := os.read(descriptor, min(most, 1 << 16))):
            some.append(part)
            most -= len(part)
    except OSError:
        pass  # also ESRCH: it ended while we read
    finally:
        os.close(descriptor)
    return b"".join(some)


def text(value: bytes) -> str:
    """As UTF-8; what is none is replaced."""
    return value.decode(errors="replace")


def kept(value: str) -> str:
    """Fit for an attribute: bounded and printable."""
    return "".join(c if c.isprintable() else "\ufffd" for c in value[:VALUE])


def is_key(key: str) -> bool:
    """Fit for an attribute's name?"""
    return 0 < len(key) <= KEY and key.isprintable()


def attributes(told: str) -> dict[str, str]:
    """`key=value,key=value`, both percent-encoded; what has no form, or is past the bounds, is passed over."""
    found: dict[str, str] = {}
    for member in told[: ATTRIBUTES * (KEY + VALUE)].split(","):
        key, equals, value = member.partition("=")
        key = unquote(key.strip())
        if equals and is_key(key) and len(found) < ATTRIBUTES:
            found[key] = kept(unquote(value.strip()))
    return {key: value for key, value in found.items() if value}
