"""The kernel's side of a session without a kernel: rings, counters and histograms in memory files, written as the program writes them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from otel_usdt.carried import Carried
from otel_usdt.channel import Channel
from otel_usdt.children import say
from otel_usdt.layout import layout_of
from otel_usdt.outlets import Outlets
from otel_usdt.outputs import open_carried
from otel_usdt.pipeline import Session
from otel_usdt.plan import TEXT_BYTES, Plan
from otel_usdt.processes import Processes
from otel_usdt.stream.counters import KernelCounters
from otel_usdt.stream.records import CALL, CALL_TEXT, COUNTERS, EXTENT, SERIES
from otel_usdt.stream.ring import Ring
from tests.samples import batch
from tests.unit.ringfile import RingFile

RING_BYTES = 1 << 19
CPUS = 3
STARTED_UNIX_NS = time.time_ns()


class GoneSupervisor:
    """Nobody who would answer."""

    def send(self, message: Mapping[str, Any]) -> bool:
        return False


class Kernel:
    """What a plan's program would have written. Counters are spread over the CPUs, as the kernel spreads them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rings = RingFile(RING_BYTES), RingFile(RING_BYTES)
        layout = layout_of(plan.spans)
        shapes = {
            "counters": (COUNTERS, (CPUS, layout.spans)),
            "histogram": (np.dtype("u8"), (CPUS, layout.rows, layout.cells)),
            "extents": (EXTENT, (CPUS, layout.rows)),
            "series": (SERIES, (layout.rows - layout.spans + 1,)),
            "losses": (np.dtype("u8"), (1,)),
        }
        self.files = {name: os.memfd_create(name) for name in shapes}
        for name, (dtype, shape) in shapes.items():
            os.ftruncate(self.files[name], -(-dtype.itemsize * int(np.prod(shape)) // 4096) * 4096)
        self.carried = open_carried(layout_of(plan.spans))
        self.views: dict[str, np.ndarray[Any, Any]] = {
            name: np.memmap(f"/proc/self/fd/{self.files[name]}", dtype, "r+", shape=shape) for name, (dtype, shape) in shapes.items()
        }

    def close(self) -> None:
        self.views.clear()
        for ring in self.rings:
            ring.close()
        for descriptor in (*self.files.values(), self.carried):
            os.close(descriptor)

    def call(self, fields: Mapping[str, Any], texts: Mapping[int, bytes] | None = None) -> None:
        """A paired call, counted and recorded in the ring where it belongs."""
        probe = fields.get("probe", 0)
        self.count(probe, entries=1, returns=1, calls=1, recorded=1, sum_ns=fields.get("duration_ns", 0))
        self.record(fields, texts)

    def record(self, fields: Mapping[str, Any], texts: Mapping[int, bytes] | None = None) -> None:
        """A record alone, as something that is not our program would write it."""
        made = batch([fields], None if texts is None else [texts])
        if made.texts is None:
            assert self.rings[0].put(made.calls.tobytes())
        else:
            assert self.rings[1].put(made.calls.tobytes() + made.texts.tobytes())

    def count(self, probe: int = 0, **counts: int) -> None:
        """Add to a span probe's counters, on one CPU after the other."""
        for name, more in counts.items():
            at = int(self.views["counters"][name][:, probe].sum()) % CPUS
            self.views["counters"][name][at, probe] += np.uint64(more)

    def counters(self) -> KernelCounters:
        """As the pipeline opens them."""
        return KernelCounters.open(self.files, CPUS, layout_of(self.plan.spans))

    def session(self, file: int | None = None, spool: int | None = None) -> Session:
        """The pipeline's session on it; one after another takes over what that one has left."""
        processes = Processes(self.plan, cast(Channel, GoneSupervisor()))
        rings = [Ring(ring.descriptor, RING_BYTES, dtype) for ring, dtype in zip(self.rings, (CALL, CALL_TEXT), strict=True)]
        carried = Carried.open(self.carried, self.plan.spans)
        taken = carried.take_over([ring.position for ring in rings])
        outlets = Outlets(self.plan, file, say, carried, spool)
        return Session(self.plan, rings, self.counters(), processes, outlets, STARTED_UNIX_NS, [], carried, taken)


def whole_text(data: bytes) -> bytes:
    """A text slot without any NUL."""
    return (data * TEXT_BYTES)[:TEXT_BYTES]
