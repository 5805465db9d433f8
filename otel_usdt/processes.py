"""Whose spans they are: the resource of every process in the records. The pipeline may not look, so it asks the supervisor.

A batch waits for the answer, but not long: a process that is gone, or a busy supervisor, leaves it with what the target is known by.
"""

from __future__ import annotations

import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

from otel_usdt.channel import Channel
from otel_usdt.plan import Plan
from otel_usdt.spans.model import SpanBatch

Resource = Mapping[str, str | int]
PATIENCE_S = 1.0
REMEMBERED = 16384  # processes; the longest unseen is forgotten, and asked for again if it is still there
ASK_AT_ONCE = 100


class Processes:
    """Holds batches until their processes are known."""

    def __init__(self, plan: Plan, pipe: Channel) -> None:
        self._plan, self._pipe = plan, pipe
        self._known: OrderedDict[int, Resource] = OrderedDict()
        self._asked: dict[int, float] = {}  # process -> when to stop waiting for the answer
        self._held: list[SpanBatch] = []
        for target in plan.targets:
            for pid in target.pids:
                if target.resource.get("process.pid") == pid:
                    self._known[pid] = target.resource

    def hold(self, batch: SpanBatch) -> None:
        """Take a batch; ask for the processes in it that are new."""
        self._held.append(batch)
        until = time.monotonic() + PATIENCE_S
        new = [pid for pid in _pids(batch) if pid not in self._known and pid not in self._asked]
        for start in range(0, len(new), ASK_AT_ONCE):
            some = new[start : start + ASK_AT_ONCE]
            answered = self._pipe.send({"who": some})
            self._asked.update(dict.fromkeys(some, until if answered else 0.0))

    def learn(self, resources: Mapping[str, Resource | None]) -> None:
        """The supervisor's answer; None is a process that it could not look at any more."""
        for text, resource in resources.items():
            pid = int(text)
            self._asked.pop(pid, None)
            self._known[pid] = resource or self._fallback(pid)

    def ready(self) -> Iterator[tuple[SpanBatch, Mapping[int, Resource]]]:
        """Batches whose processes are known, or have been waited for long enough."""
        now = time.monotonic()
        for pid in [pid for pid, until in self._asked.items() if until < now]:
            self.learn({str(pid): None})
        held, self._held = self._held, []
        for batch in held:
            pids = _pids(batch)
            if any(pid in self._asked for pid in pids):
                self._held.append(batch)
                continue
            for pid in pids:
                self._known.move_to_end(pid)
            yield batch, {pid: self._known[pid] for pid in pids}
        if (many := len(self._known) - REMEMBERED) > 0:
            needed = {pid for batch in self._held for pid in _pids(batch)}
            for pid in list(islice((pid for pid in self._known if pid not in needed), many)):
                del self._known[pid]

    def stop_waiting(self) -> None:
        """Nothing will be answered any more."""
        self._asked = dict.fromkeys(self._asked, 0.0)

    def waiting(self) -> Mapping[int, int]:
        """How many calls of each span probe are held."""
        counts: Counter[int] = Counter()
        for batch in self._held:
            counts.update(batch.calls["probe"].tolist())
        return counts

    def _fallback(self, pid: int) -> Resource:
        target = self._plan.targets[0] if len(self._plan.targets) == 1 else None
        base = dict(target.resource) if target else {"service.name": "unknown_service"}
        return base | {"process.pid": pid, "service.instance.id": f"{socket.gethostname()}:{pid}"}


def _pids(batch: SpanBatch) -> list[int]:
    pids: list[int] = np.unique(batch.calls["thread"] >> np.uint64(32)).tolist()
    return pids
