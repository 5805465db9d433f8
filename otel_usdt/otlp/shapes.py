"""Spans of one shape as OTLP bytes: a template of fixed size, its columns filled in by numpy, and behind it what varies in length.

A shape is a span probe and what of it is there: a parent, an error, ... All its spans have the same bytes but for ids, times and numbers,
so that they are a matrix. opentelemetry/proto/trace/v1/trace.proto says what the fields mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from otel_usdt.otlp.wire import Bytes, attributes, column, decimal, field, ragged, varint, varints
from otel_usdt.plan import ARGUMENT_SLOTS, Attribute, Span
from otel_usdt.spans.model import COMPARE, SpanBatch, unix_times
from otel_usdt.stream.records import DISAGREES, REMOTE, TEXT_FLAG

# W3C "sampled"; bit 8: "is_remote is known"; bit 9: it is (trace.proto, SpanFlags).
FLAGS, IS_REMOTE = 0x101, 0x200
_ROOT, _ERROR, _REMOTE, _UNCERTAIN, _LINKED = (1 << n for n in range(5))
_BITS = 5
_LENGTH = 3  # bytes of a span's length where it varies
_TEXT_LENGTH = 2  # of a text's: at most 255 bytes, thrice that when none of them was UTF-8
_INTERNAL = b"\x30\x01"
_STATUS_ERROR = field(15, b"\x18\x02")


@dataclass(frozen=True, slots=True)
class _Template:
    """A span's bytes with holes. `ids` has its ids and times as fields; `numbers` are (offset, width, argument slot; -1: thread id)."""

    row: Bytes
    ids: np.dtype[np.void]
    numbers: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Sorted:
    """A batch in the order of `shapes`, which are its calls' shapes then, and what is made of all its calls at once.

    Times are unix nanoseconds; `numbers` has the varints, all of one width, of each argument slot in use, and of the thread ids (-1).
    """

    batch: SpanBatch  # but for its texts, which are large: the call at `row` has those at order[row]
    order: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64]
    tgids: npt.NDArray[np.int64]
    start: npt.NDArray[np.uint64]
    end: npt.NDArray[np.uint64]
    numbers: dict[int, Bytes]


def sort_by_shape(batch: SpanBatch, spans: Sequence[Span]) -> Sorted:
    """By shape, and those of one shape by process; otherwise the order stays."""
    shapes, tgids = _shapes(batch, spans), (batch.calls["thread"] >> np.uint64(32)).astype(np.int64)
    order = np.lexsort((tgids, shapes))
    links = batch.links.copy()
    links["row"] = np.argsort(order)[links["row"]]
    calls = batch.calls[order]
    whole = SpanBatch(calls, batch.texts, batch.realtime_offset_ns, links)
    numbers = {-1: varints((calls["thread"] & np.uint64(0xFFFFFFFF)).astype(np.int64))}
    for slot in {one.slot for probe in np.unique(calls["probe"]).tolist() for one in spans[probe].attributes if not one.string}:
        numbers[slot] = varints(np.ascontiguousarray(calls["arg"][:, slot]))
    return Sorted(whole, order, shapes[order], tgids[order], *unix_times(whole), numbers)


def _shapes(batch: SpanBatch, spans: Sequence[Span]) -> npt.NDArray[np.int64]:
    calls = batch.calls
    shape = calls["probe"].astype(np.int64) << _BITS
    shape |= np.where(calls["parent"] == 0, _ROOT, 0)
    shape |= np.where(calls["flags"] & REMOTE, _REMOTE, 0) | np.where(calls["flags"] & DISAGREES, _UNCERTAIN, 0)
    shape |= np.where(calls["link"] != 0, _LINKED, 0)
    shape[batch.links["row"]] |= _LINKED
    for probe in np.flatnonzero(np.bincount(calls["probe"])).tolist():
        if (when := spans[probe].error) is not None:
            shape[(calls["probe"] == probe) & COMPARE[when.operator](calls["arg"][:, when.slot], when.value)] |= _ERROR
    return shape


