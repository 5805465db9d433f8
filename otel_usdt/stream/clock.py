"""bpf_ktime_get_ns is CLOCK_MONOTONIC; spans want unix time. The difference moves with NTP, so it is sampled again and again."""

from __future__ import annotations

import time

RESAMPLE_S = 1.0
# Reading two clocks is good to some tens of nanoseconds. Smaller changes are not followed: a child would stick out of its parent by them.
JITTER_NS = 1_000


class Clock:
    """Nanoseconds to add to a ktime for unix time; resampled at most once a second."""

    def __init__(self) -> None:
        self._offset_ns, self._at = _sample(), time.monotonic()

    def offset_ns(self) -> int:
        """The current difference."""
        if time.monotonic() - self._at > RESAMPLE_S:
            sampled, self._at = _sample(), time.monotonic()
            if abs(sampled - self._offset_ns) > JITTER_NS:
                self._offset_ns = sampled
        return self._offset_ns


def _sample() -> int:
    """The tightest of three: realtime read between two readings of monotonic."""
    best = (1 << 63, 0)
    for _ in range(3):
        before = time.monotonic_ns()
        unix = time.time_ns()
        after = time.monotonic_ns()
        best = min(best, (after - before, unix - (before + after) // 2))
    return best[1]
