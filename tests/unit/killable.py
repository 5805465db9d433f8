"""A pipeline that dies at any store that outlives it: words in the memory file, rings' positions, bytes on disk, requests that leave.

Its threads are not run by the system but a step at a time, in the test's own, until each would wait; its clock is the test's.
"""

from __future__ import annotations

import errno
import os
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_usdt import outlets
from otel_usdt.otlp import jsonlines, queue, spilling, spool
from otel_usdt.otlp.outcome import Accepted, Outcome, Refused, Retry, TooLarge
from otel_usdt.pipeline import Session


class Killed(BaseException):
    """SIGKILL: no handler of the pipeline's sees it."""


class Waits(BaseException):
    """A thread has nothing to do before somebody else does something."""


@dataclass(slots=True)
class Fuse:
    """Lets so many more stores happen; None: any number. Once it is burnt nothing happens any more."""

    left: int | None = None

    def burn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


class Stores(np.ndarray):
    """An array whose every store burns the fuse first; rows of a structured one, field by field."""

    fuse: Fuse

    def __setitem__(self, at: Any, value: Any) -> None:
        self.fuse.burn()
        super().__setitem__(at, value)

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return Row(found, self.fuse) if isinstance(found, np.void) else found

    def __iter__(self) -> Iterator[Any]:
        return (self[at] for at in range(len(self)))


class Row:
    """One row of Stores."""

    def __init__(self, row: np.void, fuse: Fuse) -> None:
        self._row, self._fuse = row, fuse

    def __getitem__(self, name: str) -> Any:
        return self._row[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._fuse.burn()
        self._row[name] = value


class Disk:
    """The os module for those who write files: kills fall within a write too, and the disk may be full."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse, self.full = fuse, False

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, descriptor: int, data: Any) -> int:
        half = len(data) // 2
        try:
            self._fuse.burn()
        except Killed:
            os.write(descriptor, data[:half])
            raise
        if self.full:
            if half:
                return os.write(descriptor, data[:half])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data)

    def pwrite(self, descriptor: int, data: bytes, at: int) -> int:
        self._fuse.burn()
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(descriptor, data, at)

    def unlink(self, name: str, **how: Any) -> None:
        self._fuse.burn()
        os.unlink(name, **how)


class Receiver:
    """An OTLP receiver in one of its moods. `arrived` has every span id that it kept, `unsure` those whose answer may be unheard."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse
        self.mood = "there"
        self.arrived: list[bytes] = []
        self.unsure: set[bytes] = set()
        self.last: list[bytes] = []  # of the request that may still be under way when the pipeline dies

    def send(self, signal: str, body: bytes) -> Outcome:
        self._fuse.burn()
        if signal == "metrics":
            return Accepted()
        resources = ExportTraceServiceRequest.FromString(body).resource_spans
        ids = [span.span_id for one in resources for scope in one.scope_spans for span in scope.spans]
        match self.mood:
            case "away":
                return Retry(None, "away")
            case "refuses":
                return Refused("no")
            case "small" if len(ids) > 1:
                return TooLarge("two are too many")
            case "partial":
                self._keep(ids[1:])
                return Accepted(1, "one was odd")
            case "mute":
                self._keep(ids)
                self.unsure.update(ids)
                return Retry(None, "no answer")
        self._keep(ids)
        return Accepted()

    def _keep(self, ids: list[bytes]) -> None:
        self.arrived += ids
        self.last = ids


@dataclass(slots=True)
class Threads:
    """The pipeline's, by what they run."""

    targets: list[Callable[[], None]] = field(default_factory=list)

    def step(self) -> None:
        """Each as far as it comes without waiting."""
        for target in list(self.targets):
            run(target)


def run(target: Callable[[], None]) -> None:
    with suppress(Waits):
        target()


class Condition:
    """Of one thread alone: a wait is the end of its step."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def wait(self, timeout: float | None = None) -> None:
        raise Waits

    def notify_all(self) -> None: ...


@dataclass(slots=True)
class World:
    """What is around the pipeline, and stays when it dies."""

    fuse: Fuse = field(default_factory=Fuse)
    threads: Threads = field(default_factory=Threads)
    now_s: float = 1000.0
    disk: Disk = field(init=False)
    receiver: Receiver = field(init=False)

    def __post_init__(self) -> None:
        self.disk, self.receiver = Disk(self.fuse), Receiver(self.fuse)

    @contextmanager
    def around(self) -> Iterator[None]:
        """The pipeline's modules in this world."""
        clock = types.SimpleNamespace(monotonic=lambda: self.now_s, time=lambda: self.now_s)

        def thread(target: Callable[[], None], **_: Any) -> Any:
            return types.SimpleNamespace(start=lambda: self.threads.targets.append(target), join=lambda _: run(target))

        with pytest.MonkeyPatch.context() as patch:
            for module in (queue, spilling):
                patch.setattr(module, "time", clock)
                patch.setattr(module, "threading", types.SimpleNamespace(Thread=thread, Condition=Condition))
            for module in (spool, jsonlines):
                patch.setattr(module, "os", self.disk)
            patch.setattr(outlets, "Exporter", lambda _: self.receiver)
            yield

    def mortal(self, session: Session) -> Session:
        """With the fuse on all that outlives it. What it did while it was made is behind it."""
        carried = session.carried
        for one, names in ((carried, ("_words", "_exported", "_dropped")), *((ring, ("_consumer",)) for ring in session.rings)):
            for name in names:
                setattr(one, name, self._stores(getattr(one, name)))
        for slots in (carried._taken, carried._told):
            slots._rows = self._stores(slots._rows)
        for tally in (carried.tallies.exported, carried.tallies.dropped):
            tally._words = self._stores(tally._words)  # type: ignore[attr-defined]
        return session

    def _stores(self, array: np.ndarray) -> Stores:
        made = array.view(Stores)
        made.fuse = self.fuse
        return made
