"""Calls from a ring to a receiver by the pipeline's own session: all of the way but the kernel, as fast as wanted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otel_usdt import outlets
from otel_usdt.metrics.ledger import check
from otel_usdt.otlp.backlog import Delivered
from otel_usdt.otlp.client import Exporter
from otel_usdt.otlp.queue import Backoff, Delivery
from otel_usdt.pipeline import Session
from otel_usdt.plan import Export, OtlpExport, Plan, SpoolFolder, Target
from otel_usdt.stream.records import CALL
from tests.delivery.truth import Witness
from tests.samples import PARSE, QUERY, thread
from tests.unit.kernelside import Kernel

TARGET = Target("orders", "tree", (100,), {"service.name": "orders", "process.pid": 100})
NAMES = (QUERY.name, PARSE.name)
QUICK = Backoff(0.02, 0.2)  # the real one is of seconds


@dataclass
class Load:
    """A session that is fed."""

    kernel: Kernel
    session: Session
    witness: Witness
    made: int = 0

    def feed(self, count: int) -> None:
        """So many more calls, of two span probes by turns, through the ring; the ledger closes after each that fit into it at once."""
        records = np.zeros(count, CALL)
        records["span"] = np.arange(self.made + 1, self.made + count + 1)
        records["trace"] = records["span"][:, None]
        records["start_ktime_ns"], records["duration_ns"] = 5_000, 1_000
        records["thread"], records["depth"] = thread(100, 101), 1
        records["probe"] = records["span"] % 2
        while len(records):
            put = self.kernel.rings[0].put_many(records)
            for probe in (0, 1):
                own = int((records["probe"][:put] == probe).sum())
                self.kernel.count(probe, entries=own, returns=own, calls=own, recorded=own)
            records = records[put:]
            assert self.session.drain() == put, "the ring was not drained"
            self.made += put
            self.closes()

    def closes(self) -> None:
        """The ledger does, at this instant."""
        ledgers = self.session.ledgers()
        assert not [fault for ledger in ledgers.values() for fault in check(ledger)]
        assert sum(ledger["recorded"] for ledger in ledgers.values()) == self.made

    def totals(self) -> Delivered:
        """The account of the delivery."""
        assert self.session.outlets._delivery
        return self.session.outlets._delivery.totals()

    def settled(self) -> bool:
        """Nothing waits any more, in memory or on disk."""
        totals = self.totals()
        return not (totals.queued or totals.spooled)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Load]]:
    """Makes one session: load(OtlpExport, spool=folder). Its backoff is short, and a witness sees each attempt."""
    witnesses, kernels, loads, folders = list[Witness](), list[Kernel](), list[Load](), list[int]()

    def witnessed(config: OtlpExport) -> Witness:
        witnesses.append(Witness(Exporter(config)))
        return witnesses[-1]

    def hurried(*arguments: Any, **more: Any) -> Delivery:
        return Delivery(*arguments, **{**more, "backoff": QUICK})

    def make(otlp: OtlpExport, spool: Path | None = None) -> Load:
        kept = SpoolFolder(str(spool)) if spool else None
        kernel = Kernel(Plan((TARGET,), (), (QUERY, PARSE), (), export=Export(otlp=otlp, spool=kept)))
        kernels.append(kernel)
        folders.extend([os.open(spool, os.O_RDONLY | os.O_DIRECTORY)] if spool else [])
        loads.append(Load(kernel, kernel.session(spool=folders[-1] if spool else None), witnesses[-1]))
        return loads[-1]

    monkeypatch.setattr(outlets, "LAST_WORD_S", 0.2)
    monkeypatch.setattr(outlets, "Exporter", witnessed)
    monkeypatch.setattr(outlets, "Delivery", hurried)
    yield make
    for one in loads:
        one.session.outlets.close()
    for witness in witnesses:
        witness.close()
    for kernel in kernels:
        kernel.close()
    for folder in folders:
        os.close(folder)
