"""The records of the ring and the kernel's counters, as numpy sees them. Mirrors bpf/record.h; tests/unit/test_records.py compares."""

from __future__ import annotations

import numpy as np

from otel_usdt.plan import ARGUMENT_SLOTS, TEXT_BYTES, TEXT_SLOTS, WORD_BYTES

CALL = np.dtype(
    [
        ("trace", "u8", (2,)),
        ("span", "u8"),
        ("parent", "u8"),
        ("link", "u8"),
        ("start_ktime_ns", "u8"),
        ("duration_ns", "u8"),
        ("thread", "u8"),
        ("probe", "u4"),
        ("depth", "u2"),
        ("flags", "u2"),
        ("arg", "i8", (ARGUMENT_SLOTS,)),
    ]
)
CALL_TEXT = np.dtype([("call", CALL), ("text", "u1", (TEXT_SLOTS, TEXT_BYTES))])
# In `flags`; TEXT_FLAG << slot.
TEXT_FLAG, REMOTE, DISAGREES, ENTER, RETURN, SAMPLED_OUT, RATE_LIMITED = 1, 4, 8, 16, 32, 64, 128

LINK = np.dtype([("row", "u4"), ("trace", "u8", (2,)), ("span", "u8")])  # our own: a link of the call at `row` of a batch

COUNTER_NAMES = (
    "entries", "returns", "calls", "in_flight", "orphaned", "unwound", "map_full", "too_deep",
    "filtered", "recorded", "sampled_out", "rate_limited", "too_short", "ring_full", "sum_ns", "max_ns", "min_ns_inverted", "text_lost",
    "joined_argument", "joined_obi", "bad_traceparent",
)  # fmt: skip
COUNTERS = np.dtype([(name, "u8") for name in COUNTER_NAMES])
SERIES_KEY = np.dtype([("probe", "u4"), ("failed", "u4"), ("value", "i8", (ARGUMENT_SLOTS,))])
SERIES = np.dtype([("key", SERIES_KEY), ("text", "u1", (TEXT_SLOTS, WORD_BYTES))])
EXTENT = np.dtype([("sum_ns", "u8"), ("max_ns", "u8"), ("min_ns_inverted", "u8")])
