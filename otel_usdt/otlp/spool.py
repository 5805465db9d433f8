"""Requests on disk while the receiver is away: append-only segments, the oldest first out, bounded in bytes and age.

A segment is `<number of its first record, 16 hex digits>.spool`, a row of records:

    magic "USDT", length u32, crc32 u32, number u64 (little-endian), then `length` bytes: a line of JSON, a newline, the request

The JSON has the signal, when it was written (unix seconds), and the spans by span probe. A record that is torn, by a kill or a full disk,
ends its segment for the reader; nothing is ever appended behind one, for each run begins a segment of its own. `done` has the number of
the last record that a receiver has settled; a kill between its answer and that note sends one request again.

Written through the page cache: a kill loses nothing, a power cut at most what the kernel had not written (fdatasync at each segment's end).
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

HEAD = struct.Struct("<4sIIQ")
MAGIC, SUFFIX, DONE = b"USDT", ".spool", "done"
DONE_FORM = struct.Struct("<QI")  # number, crc32 of it
LONGEST = 64 << 20  # no request is as long: a length beyond it is damage
SEGMENTS = 16  # that the bound is shared by: what is given up at once when it is reached
SMALLEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A record in its place. `spans` is by span probe's name."""

    number: int
    segment: str
    offset: int
    length: int
    written_s: float
    spans: Mapping[str, int]


@dataclass(slots=True)
class _Segment:
    name: str
    size: int = 0
    entries: deque[Entry] = field(default_factory=deque)
    torn: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """What is in a spool. Bytes are those of its files."""

    records: int
    spans: Counter[str]
    bytes: int
    oldest_s: float | None
    newest_s: float | None
    torn: int


