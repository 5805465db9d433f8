"""What otel-usdt says of itself, beside the ledger: how full its buffers are, how its requests fare, what its processes cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from otel_usdt.metrics.points import Distribution, Metric, Point
from otel_usdt.otlp.spool import Status

_RING = Metric("otel_usdt.ring.usage", "By", "level", "Records in the kernel's ring that the pipeline has not read yet")
_RING_LIMIT = Metric("otel_usdt.ring.limit", "By", "level", "Size of the ring; what does not fit is lost as ring_full")
_QUEUE = Metric("otel_usdt.queue.usage", "By", "level", "Encoded spans that wait for the OTLP receiver, or are under way to it")
_QUEUE_LIMIT = Metric("otel_usdt.queue.limit", "By", "level", "Size of the queue; beyond it the oldest spans are dropped")
_REQUESTS = Metric("otel_usdt.export.requests", "{request}", "total", "Attempts to send a request over OTLP, by signal and outcome")
_LAG = Metric("otel_usdt.export.lag", "s", "histogram", "From a request's oldest return to its acceptance by the OTLP receiver")
_SPOOL = Metric("otel_usdt.spool.usage", "By", "level", "Size of the spool's files: spans on disk that wait for the OTLP receiver")
_SPOOL_LIMIT = Metric("otel_usdt.spool.limit", "By", "level", "What the spool may take; beyond it the oldest spans are dropped")
_SPOOL_AGE = Metric("otel_usdt.spool.age", "s", "level", "Age of the oldest request on disk; 0 when there is none")
_RESTARTS = Metric("otel_usdt.pipeline.restarts", "{restart}", "total", "Pipelines that have taken over from one that was killed")
_CPU = Metric("otel_usdt.process.cpu.time", "s", "total", "CPU time of our own processes, user and system")
_MEMORY = Metric("otel_usdt.process.memory.usage", "By", "level", "Resident memory of our own processes")


def ring_points(rings: Mapping[str, tuple[int, int]]) -> list[Point]:
    """Of rings by name: bytes that wait in it, and its size."""
    used = [Point(_RING, usage, {"otel_usdt.ring": name}) for name, (usage, _) in rings.items()]
    return used + [Point(_RING_LIMIT, limit, {"otel_usdt.ring": name}) for name, (_, limit) in rings.items()]


def export_points(queued: int, limit: int, requests: Mapping[tuple[str, str], int], lag: Distribution) -> list[Point]:
    """Of the OTLP queue, in bytes, and of requests by signal and outcome."""
    sent = [
        Point(_REQUESTS, count, {"otel_usdt.signal": signal, "otel_usdt.outcome": outcome})
        for (signal, outcome), count in sorted(requests.items())
    ]
    return [Point(_QUEUE, queued), Point(_QUEUE_LIMIT, limit), *sent, Point(_LAG, lag)]


def spool_points(status: Status, limit: int, now_s: float) -> list[Point]:
    """Of what is on disk."""
    age = max(0.0, now_s - status.oldest_s) if status.oldest_s is not None else 0.0
    return [Point(_SPOOL, status.bytes), Point(_SPOOL_LIMIT, limit), Point(_SPOOL_AGE, round(age, 3))]


def restart_points(restarts: int) -> list[Point]:
    """Of the session's pipelines, one after the other."""
    return [Point(_RESTARTS, restarts)]


def process_points(processes: Mapping[str, int]) -> list[Point]:
    """Of our processes by name; one that is gone, or that we may not see (hidepid), is left out."""
    points = []
    for name, pid in processes.items():
        if used := usage(pid):
            points += [Point(metric, value, {"otel_usdt.process": name}) for metric, value in zip((_CPU, _MEMORY), used, strict=True)]
    return points


def usage(pid: int) -> tuple[float, int] | None:
    """CPU seconds and resident bytes of a process, by proc(5)'s stat; None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        fields = stat[stat.rindex(b")") + 2 :].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        return None
