"""Spans, in the order in which calls return, become trees. Standard library only.

A call is reported when it returns, so children come before their parents, and a root comes last. Two things break that order, and
both are common in a database: records with text travel in a ring of their own, and a pair such as a transaction can outlive the
call that it began in. So a span is shown once all its ancestors are there or have been shown, in one piece with what came along.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from otel_usdt.cli.views.text import duration, left, plural, printable, right

Attributes = dict[str, Any]

_HIDDEN = ("code.function.name", "error.type")


@dataclass(frozen=True, slots=True)
class Span:
    """One span line of docs/json.md; its text made harmless for terminals."""

    name: str
    trace_id: str
    span_id: str
    parent: str  # "" for a root
    start_ns: int
    end_ns: int
    pid: int
    tid: int
    error: bool
    attributes: Attributes

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


@dataclass(frozen=True, slots=True)
class Row:
    """A span in its place: rows of a trace are in the order of a tree, depth first, children by start."""

    depth: int
    span: Span
    parent: Span | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """A tree, or a piece of one."""

    trace_id: str
    rows: tuple[Row, ...]
    cut: int = 0  # spans of this trace that were not kept
    partial: str = ""  # why this is not the whole tree with its root: for people; "" when it is

    @property
    def start_ns(self) -> int:
        return min(row.span.start_ns for row in self.rows)

    @property
    def end_ns(self) -> int:
        return max(row.span.end_ns for row in self.rows)

    @property
    def duration_ns(self) -> int:
        """From the first start to the last end: a child may outlive its root."""
        return self.end_ns - self.start_ns


@dataclass(slots=True)
class _Waiting:
    """The spans of one trace whose ancestors have not all been seen."""

    spans: dict[str, Span] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)
    cut: int = 0
    fed: bool = True  # since the last complete()
    ready: bool = False  # a root, or the child of a span that was given out, is among them


class SpanTree:
    """Collects spans, gives out trees. Memory is bounded; what is cut is counted in `Trace.cut`, or comes early and says so."""

    def __init__(self, *, max_spans: int = 20_000, trace_spans: int = 2_000) -> None:
        self.spans = 0  # ever fed
        self.errors = 0
        self._max_spans = max_spans  # 20,000 spans are about 30 MB
        self._trace_spans = trace_spans
        self._kept = 0
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()  # by trace id, oldest first
        self._given: OrderedDict[str, set[str]] = OrderedDict()  # span ids that were given out, for children that come later
        self._given_ids = 0
        self._evicted: list[Trace] = []

    @property
    def waiting(self) -> int:
        """Spans that wait for a parent which has not returned yet."""
        return self._kept

    def feed(self, line: dict[str, Any]) -> None:
        """Takes a span line of docs/json.md."""
        span = parse(line)
        self.spans += 1
        self.errors += span.error
        group = self._waiting.setdefault(span.trace_id, _Waiting())
        group.fed = True
        # A parent of what is kept is kept as well, or its children would wait for ever.
        if len(group.spans) >= self._trace_spans and span.span_id not in group.parents and span.parent:
            group.cut += 1
            return
        self._kept += span.span_id not in group.spans
        group.spans[span.span_id] = span
        group.parents.add(span.parent)
        group.ready |= not span.parent or span.parent in self._given.get(span.trace_id, ())
        while self._kept > self._max_spans:
            trace_id, oldest = self._waiting.popitem(last=False)
            self._kept -= len(oldest.spans)
            self._evicted.append(_trace(trace_id, oldest, list(oldest.spans.values()), "too many spans wait for their parents"))

    def complete(self) -> list[Trace]:
        """The trees that are ready: their root has come, and since the last call nothing more of them. Oldest first.

        Call it a few times a second: that is the time which a straggler has.
        """
        traces, self._evicted = self._evicted, []
        for trace_id, group in list(self._waiting.items()):
            if group.ready and not group.fed:
                traces.append(self._give(trace_id, group))
            group.fed = False
        return traces

    def rest(self) -> list[Trace]:
        """Everything that still waits, at the end of a session."""
        traces, self._evicted = self._evicted, []
        for trace_id, group in list(self._waiting.items()):
            if group.ready:
                traces.append(self._give(trace_id, group))
            if group.spans or group.cut:
                traces.append(_trace(trace_id, group, list(group.spans.values()), "its root was not seen to return before the end"))
        self._waiting.clear()
        self._kept = 0
        return traces

    def _give(self, trace_id: str, group: _Waiting) -> Trace:
        given = self._given.pop(trace_id, set())
        tops = [s for s in group.spans.values() if not s.parent or s.parent in given]
        whole = any(not s.parent for s in tops)
        trace = _trace(trace_id, group, tops, "" if whole else "goes on from above: its parent returned earlier")
        ids = {row.span.span_id for row in trace.rows}
        for span_id in ids:
            del group.spans[span_id]
        self._kept -= len(ids)
        group.parents = {s.parent for s in group.spans.values()}
        group.cut, group.ready = 0, False
        if not group.spans:
            del self._waiting[trace_id]
        self._given[trace_id] = given | ids
        self._given_ids += len(ids)
        while self._given_ids > self._max_spans and len(self._given) > 1:
            self._given_ids -= len(self._given.popitem(last=False)[1])
        return trace


def parse(line: dict[str, Any]) -> Span:
    """The span that a line of docs/json.md describes."""
    attributes = {printable(str(k)): printable(v) if isinstance(v, str) else v for k, v in line["attributes"].items()}
    return Span(
        name=printable(line["name"]) or "(no name)",
        trace_id=line["trace_id"],
        span_id=line["span_id"],
        parent=line["parent_span_id"],
        start_ns=int(line["start_time_unix_nano"]),
        end_ns=int(line["end_time_unix_nano"]),
        pid=int(line["pid"]),
        tid=int(line["tid"]),
        error=line["status"] == "ERROR",
        attributes=attributes,
    )


def _trace(trace_id: str, group: _Waiting, tops: list[Span], partial: str) -> Trace:
    """The tree under `tops`. Those among them that are below another one appear there only."""
    children: dict[str, list[Span]] = {}
    ids = {span.span_id for span in group.spans.values()}
    for span in group.spans.values():
        children.setdefault(span.parent, []).append(span)
    rows: list[Row] = []
    seen: set[str] = set()
    # First what has no parent here; then, were ids ever to form a ring, whatever has not been reached.
    for top in sorted(tops, key=lambda s: (s.parent in ids, s.start_ns)):
        stack = [Row(0, top)]
        while stack:
            row = stack.pop()
            if row.span.span_id in seen:
                continue
            seen.add(row.span.span_id)
            rows.append(row)
            below = sorted(children.get(row.span.span_id, ()), key=lambda s: s.start_ns, reverse=True)
            stack.extend(Row(row.depth + 1, span, row.span) for span in below)
    return Trace(trace_id, tuple(rows), group.cut, partial)


def plain(write: Callable[[str], None], trace: Trace) -> None:
    """One line a span: when (a root's time of day in UTC, then offsets from it), how long, the name indented, what is known of it."""
    if not trace.rows:
        write(f"trace={trace.trace_id}: {plural(trace.cut, 'span')} not kept")
        return
    start, top = trace.start_ns, trace.rows[0].span
    width = max(row.depth * 2 + len(row.span.name) for row in trace.rows)
    if trace.partial:
        write(f"part of trace={trace.trace_id}: {trace.partial}")
    for row in trace.rows:
        span = row.span
        when = clock(span.start_ns) if span is top else "+" + duration(span.start_ns - start, ascii_only=True)
        told = [f"ERROR {span.attributes.get('error.type', '')}".rstrip()] if span.error else []
        told += (f"{key}={quoted(value)}" for key, value in news(row).items())
        if span is top or (span.pid, span.tid) != (top.pid, top.tid):
            told.insert(0, f"pid={span.pid} tid={span.tid}")
        if span is top:
            told.insert(1, f"trace={span.trace_id}")
        name = left("  " * row.depth + span.name, min(width, 40))
        write(f"{right(when, 16)}  {right(duration(span.duration_ns, ascii_only=True), 9)}  {name}  {'  '.join(told)}".rstrip())
    if trace.cut:
        write(f"{'':16}  {'':9}  ... {plural(trace.cut, 'more span')} of this trace not kept")


def news(row: Row) -> Attributes:
    """The attributes that say something here: not what the parent has just said, nor what the name or the error mark says."""
    above = row.parent.attributes if row.parent else {}
    return {k: v for k, v in row.span.attributes.items() if k not in _HIDDEN and above.get(k) != v}


def quoted(value: Any) -> str:
    """An attribute's value; texts in quotes."""
    return '"' + value.replace('"', '\\"') + '"' if isinstance(value, str) else str(value)


def clock(unix_ns: int) -> str:
    """Time of day, UTC, in microseconds."""
    return datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC).strftime("%H:%M:%S") + f".{unix_ns // 1000 % 1_000_000:06d}Z"