def probe_of(shape: int) -> int:
    """The span probe that a shape is of."""
    return shape >> _BITS


def encode_shape(whole: Sorted, rows: slice, span: Span) -> tuple[memoryview, npt.NDArray[np.int64]]:
    """The calls at `rows`, all of one shape: their bytes, each with its tag, and where each ends."""
    shape = int(whole.shapes[rows.start])
    by_value = span.error if shape & _ERROR and span.error and not span.error.type else None
    varies = bool(by_value or shape & _LINKED or any(one.string for one in span.attributes))
    template = _template(span, shape & (1 << _BITS) - 1, _widths(whole.numbers), varies)
    fixed = _filled(template, whole, rows)
    size = fixed.shape[1]
    if not varies:
        return fixed.data.cast("B"), np.arange(size, size * len(fixed) + 1, size)
    calls, parts = whole.batch.calls[rows], [(fixed, np.full(len(fixed), size))]
    for one in span.attributes:
        if one.string and whole.batch.texts is not None:
            parts.append(_texts(one, calls["flags"], whole.batch.texts[whole.order[rows], one.slot]))
    if by_value:
        parts.append(_attribute("error.type", *column(decimal(calls["arg"][:, by_value.slot]))))
    if shape & _LINKED:
        parts.append(_links(whole.batch, rows))
    flat, lengths = ragged(parts)
    ends = np.cumsum(lengths)
    inner = varints(lengths - 1 - _LENGTH, _LENGTH)
    for at in range(_LENGTH):
        flat[ends - lengths + 1 + at] = inner[:, at]  # behind its tag
    return flat.data, ends


def _widths(numbers: dict[int, Bytes]) -> tuple[int, ...]:
    return tuple(numbers[slot].shape[1] if slot in numbers else 0 for slot in range(-1, ARGUMENT_SLOTS))


@lru_cache(maxsize=4096)
def _template(span: Span, bits: int, widths: tuple[int, ...], varies: bool) -> _Template:
    """`widths` are the bytes of the thread id and of each argument slot."""
    content = bytearray()
    holes: list[tuple[str, str, int]] = []
    numbers: list[tuple[int, int, int]] = []

    def hole(tag: bytes, *fields: tuple[str, str]) -> None:
        content.extend(tag)
        for name, kind in fields:
            holes.append((name, kind, len(content)))
            content.extend(bytes(8))

    hole(b"\x0a\x10", ("high", ">u8"), ("low", ">u8"))
    hole(b"\x12\x08", ("span", ">u8"))
    if not bits & _ROOT:
        hole(b"\x22\x08", ("parent", ">u8"))
    content.extend(field(5, span.name.encode()) + _INTERNAL)
    hole(b"\x39", ("start", "<u8"))
    hole(b"\x41", ("end", "<u8"))
    for key, value in _attributes(span, bits).items():
        if isinstance(value, str):
            content.extend(attributes(9, {key: value}))
        else:
            width = widths[value + 1]
            any_value = b"\x18" + varint(0, width)
            content.extend(field(9, field(1, key.encode()) + field(2, any_value)))
            numbers.append((len(content) - width, width, value))
    if bits & _ERROR:
        content.extend(_STATUS_ERROR)
    content.extend(b"\x85\x01" + (FLAGS | (IS_REMOTE if bits & _REMOTE else 0)).to_bytes(4, "little"))
    head = b"\x12" + (varint(0, _LENGTH) if varies else varint(len(content)))
    shift = len(head)
    row = np.frombuffer(head + bytes(content), np.uint8)
    names, kinds, offsets = zip(*holes, strict=True)
    ids = np.dtype({"names": list(names), "formats": list(kinds), "offsets": [at + shift for at in offsets], "itemsize": len(row)})
    return _Template(row, ids, tuple((at + shift, width, slot) for at, width, slot in numbers))