class Spool:
    """The folder behind a descriptor. Two threads may use it: one writes, one sends; no more than one process at a time.

    `first` is the number of the session's first record, which an earlier pipeline of it may have written. Records up to `settled` are
    done with, though the disk may not have taken note of it; `note` is told the last one that is.
    """

    def __init__(
        self, folder_fd: int, max_bytes: int, max_age_s: float, settled: int = 0, note: Callable[[int], None] = lambda _: None
    ) -> None:
        self._folder, self._max_bytes, self._max_age_s = folder_fd, max_bytes, max_age_s
        self._segment_bytes = max(SMALLEST, max_bytes // SEGMENTS)
        self._lock = threading.Lock()  # guards all that follows
        self._note = note
        self._segments = deque(read_segments(folder_fd, settled))
        known = [int(one.name[:16], 16) for one in self._segments]
        known += [entry.number for one in self._segments for entry in one.entries]
        self._number = 1 + max(read_done(folder_fd), settled, *known, 0)
        self.first = self._number
        self._open: int | None = None  # the segment that is written
        self._forget_empty()

    def append(self, signal: str, body: bytes, spans: Mapping[str, int], now_s: float) -> tuple[int, list[Entry]]:
        """Keep a request; returns its number and what had to be given up for it. OSError: it is not kept, and nothing else has changed."""
        about = {"signal": signal, "unix_s": round(now_s, 3), "spans": dict(spans)}
        content = json.dumps(about, separators=(",", ":")).encode() + b"\n" + body
        with self._lock:
            number = self._number
            record = HEAD.pack(MAGIC, len(content), zlib.crc32(content), number) + content
            segment = self._writable(len(record))
            self._write(segment, record)
            segment.entries.append(Entry(number, segment.name, segment.size, len(content), now_s, dict(spans)))
            segment.size += len(record)
            self._number += 1
            return number, self._shrink()

    def next_number(self) -> int:
        """What the next record will have."""
        with self._lock:
            return self._number

    def spans(self) -> Counter[str]:
        """This session's spans, by span probe."""
        with self._lock:
            return status_of(self._segments, self.first).spans

    def oldest(self) -> Entry | None:
        """The record that is to be sent next."""
        with self._lock:
            return next((one.entries[0] for one in self._segments if one.entries), None)

    def read(self, entry: Entry) -> bytes | None:
        """Its request; None when the disk does not give it back whole."""
        try:
            descriptor = os.open(entry.segment, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder)
            try:
                whole = os.pread(descriptor, HEAD.size + entry.length, entry.offset)
            finally:
                os.close(descriptor)
        except OSError:
            return None
        _, length, crc, number = HEAD.unpack_from(whole) if len(whole) >= HEAD.size else (b"", 0, 0, 0)
        content = whole[HEAD.size :]
        if (length, number, len(content)) != (entry.length, entry.number, entry.length) or zlib.crc32(content) != crc:
            return None
        return content.partition(b"\n")[2]

    def settle(self, entry: Entry) -> bool:
        """The oldest record is done with, whatever became of it. False when it was given up meanwhile."""
        with self._lock:
            for segment in self._segments:
                if segment.entries and segment.entries[0].number == entry.number:
                    segment.entries.popleft()
                    self._note_done(entry.number)
                    self._forget_empty()
                    return True
        return False

    def expire(self, now_s: float) -> list[Entry]:
        """Give up what is too old; returns it."""
        gone: list[Entry] = []
        with self._lock:
            for segment in self._segments:
                while segment.entries and segment.entries[0].written_s < now_s - self._max_age_s:
                    gone.append(segment.entries.popleft())
            if gone:
                self._note_done(gone[-1].number)
                self._forget_empty()
        return gone

    def status(self) -> Status:
        """What is in it now."""
        with self._lock:
            return status_of(self._segments)

    def close(self) -> None:
        """Leave all to the next run."""
        with self._lock:
            self._end_segment()

    def _writable(self, room: int) -> _Segment:
        if self._open is not None and self._segments[-1].size + room <= self._segment_bytes:
            return self._segments[-1]
        self._end_segment()
        name = f"{self._number:016x}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._open = os.open(name, flags, 0o600, dir_fd=self._folder)
        self._segments.append(_Segment(name))
        return self._segments[-1]

    def _write(self, segment: _Segment, record: bytes) -> None:
        assert self._open is not None
        data = memoryview(record)
        try:
            while data:
                data = data[os.write(self._open, data) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._open, segment.size)
            self._end_segment()  # whatever lies behind its last whole record, no reader goes past it
            self._forget_empty()
            raise

    def _end_segment(self) -> None:
        if self._open is not None:
            with suppress(OSError):  # a disk that fails now fails the next write too, and that is told
                os.fdatasync(self._open)
            os.close(self._open)
            self._open = None

    def _shrink(self) -> list[Entry]:
        gone: list[Entry] = []
        while sum(one.size for one in self._segments) > self._max_bytes and len(self._segments) > 1:
            first = self._segments[0]
            gone += first.entries
            first.entries.clear()
            self._forget_empty()
        if gone:
            self._note(gone[-1].number)
        return gone

    def _note_done(self, number: int) -> None:
        with suppress(OSError):  # at worst the next session sends a request twice
            descriptor = os.open(DONE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._folder)
            try:
                os.pwrite(descriptor, DONE_FORM.pack(number, zlib.crc32(number.to_bytes(8, "little"))), 0)
            finally:
                os.close(descriptor)
        self._note(number)

    def _forget_empty(self) -> None:
        for segment in [one for one in self._segments if not one.entries]:
            if self._open is not None and segment is self._segments[-1]:
                os.close(self._open)
                self._open = None
            with suppress(OSError):
                os.unlink(segment.name, dir_fd=self._folder)
            self._segments.remove(segment)


def status_of(segments: Iterable[_Segment], first: int = 0) -> Status:
    """What these segments hold, of the records from the number `first` on."""
    segments = list(segments)
    entries = [entry for segment in segments for entry in segment.entries if entry.number >= first]
    spans = sum((Counter(entry.spans) for entry in entries), Counter[str]())
    times = [entry.written_s for entry in entries]
    return Status(
        len(entries),
        spans,
        sum(one.size for one in segments),
        min(times, default=None),
        max(times, default=None),
        sum(one.torn for one in segments),
    )


def read_done(folder_fd: int) -> int:
    """The number of the last record that was settled; 0 for none."""
    with suppress(OSError, struct.error):
        descriptor = os.open(DONE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder_fd)
        try:
            number, crc = DONE_FORM.unpack(os.pread(descriptor, DONE_FORM.size, 0))
        finally:
            os.close(descriptor)
        if crc == zlib.crc32(number.to_bytes(8, "little")):
            return int(number)
    return 0


def read_segments(folder_fd: int, settled: int = 0) -> Iterator[_Segment]:
    """The segments of a folder, oldest first, with the records that are whole and not settled. Other files are not looked at."""
    done = max(read_done(folder_fd), settled)
    for name in sorted(name for name in os.listdir(folder_fd) if _is_segment(name)):
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder_fd)
        try:
            yield _read_segment(name, descriptor, done)
        finally:
            os.close(descriptor)


def _is_segment(name: str) -> bool:
    return len(name) == 16 + len(SUFFIX) and name.endswith(SUFFIX) and all(one in "0123456789abcdef" for one in name[:16])


def _read_segment(name: str, descriptor: int, done: int) -> _Segment:
    segment, at = _Segment(name), 0
    size = os.fstat(descriptor).st_size
    while at < size:
        head = os.pread(descriptor, HEAD.size, at)
        magic, length, crc, number = HEAD.unpack(head) if len(head) == HEAD.size else (b"", 0, 0, 0)
        content = os.pread(descriptor, length, at + HEAD.size) if magic == MAGIC and length <= LONGEST else b""
        if not content or len(content) != length or zlib.crc32(content) != crc:
            segment.torn = True
            break
        try:
            about = json.loads(content.partition(b"\n")[0])
            spans = {str(probe): int(count) for probe, count in about["spans"].items()}
            entry = Entry(number, name, at, length, float(about["unix_s"]), spans)
        except (ValueError, KeyError, TypeError, AttributeError):
            segment.torn = True
            break
        if number > done:
            segment.entries.append(entry)
        at += HEAD.size + length
    segment.size = size
    return segment
