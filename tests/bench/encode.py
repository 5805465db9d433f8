"""Spans per CPU second, from the ring's bytes to those of a request: ours, the clear encoder's, and the OpenTelemetry SDK's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as sdk_encode
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from otel_usdt.otlp.encode import encode_spans
from otel_usdt.pipeline import AT_ONCE
from otel_usdt.plan import TEXT_BYTES, TEXT_SLOTS, Attribute, Span
from otel_usdt.spans.model import SpanBatch
from otel_usdt.stream.records import CALL, CALL_TEXT, TEXT_FLAG
from otel_usdt.stream.ring import PAGE, Ring
from tests.bench.bench import Bench
from tests.bench.results import Row, at_least
from tests.oracle.encode import clear_request
from tests.unit.ringfile import RingFile

PROCESSES, ROUNDS, SDK_SPANS = 7, 5, 2000
TEXT = 64
NUMBERS = Span("query", 0, "spans", "function", "func:query", "query", attributes=tuple(Attribute(f"db.n{n}", n) for n in range(3)))
TEXTS = Span("query", 0, "spans", "function", "func:query", "query", attributes=(Attribute("db.query.text", 0, string=True),))
RESOURCES: dict[int, dict[str, str | int]] = {1000 + i: {"service.name": "bench", "process.pid": 1000 + i} for i in range(PROCESSES)}


def calls(count: int) -> np.ndarray[Any, np.dtype[np.void]]:
    """Records of seven processes, half of them roots."""
    random = np.random.default_rng(1)
    made = np.zeros(count, CALL)
    made["trace"], made["span"] = random.integers(1, 1 << 63, (count, 2)), random.integers(1, 1 << 63, count)
    made["parent"] = random.integers(1, 1 << 63, count) * (np.arange(count) % 2)
    made["start_ktime_ns"], made["duration_ns"] = np.arange(count) * 1000 + 10**12, random.integers(1, 10**9, count)
    made["thread"] = (1000 + np.arange(count) % PROCESSES) << 32 | (1000 + np.arange(count) % PROCESSES)
    made["arg"] = random.integers(0, 1 << 31, (count, 4))
    return made


def with_texts(count: int) -> np.ndarray[Any, np.dtype[np.void]]:
    """The same with a text of 64 bytes each."""
    made = np.zeros(count, CALL_TEXT)
    made["call"] = calls(count)
    made["call"]["flags"] = TEXT_FLAG
    made["text"][:, 0, :TEXT] = np.random.default_rng(1).integers(97, 122, (count, TEXT))
    return made


class FullRing:
    """A ring with as many records as fit, ready to be read again and again."""

    def __init__(self, records: np.ndarray[Any, np.dtype[np.void]]) -> None:
        slot = np.dtype([("length", "u4"), ("page", "u4"), ("record", records.dtype)])
        size = 1 << (len(records) * slot.itemsize - 1).bit_length()
        self._file, self.count = RingFile(size), len(records)
        whole = np.zeros(len(records), slot)
        whole["length"], whole["record"] = records.dtype.itemsize, records
        self._file._memory[2 * PAGE : 2 * PAGE + whole.nbytes] = whole.tobytes()
        self._file._memory[PAGE : PAGE + 8] = whole.nbytes.to_bytes(8, "little")
        self.ring = Ring(self._file.descriptor, size, records.dtype)

    def read(self) -> np.ndarray[Any, np.dtype[np.void]]:
        """All of them, as the pipeline gets them."""
        self._file._memory[:8] = bytes(8)
        return self.ring.batch()


def ring_to_bytes(ring: FullRing, span: Span) -> int:
    """As the pipeline does it, in batches of its size."""
    records = ring.read()
    own, texts = (records, None) if records.dtype == CALL else (records["call"], records["text"])
    for start in range(0, len(own), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        encode_spans(SpanBatch(own[part], None if texts is None else texts[part], 0), [span], RESOURCES, "0")
    return len(own)


def read_only(ring: FullRing) -> int:
    """Records as an array, and no more."""
    return len(ring.read())


def clear(batch: SpanBatch, span: Span) -> int:
    """Protobuf messages."""
    clear_request(batch, [span], RESOURCES, "0").SerializeToString()
    return len(batch.calls)


class Kept(SpanProcessor):
    """What the SDK has ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def sdk() -> int:
    """A span with three numbers a call by the SDK, and its exporter's encoding."""
    kept, provider = Kept(), TracerProvider(resource=Resource({"service.name": "bench"}))
    provider.add_span_processor(kept)
    tracer = provider.get_tracer("bench")
    for n in range(SDK_SPANS):
        tracer.start_span("query", start_time=n, attributes={"thread.id": n, "db.n0": n, "db.n1": n, "db.n2": n}).end(n + 1)
    sdk_encode(kept.spans).SerializeToString()
    return SDK_SPANS


def rate(path: Callable[[], int]) -> float:
    """Records per CPU second of one turn."""
    began = time.process_time()
    count = path()
    return count / (time.process_time() - began)


def measure(bench: Bench) -> Iterator[Row]:
    """Each path's records per CPU second, from runs in turn."""
    numbers, texts = FullRing(calls(4 * AT_ONCE)), FullRing(with_texts(AT_ONCE))
    plain = SpanBatch(calls(AT_ONCE), None, 0)
    assert texts.read()["text"].shape[1:] == (TEXT_SLOTS, TEXT_BYTES)
    paths: tuple[Callable[[], int], ...] = (
        partial(read_only, numbers),
        partial(ring_to_bytes, numbers, NUMBERS),
        partial(ring_to_bytes, texts, TEXTS),
        partial(clear, plain, NUMBERS),
        sdk,
    )
    reading, fast, long, messages, stock = bench.interleaved("ring to bytes", ROUNDS, *(partial(rate, path) for path in paths))
    unit, figure = "/CPU s", "spans with three numbers, ring to OTLP"
    yield Row("records read from the ring", unit, reading, floor=at_least(8e6, margin=None))
    yield Row(figure, unit, fast, floor=at_least(1e6, margin=None))
    yield Row(figure, unit, fast, stock, "the OpenTelemetry SDK", floor=at_least(50))
    yield Row(figure, unit, fast, messages, "protobuf messages")
    yield Row(f"spans with a text of {TEXT} bytes, ring to OTLP", unit, long, floor=at_least(4e5, margin=None))