def _attributes(span: Span, bits: int) -> dict[str, str | int]:
    """Key -> a text, or the slot of a number (-1: the thread id). A declared key wins, for keys must be unique."""
    told: dict[str, str | int] = {"thread.id": -1}
    if span.function:
        told["code.function.name"] = span.function
    for one in span.attributes:
        if one.string:
            told.pop(one.key, None)
        else:
            told[one.key] = one.slot
    if bits & _ERROR and span.error:
        told.pop("error.type", None)
        if span.error.type:
            told["error.type"] = span.error.type
    if bits & _UNCERTAIN:
        told["otel_usdt.parent"] = "uncertain"
    return told


def _filled(template: _Template, whole: Sorted, rows: slice) -> Bytes:
    calls = whole.batch.calls[rows]
    made = np.empty((len(calls), len(template.row)), np.uint8)
    made[:] = template.row
    columns = made.view(template.ids)[:, 0]
    columns["high"], columns["low"] = calls["trace"][:, 0], calls["trace"][:, 1]
    columns["span"] = calls["span"]
    if "parent" in (template.ids.names or ()):
        columns["parent"] = calls["parent"]
    columns["start"], columns["end"] = whole.start[rows], whole.end[rows]
    for at, width, slot in template.numbers:
        made[:, at : at + width] = whole.numbers[slot][rows]
    return made


def _attribute(key: str, texts: Bytes, lengths: npt.NDArray[np.int64]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """A string attribute of varying length, as a part for `ragged`."""
    name, tag = field(1, key.encode()), 1 + _TEXT_LENGTH
    head = b"\x4a" + bytes(_TEXT_LENGTH) + name + b"\x12" + bytes(_TEXT_LENGTH) + b"\x0a" + bytes(_TEXT_LENGTH)
    rows = np.empty((len(texts), len(head)), np.uint8)
    rows[:] = np.frombuffer(head, np.uint8)
    for at, inner in ((1, len(name) + 2 * tag), (tag + len(name) + 1, tag), (len(head) - _TEXT_LENGTH, 0)):
        rows[:, at : at + _TEXT_LENGTH] = varints(lengths + inner, _TEXT_LENGTH)
    return np.concatenate((rows, texts), axis=1), lengths + len(head)


def _texts(one: Attribute, flags: npt.NDArray[np.uint16], texts: Bytes) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Up to the NUL of each, valid UTF-8 whatever was read; nothing where none was."""
    there = flags & (TEXT_FLAG << one.slot) > 0
    ended = texts == 0
    lengths = np.where(ended.any(axis=1), ended.argmax(axis=1), texts.shape[1])
    lengths[~there] = 0
    texts = texts[:, : int(lengths.max(initial=0))]
    odd = ((texts > 0x7F) & (np.arange(texts.shape[1]) < lengths[:, None])).any(axis=1)
    if odd.any():
        told = zip(texts, lengths.tolist(), odd.tolist(), strict=True)
        texts, lengths = column([_valid(row[:length].tobytes()) if how else row[:length].tobytes() for row, length, how in told])
    part, used = _attribute(one.key, texts, lengths)
    return part, np.where(there, used, 0)


def _valid(text: bytes) -> bytes:
    return text.decode(errors="replace").encode()


def _links(batch: SpanBatch, rows: slice) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Of the trace that the call is in, then those of the batch."""
    told = [[_link(call["trace"], int(call["link"]))] if call["link"] else [] for call in batch.calls[rows]]
    for one in batch.links:
        if rows.start <= one["row"] < rows.stop:
            told[int(one["row"]) - rows.start].append(_link(one["trace"], int(one["span"])))
    return column([b"".join(links) for links in told])


def _link(trace: npt.NDArray[np.uint64], span: int) -> bytes:
    ids = field(1, trace.astype(">u8").tobytes()) + field(2, span.to_bytes(8, "big"))
    return field(13, ids + b"\x35" + FLAGS.to_bytes(4, "little"))
