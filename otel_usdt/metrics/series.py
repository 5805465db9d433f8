"""Series: the calls of one span probe told apart in its histogram, by dimensions and by failure. Pure; the kernel side is bpf/series.bpf.h.

A series' key is `failed` and the four numbers of a record, 0 where they are no dimension (of a string, its hash). What found no room has
the key None: it is told with the attribute otel.metric.overflow (OpenTelemetry metrics SDK, "Cardinality limits").
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from otel_usdt.layout import is_apart
from otel_usdt.plan import ARGUMENT_SLOTS, Span
from otel_usdt.spans.model import COMPARE

Key = tuple[int, ...] | None
Attributes = Mapping[str, str | int]

OVERFLOW: Attributes = {"otel.metric.overflow": True}


def keys_of(span: Span, arguments: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The keys of calls with these numbers, of shape (n, ARGUMENT_SLOTS): (n, 1 + ARGUMENT_SLOTS), as the kernel makes them."""
    keys = np.zeros((len(arguments), 1 + ARGUMENT_SLOTS), np.int64)
    if not is_apart(span):
        return keys
    for dimension in span.dimensions:
        keys[:, 1 + dimension.slot] = arguments[:, dimension.slot]
    if (when := span.error) is not None:
        failed = COMPARE[when.operator](arguments[:, when.slot], when.value)
        keys[:, 0] = failed
        if not when.type:
            keys[failed, 1 + when.slot] = arguments[failed, when.slot]
    return keys


def attributes_of(span: Span, key: Key, texts: tuple[bytes, ...] = ()) -> Attributes:
    """What a series is told by. `texts` are those of its strings, in the order of their slots, each up to its NUL."""
    if key is None:
        return OVERFLOW
    failed, *values = key
    found: dict[str, str | int] = {}
    named = iter(texts)
    words = {one.slot: next(named, b"") for one in sorted(span.dimensions, key=lambda one: one.slot) if one.string}
    for one in span.dimensions:
        if not one.string:
            found[one.key] = values[one.slot]
        elif values[one.slot]:  # else it could not be read: absent is not the same as empty
            found[one.key] = words[one.slot].partition(b"\0")[0].decode("utf-8", errors="replace")
    if failed and span.error is not None:
        found["error.type"] = span.error.type or str(values[span.error.slot])
    return found
