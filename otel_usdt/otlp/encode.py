"""Calls to OTLP trace requests. Every span is made once, with those of its shape (shapes.py); a request is a choice of their bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from otel_usdt.otlp import wire
from otel_usdt.otlp.shapes import encode_shape, probe_of, sort_by_shape
from otel_usdt.plan import Span
from otel_usdt.spans.model import SpanBatch

__all__ = ["SCOPE_NAME", "Encoded", "SpanBatch", "encode_spans"]

SCOPE_NAME = "otel-usdt"
_TAGS = 16  # bytes, at most, of the tags and lengths around a process's spans


@dataclass(frozen=True, slots=True)
class Encoded:
    """One ExportTraceServiceRequest, and how many spans of each span probe it holds, by index into the plan's spans."""

    body: bytes
    counts: dict[int, int]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Spans of one shape and process: their bytes, and where each ends in them."""

    tgid: int
    probe: int
    content: memoryview
    ends: npt.NDArray[np.int64]

    def cut(self, start: int, stop: int) -> _Piece:
        """Some of its spans."""
        begins = int(self.ends[start - 1]) if start else 0
        return _Piece(self.tgid, self.probe, self.content[begins : int(self.ends[stop - 1])], self.ends[start:stop] - begins)


def encode_spans(
    batch: SpanBatch,
    spans: Sequence[Span],
    resources: Mapping[int, Mapping[str, str | int]],
    version: str,
    max_bytes: int = 3_500_000,  # a Collector's gRPC receiver takes 4 MiB
) -> list[Encoded]:
    """The batch as requests smaller than `max_bytes`, one ResourceSpans for each process in each; [] for an empty batch.

    `resources` is keyed by process id (tgid); a process that is not in it goes out with its `process.pid` alone. A single span
    that does not fit is still a request of its own, for the receiver to judge. Within a process and a shape the batch's order is kept.
    """
    if not len(batch.calls):
        return []
    return list(_requests(batch, spans, resources, version, max_bytes))


def _requests(
    batch: SpanBatch, spans: Sequence[Span], resources: Mapping[int, Mapping[str, str | int]], version: str, max_bytes: int
) -> Iterator[Encoded]:
    pieces = _pieces(batch, spans)
    scope = wire.field(1, wire.field(1, SCOPE_NAME.encode()) + wire.field(2, version.encode()))
    heads = {tgid: wire.field(1, wire.attributes(1, resources.get(tgid, {"process.pid": tgid}))) for tgid in {one.tgid for one in pieces}}
    chosen: list[_Piece] = []
    used = 0
    for piece in pieces:
        start = 0
        while start < len(piece.ends):
            around = 0 if chosen and chosen[-1].tgid == piece.tgid else len(heads[piece.tgid]) + len(scope) + _TAGS
            begins = int(piece.ends[start - 1]) if start else 0
            stop = int(np.searchsorted(piece.ends, begins + max_bytes - 1 - used - around, side="right"))
            if stop <= start and chosen:
                yield _request(chosen, heads, scope)
                chosen, used = [], 0
                continue
            stop = max(stop, start + 1)
            chosen.append(piece.cut(start, stop))
            used += around + int(piece.ends[stop - 1]) - begins
            start = stop
    yield _request(chosen, heads, scope)


def _request(chosen: list[_Piece], heads: Mapping[int, bytes], scope: bytes) -> Encoded:
    body, counts = [], Counter[int]()
    for tgid, own in groupby(chosen, key=attrgetter("tgid")):
        contents = []
        for piece in own:
            contents.append(piece.content)
            counts[piece.probe] += len(piece.ends)
        body.append(wire.field(1, heads[tgid] + wire.field(2, b"".join((scope, *contents)))))
    return Encoded(b"".join(body), dict(counts))


def _pieces(batch: SpanBatch, spans: Sequence[Span]) -> list[_Piece]:
    """All spans, those of one process together."""
    whole = sort_by_shape(batch, spans)
    pieces = []
    for start, stop in _runs(whole.shapes):
        probe = probe_of(int(whole.shapes[start]))
        content, ends = encode_shape(whole, slice(start, stop), spans[probe])
        tgids = whole.tgids[start:stop]
        for first, last in _runs(tgids):
            pieces.append(_Piece(int(tgids[first]), probe, content, ends).cut(first, last))
    return sorted(pieces, key=attrgetter("tgid"))


def _runs(values: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where runs of equal values begin and end."""
    return pairwise([0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)])
