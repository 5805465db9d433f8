"""The queue with a spool: away means to disk, back means fresh spans first, and the account closes whatever disk and receiver do."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_usdt.otlp import spilling
from otel_usdt.otlp.client import Accepted, Refused, Retry, TooLarge
from otel_usdt.otlp.queue import Delivered, Delivery
from otel_usdt.otlp.spool import Spool
from tests.pipeline.scripted import NAMES, QUICK, Script, spans, until

AWAY = Retry(None, "away")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def delivery(sender: Script, folder: int, said: list[str], queue_bytes: int = 1 << 20) -> Delivery:
    return Delivery(sender, queue_bytes, NAMES, said.append, QUICK, Spool(folder, 1 << 24, 1e6))


def test_what_waits_while_the_receiver_is_away_is_on_disk(folder: int) -> None:
    """All of it, in order; it is exported when the receiver is back, and the disk is empty then."""
    sender, said = Script(AWAY), list[str]()
    queue = delivery(sender, folder, said)
    for n in range(7):
        queue.put("traces", b"body%d" % n, {0: 2, 1: 3})
    until(lambda: queue.totals() == Delivered({}, {}, {}, {0: 14, 1: 21}))
    sender.outcomes = [Accepted()]
    until(lambda: queue.totals() == Delivered({0: 14, 1: 21}, {}, {}, {}))
    queue.close(1)
    assert [body for _, body in dict.fromkeys(sender.sent)] == [b"body%d" % n for n in range(7)]
    assert Spool(folder, 1 << 24, 1e6).status().records == 0
    assert [line for line in said if "receiver" in line] == [
        "the OTLP receiver is away; spans wait on disk (away)",
        "the OTLP receiver is back",
    ]


def test_the_next_session_sends_what_this_one_left(folder: int) -> None:
    """At its end nothing is dropped; the next one's account has only its own, which go out first."""
    first = delivery(Script(AWAY), folder, [])
    for n in range(5):
        first.put("traces", b"old%d" % n, {0: 3})
    first.close(30)
    assert first.totals() == Delivered({}, {}, {}, {0: 15})
    sender, said = Script(Accepted()), list[str]()
    sender.gate.clear()
    second = delivery(sender, folder, said)
    until(lambda: len(sender.sent) == 1)  # one of the old is under way, since nothing fresh was there
    second.put("traces", b"fresh", {1: 1})
    sender.gate.set()
    until(lambda: len(sender.sent) == 6)
    second.close(1)
    assert [body for _, body in sender.sent] == [b"old0", b"fresh", *(b"old%d" % n for n in range(1, 5))]
    assert second.totals() == Delivered({1: 1}, {}, {}, {})
    assert "spool: 15 spans of earlier sessions wait on disk; they are sent behind fresh ones" in said


def test_a_full_disk_leaves_spans_in_memory(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said once; they go to disk when it takes them again, and none is lost or counted twice."""
    monkeypatch.setattr(spilling, "DISK_PAUSE_S", 0.05)
    write, full = os.write, [True]

    def refusing(descriptor: int, data: memoryview) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr("otel_usdt.otlp.spool.os.write", refusing)
    sender, said = Script(AWAY), list[str]()
    queue = delivery(sender, folder, said)
    for n in range(5):
        queue.put("traces", b"body%d" % n, {0: 1})
    until(lambda: "spool: No space left on device; spans wait in memory" in said)
    assert queue.totals() == Delivered({}, {}, {0: 5}, {})
    full[0] = False
    until(lambda: queue.totals() == Delivered({}, {}, {}, {0: 5}))
    assert said.count("spool: No space left on device; spans wait in memory") == said.count("spool: it is written again") == 1
    queue.close(1)


def test_what_a_disk_does_not_take_is_sent_from_memory_at_once(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver is there and nothing else happens: that the disk has failed is enough to send."""
    writing, fail = threading.Event(), threading.Event()

    def failing(descriptor: int, data: memoryview) -> int:
        writing.set()
        fail.wait(10)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("otel_usdt.otlp.spool.os.write", failing)
    sender, said = Script(Accepted()), list[str]()
    sender.gate.clear()
    queue = delivery(sender, folder, said, queue_bytes=1000)
    queue.put("traces", bytes(100), {0: 1})
    until(lambda: sender.sent)
    queue.put("traces", bytes(800), {0: 1})  # more than half a queue: it goes to disk
    assert writing.wait(10)
    sender.gate.set()
    until(lambda: queue.totals() == Delivered({0: 1}, {}, {0: 1}))
    fail.set()
    until(lambda: queue.totals() == Delivered({0: 2}, {}, {}))
    assert said == ["spool: Input/output error; spans wait in memory"]
    queue.close(1)


def test_refused_rejected_and_too_large_from_disk_are_accounted(folder: int) -> None:
    """As from memory: refused is dropped, rejected spans too, and what is too large goes in halves."""
    sender, said = Script(AWAY), list[str]()
    queue = delivery(sender, folder, said)
    encoded = spans(9)
    for body in (b"refused", b"partly", encoded.body):
        queue.put("traces", body, encoded.counts)
    until(lambda: queue.totals().spooled == {0: 9, 1: 18})
    sender.outcomes = [Refused("no"), Accepted(4, "four were odd"), TooLarge("413"), Accepted()]
    until(lambda: sum(queue.totals().exported.values()) == 5 + 9)
    queue.close(1)
    totals = queue.totals()
    assert sum(totals.dropped.values()) == 9 + 4
    assert Counter(totals.exported) + Counter(totals.dropped) == Counter({0: 9, 1: 18})
    assert totals.spooled == totals.queued == {}


def test_half_a_queue_goes_to_disk_though_the_receiver_is_there(folder: int) -> None:
    """A slow receiver: memory stays below its bound, and nothing is dropped for it."""
    sender = Script(Accepted())
    sender.gate.clear()
    queue = delivery(sender, folder, [], queue_bytes=10_000)
    for _ in range(100):
        queue.put("traces", bytes(1000), {0: 1})
        until(lambda: queue.queued_bytes() <= 7000)
    sender.gate.set()
    until(lambda: queue.totals() == Delivered({0: 100}, {}, {}, {}))
    queue.close(1)
