"""No outage costs a span: each that was made is at the sink once, but for those whose fate nobody could know, which may be there twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_usdt.otlp import spilling
from tests.delivery.load import Load
from tests.delivery.receivers import How, Kind, receiver
from tests.delivery.truth import Sink, reconcile
from tests.kernel.session import wait_until

over_grpc = [("own", "grpc"), pytest.param("collector", "grpc", marks=pytest.mark.peers), ("rotel", "grpc")]
over_http = [("own", "http/protobuf"), pytest.param("collector", "http/protobuf", marks=pytest.mark.peers), ("rotel", "http/protobuf")]
Make = Callable[..., Load]
pytestmark = pytest.mark.timeout(480)
KILLS = 20
LONG_S = 200.0  # for a million spans, on a slow machine
ENOUGH = 100_000  # spans that wait: of a receiver that is long away there come no more, or they would not fit in the end


def waiting(fed: Load) -> int:
    """Spans in memory."""
    return sum(fed.totals().queued.values())


@pytest.mark.parametrize(("kind", "how"), over_grpc + over_http)
def test_a_receiver_that_is_killed_twenty_times_under_load(load: Make, kind: Kind, how: How, tmp_path: Path) -> None:
    """Each life takes some spans and is ended in the midst of more. Doubled are the requests that were under way at the ends, at most."""
    sink = Sink()
    with receiver(kind, how, tmp_path, sink) as (config, life):
        fed = load(config)
        for _ in range(KILLS):
            life.start()
            goal = sink.spans.total() + 2_003
            while sink.spans.total() < goal:
                if waiting(fed) < ENOUGH:
                    fed.feed(101)
                time.sleep(0.001)
            life.end()
            fed.feed(503)
        life.start()
        wait_until(fed.settled, "all spans", LONG_S)
        life.end()
    reconcile(fed.made, sink, fed.witness, fed.totals(), unknown_requests=config.concurrency * KILLS)


@pytest.mark.parametrize(("kind", "how"), over_grpc)
def test_a_receiver_that_is_absent_for_a_million_spans(
    load: Make, kind: Kind, how: How, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them wait on disk, and arrive once when the receiver does; the disk is empty then."""
    monkeypatch.setattr(spilling, "REPLAY_BYTES_PER_S", 1 << 30)  # for the test's sake: a receiver is given 8 MiB/s
    (spool := tmp_path / "spool").mkdir()
    sink = Sink()
    with receiver(kind, how, tmp_path, sink) as (config, life):
        fed = load(config, spool)
        while fed.made < 1_000_000:
            fed.feed(4_000)
            wait_until(lambda: waiting(fed) < ENOUGH, "a disk that keeps up")
        wait_until(lambda: not fed.totals().queued, "all spans on disk")
        assert sum(fed.totals().spooled.values()) == fed.made
        life.start()
        wait_until(fed.settled, "all spans", LONG_S)
        life.end()
    reconcile(fed.made, sink, fed.witness, fed.totals(), unknown_requests=0)
    assert [path.name for path in spool.iterdir()] == ["done"]
