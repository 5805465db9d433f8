"""Protobuf by hand: as much of its wire format as OTLP's spans need. https://protobuf.dev/programming-guides/encoding/

A length or number may be written as a *padded* varint, with more bytes than it needs: every parser takes that (the specification bounds
a varint at ten bytes, no more), and it lets a field's place in a message be known before its value is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

WIDEST = 10  # bytes of a negative int64


def varint(value: int, width: int = 1) -> bytes:
    """`value` (not negative) as a varint of `width` bytes or, if it needs more, as many as that."""
    made = bytearray()
    while value > 0x7F or len(made) + 1 < width:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def field(number: int, content: bytes, width: int = 1) -> bytes:
    """A length-delimited field; its length takes at least `width` bytes."""
    return varint(number << 3 | 2) + varint(len(content), width) + content


def key_value(key: str, value: str | int) -> bytes:
    """A KeyValue (opentelemetry/proto/common/v1/common.proto) with a string or an integer of 64 signed bits."""
    any_value = field(1, value.encode()) if isinstance(value, str) else b"\x18" + varint(value % (1 << 64))
    return field(1, key.encode()) + field(2, any_value)


def attributes(number: int, told: Mapping[str, str | int]) -> bytes:
    """A repeated field of KeyValue."""
    return b"".join(field(number, key_value(key, value)) for key, value in told.items())


def varints(values: npt.NDArray[np.int64], width: int = 1) -> Bytes:
    """Each value as a padded varint of `width` bytes, or as many as the widest takes: shape (n, 1 to 8, or 10)."""
    least, most = int(values.min(initial=0)), int(values.max(initial=0))
    width = WIDEST if least < 0 or most >= 1 << 56 else max(width, -(-most.bit_length() // 7))
    bits = values.view(np.uint64)
    if width > 8:
        shifted = bits[:, None] >> np.arange(0, 7 * WIDEST, 7, dtype=np.uint64)
        return ((shifted & np.uint64(0x7F)) | np.array([0x80] * (WIDEST - 1) + [0], np.uint64)).astype(np.uint8)
    # Eight groups of seven bits spread over the eight bytes of a word, all at once.
    spread = bits & np.uint64(0x7F)
    for at in range(1, width):
        spread |= (bits << np.uint64(at)) & np.uint64(0x7F << 8 * at)
    spread |= np.uint64(0x8080808080808080 & ((1 << 8 * (width - 1)) - 1))
    return spread.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]


def ragged(parts: list[tuple[Bytes, npt.NDArray[np.int64]]]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Rows of several parts each, a part (n, w) with the bytes of it that each row uses: one flat array, and each row's length."""
    whole = np.concatenate([part for part, _ in parts], axis=1)
    used = np.concatenate([np.arange(part.shape[1]) < lengths[:, None] for part, lengths in parts], axis=1)
    return whole[used], sum((lengths for _, lengths in parts), np.zeros(len(whole), np.int64))


def decimal(values: npt.NDArray[np.int64]) -> list[bytes]:
    """Each as people write it."""
    return [str(value).encode() for value in values.tolist()]


def column(texts: list[bytes]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Texts as rows (n, longest), zeros behind them, and their lengths."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    width = int(lengths.max(initial=0))
    return np.frombuffer(b"".join(text.ljust(width, b"\0") for text in texts), np.uint8).reshape(len(texts), width), lengths
