"""How fast calls become OTLP bytes."""

from __future__ import annotations

import time

import numpy as np

from otel_usdt.otlp.encode import encode_spans
from otel_usdt.plan import Attribute, Span
from otel_usdt.spans.model import SpanBatch
from otel_usdt.stream.records import CALL

PROCESSES = 7


def encode_rate(count: int = 20_000) -> float:
    """Spans a second on one core: `count` calls of seven processes with an attribute each, in one batch."""
    random = np.random.default_rng(1)
    calls = np.zeros(count, CALL)
    calls["trace"] = random.integers(1, 1 << 63, (count, 2))
    calls["span"] = random.integers(1, 1 << 63, count)
    calls["start_ktime_ns"] = np.arange(count) * 1000 + 10**12
    calls["duration_ns"] = random.integers(1, 10**9, count)
    calls["thread"] = (1000 + np.arange(count) % PROCESSES) << 32 | (1000 + np.arange(count) % PROCESSES)
    spans = [Span("query", 0, "spans", "function", "func:query", "query", attributes=(Attribute("db.rows", 0),))]
    resources: dict[int, dict[str, str | int]] = {1000 + i: {"service.name": "bench", "process.pid": 1000 + i} for i in range(PROCESSES)}
    began = time.perf_counter()
    encode_spans(SpanBatch(calls, None, 0), spans, resources, "0")
    return count / (time.perf_counter() - began)
