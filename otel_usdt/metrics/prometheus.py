"""Our own metrics in Prometheus' text format, named as the OpenTelemetry specification translates them ("Prometheus Compatibility")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from otel_usdt.metrics.points import Distribution, Metric, Point

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_UNITS = {"s": "_seconds", "By": "_bytes"}
_TYPES = {"total": "counter", "level": "gauge", "histogram": "histogram"}


def exposition(points: Sequence[Point]) -> bytes:
    """All points, each metric's together under its HELP and TYPE."""
    by_metric: dict[Metric, list[Point]] = {}
    for point in points:
        by_metric.setdefault(point.metric, []).append(point)
    return "".join(f"{line}\n" for metric, own in by_metric.items() for line in _lines(metric, own)).encode(errors="replace")


def _lines(metric: Metric, points: Sequence[Point]) -> Iterator[str]:
    name = _name(metric.name) + _UNITS.get(metric.unit, "") + ("_total" if metric.kind == "total" else "")
    yield f"# HELP {name} {metric.description}"
    yield f"# TYPE {name} {_TYPES[metric.kind]}"
    for point in points:
        if not isinstance(point.value, Distribution):
            yield f"{name}{_labels(point.attributes)} {point.value}"
            continue
        below = list(accumulate(point.value.counts))
        for bound, count in zip((*map(str, point.value.bounds), "+Inf"), below, strict=True):
            yield f"{name}_bucket{_labels({**point.attributes, 'le': bound})} {count}"
        yield f"{name}_sum{_labels(point.attributes)} {point.value.sum}"
        yield f"{name}_count{_labels(point.attributes)} {below[-1]}"


def _name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _labels(attributes: Mapping[str, str]) -> str:
    pairs = ",".join(f'{_name(key)}="{_quoted(value)}"' for key, value in attributes.items())
    return f"{{{pairs}}}" if pairs else ""


def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
