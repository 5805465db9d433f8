"""The kernel's arrays, as histograms and their series. Pure: the arrays are read by stream/counters.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from otel_usdt.ladder import uppers
from otel_usdt.layout import Layout, has_histogram, is_apart
from otel_usdt.metrics.histograms import HistogramSnapshot, Series
from otel_usdt.metrics.series import Key, attributes_of
from otel_usdt.plan import Span

Extents = Mapping[str, np.ndarray]  # sum_ns, min_ns, max_ns of each row


def histograms_of(
    spans: Sequence[Span], layout: Layout, cells: np.ndarray, of_probes: Extents, of_rows: Extents, named: np.ndarray
) -> list[HistogramSnapshot | None]:
    """Parallel to `spans`; None for those that only count. `cells` are [row, cell], `named` is [row - spans] of SERIES."""
    told: list[HistogramSnapshot | None] = []
    for i, (span, rows) in enumerate(zip(spans, layout.series, strict=True)):
        if not has_histogram(span):
            told.append(None)
        elif not is_apart(span):
            told.append(_snapshot(span, cells[i], of_probes, i))
        else:
            used = [row for row in rows if cells[row].any()]
            apart = [_series(span, named[row - layout.spans], _snapshot(span, cells[row], of_rows, row)) for row in used]
            if cells[i].any():  # its own row has what found no room
                apart.append(Series(None, attributes_of(span, None), _snapshot(span, cells[i], of_rows, i)))
            whole = _snapshot(span, cells[[i, *rows]].sum(axis=0), of_probes, i)
            told.append(replace(whole, series=tuple(apart)))
    return told


def _snapshot(span: Span, cells: np.ndarray, extents: Extents, at: int) -> HistogramSnapshot:
    counts = cells[: len(uppers(span.bounds_ns))].copy()
    total, least, most = (int(extents[name][at]) for name in ("sum_ns", "min_ns", "max_ns"))
    return HistogramSnapshot(counts, span.bounds_ns, int(counts.sum()), total, least, most)


def _series(span: Span, named: np.void, calls: HistogramSnapshot) -> Series:
    key: Key = (int(named["key"]["failed"]), *named["key"]["value"].tolist())
    return Series(key, attributes_of(span, key, tuple(text.tobytes() for text in named["text"])), calls)
