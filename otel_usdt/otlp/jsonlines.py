"""OTLP/JSON lines: one request a line, the format of the Collector's file exporter and receiver.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding: protobuf's JSON, but ids in hex and enums as integers.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_usdt.otlp.outcome import Signal

_REQUESTS: dict[Signal, type[Message]] = {"traces": ExportTraceServiceRequest, "metrics": ExportMetricsServiceRequest}
_WITH_EXEMPLARS = {"histogram", "exponentialHistogram"}
_IDS = ("traceId", "spanId", "parentSpanId")


def to_json_line(body: bytes, signal: Signal) -> bytes:
    """The encoded request `body` as one line of OTLP/JSON with its newline: 64-bit integers as strings, ids in lower-case hex."""
    request = _REQUESTS[signal].FromString(body)
    told = MessageToDict(request, use_integers_for_enums=True)
    for of_process in told.get("resourceSpans", ()):
        for of_scope in of_process.get("scopeSpans", ()):
            for span in of_scope.get("spans", ()):
                _hex_ids(span, *span.get("links", ()))
    for of_resource in told.get("resourceMetrics", ()):
        for of_scope in of_resource.get("scopeMetrics", ()):
            for metric in of_scope.get("metrics", ()):
                for kind in _WITH_EXEMPLARS & metric.keys():
                    for point in metric[kind].get("dataPoints", ()):
                        _hex_ids(*point.get("exemplars", ()))
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _hex_ids(*owners: dict[str, Any]) -> None:
    for owner in owners:
        for key in _IDS:
            if key in owner:
                owner[key] = base64.b64decode(owner[key]).hex()


class LinesFile:
    """Whole lines into an open file descriptor, which stays its owner's. A line that cannot be written whole is taken back.

    Lines go to the end of a regular file, wherever that is by then, so that it may be cut or rotated by copying meanwhile.
    What was written to a pipe cannot be taken back: there a line that follows a torn one starts on a line of its own.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._torn = self._regular and _ends_in_mid_line(fd)  # by an earlier process that was killed
        self._cut_to: int | None = None  # a torn line's start that could not be cut off yet

    def write(self, line: bytes) -> OSError | None:
        """Write `line`, newline included. None when it is there whole; else why nothing of it is (the caller counts what it held)."""
        try:
            self._take_back()
            end = os.lseek(self._fd, 0, os.SEEK_END) if self._regular else 0
        except OSError as error:
            return error
        unwritten = memoryview(b"\n" + line if self._torn else line)
        whole = len(unwritten)
        try:
            while unwritten:
                unwritten = unwritten[os.write(self._fd, unwritten) :]
        except OSError as error:
            if len(unwritten) < whole:
                self._lost_midway(end)
            return error
        self._torn = False
        return None

    def _lost_midway(self, end: int) -> None:
        if not self._regular:
            self._torn = True
            return
        self._cut_to = end
        try:
            self._take_back()
        except OSError:
            return  # the disk refuses that too: the next write tries again, and writes nothing before it is done

    def _take_back(self) -> None:
        if self._cut_to is not None:
            if self._cut_to < os.fstat(self._fd).st_size:  # else somebody has emptied the file meanwhile
                os.ftruncate(self._fd, self._cut_to)
            self._cut_to = None


def _ends_in_mid_line(fd: int) -> bool:
    size = os.fstat(fd).st_size
    try:
        return size > 0 and os.pread(fd, 1, size - 1) != b"\n"
    except OSError as error:
        if error.errno == errno.EBADF:  # opened for writing only: it cannot be known
            return False
        raise
