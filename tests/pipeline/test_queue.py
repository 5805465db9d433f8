"""Delivery: nothing is lost while the receiver is away, and whatever is lost is counted, to the span."""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import ExitStack, closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_usdt.otlp.backlog import Backlog, Request
from otel_usdt.otlp.client import Accepted, Exporter, Outcome, Refused, Retry, TooLarge
from otel_usdt.otlp.queue import Backoff, Delivered, Delivery
from otel_usdt.plan import OtlpExport
from tests.pipeline.receivers import grpc_receiver
from tests.pipeline.scripted import NAMES, QUICK, Script, delivery, spans, until


def test_everything_that_is_accepted_is_exported() -> None:
    """Counts by span probe add up, and nothing stays queued."""
    sender = Script(Accepted())
    with delivery(sender) as queue:
        for _ in range(7):
            queue.put("traces", b"body", {0: 2, 5: 3})
        until(lambda: not queue.totals().queued)
        assert queue.totals() == Delivered({0: 14, 5: 21}, {}, {})


def test_receiver_that_comes_later_gets_everything_once_and_in_order() -> None:
    """A real receiver is away at first: nothing is lost, its coming and going is said once each."""
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with closing(Exporter(OtlpExport(f"http://localhost:{port}", timeout_s=5.0))) as sender, delivery(sender, say=said.append) as queue:
        for n in range(5):
            encoded = spans(11, first=1 + 11 * n)
            queue.put("traces", encoded.body, encoded.counts)
        until(lambda: said)
        time.sleep(0.2)  # several attempts
        assert queue.totals() == Delivered({}, {}, {0: 15, 1: 40})
        with grpc_receiver(port=port) as (_, received):
            until(lambda: not queue.totals().queued)
            assert queue.totals() == Delivered({0: 15, 1: 40}, {}, {})
        assert received.span_ids() == [n.to_bytes(8, "big") for n in range(1, 56)]
    assert len(said) == 2
    assert "away" in said[0]
    assert "back" in said[1]


def test_receiver_that_restarts_gets_the_rest() -> None:
    """Every span arrives at the first or at the second life of the receiver, and the account says so."""
    first, second = spans(101), spans(103, first=1000)
    with ExitStack() as stack:
        with grpc_receiver() as (port, before):
            sender = stack.enter_context(closing(Exporter(OtlpExport(f"http://127.0.0.1:{port}", timeout_s=5.0))))
            queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK)
            queue.put("traces", first.body, first.counts)
            until(lambda: not queue.totals().queued)
        queue.put("traces", second.body, second.counts)
        with grpc_receiver(port=port) as (_, after):
            queue.close(10.0)
    assert (len(before.span_ids()), len(after.span_ids())) == (101, 103)
    assert sum(queue.totals().exported.values()) == 204


def test_full_queue_drops_the_oldest_and_counts_exactly() -> None:
    """While the receiver is away the queue keeps the newest that fit; the dropped are counted by span probe."""
    sender = Script(Retry(None, "away"))
    with delivery(sender, queue_bytes=1_000) as queue:
        for n in range(13):
            queue.put("traces", bytes([n]) * 100, {n: 7})
            assert sum(map(sum, ([*part.values()] for part in _parts(queue.totals())))) == 7 * (n + 1)
        totals = queue.totals()
        assert totals.exported == {}
        sender.outcomes = [Accepted()]
        until(lambda: not queue.totals().queued)
        totals = queue.totals()
    # The oldest may have been under way, and so exempt, when the queue was full.
    assert sum(totals.dropped.values()) == 7 * 3
    assert sum(totals.exported.values()) == 7 * 10
    assert max(totals.dropped) <= 3


def _parts(totals: Delivered) -> list[dict[int, int]]:
    return [totals.exported, totals.dropped, totals.queued]


def test_request_larger_than_the_queue_does_not_displace_others() -> None:
    """What can never fit is dropped itself."""
    sender = Script(Retry(None, "away"))
    with delivery(sender, queue_bytes=100) as queue:
        queue.put("traces", b"x" * 60, {0: 1})
        queue.put("traces", b"x" * 101, {1: 1})
        assert queue.totals() == Delivered({}, {1: 1}, {0: 1})


def test_partial_success_takes_rejected_spans_off_the_largest_count() -> None:
    """A receiver says how many it rejected, not which: exported and dropped still add up to what was put."""
    with delivery(Script(Accepted(rejected=6, message="old"))) as queue:
        queue.put("traces", b"body", {0: 2, 1: 5, 2: 1})
        until(lambda: not queue.totals().queued)
        assert queue.totals() == Delivered({0: 1, 2: 1}, {0: 1, 1: 5}, {})


def test_more_rejected_than_sent_is_all() -> None:
    """A receiver that cannot count does not spoil ours."""
    with delivery(Script(Accepted(rejected=1 << 60))) as queue:
        queue.put("traces", b"body", {0: 2})
        until(lambda: not queue.totals().queued)
        assert queue.totals() == Delivered({}, {0: 2}, {})


@pytest.mark.parametrize("outcome", [Refused("no"), TooLarge("4 MiB"), RuntimeError("a fault of ours")])
def test_refused_is_dropped_and_the_next_goes_on(outcome: Outcome | Exception) -> None:
    """What will never be taken does not block the queue; each reason is said once."""
    said: list[str] = []
    with delivery(Script(outcome, outcome, Accepted()), say=said.append) as queue:
        for probe in range(3):
            queue.put("traces", b"body", {probe: 1})
        until(lambda: not queue.totals().queued)
        assert queue.totals() == Delivered({2: 1}, {0: 1, 1: 1}, {})
    assert len(said) == 1


def test_retry_honours_what_the_receiver_asks() -> None:
    """The next attempt is not before the receiver's Retry-After."""
    sender = Script(Retry(0.3, "busy"), Accepted())
    with delivery(sender) as queue:
        queue.put("traces", b"body", {0: 1})
        until(lambda: not queue.totals().queued)
    assert sender.times[1] - sender.times[0] >= 0.3


def test_backoff_doubles_to_its_end_and_is_spread() -> None:
    """1 s, 2 s, ... 30 s, each by random between half and whole; a receiver's wish is a lower bound, and is itself bounded."""
    backoff = Backoff()
    for failures, most in ((1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (1_000_000, 30.0)):
        delays = [backoff.delay_s(failures, None) for _ in range(200)]
        assert most / 2 <= min(delays) < max(delays) <= most
        assert max(delays) - min(delays) > most / 5
    assert 10.0 <= backoff.delay_s(1, 10.0) <= 11.0
    assert backoff.delay_s(1, 0.0) >= 1.0
    assert backoff.delay_s(1, 1e12) <= 330.0


@pytest.mark.parametrize("concurrency", [1, 4])
def test_account_closes_at_every_instant_while_threads_put(concurrency: int) -> None:
    """put = exported + dropped + queued, read while a receiver takes, refuses, rejects and is away by turns."""
    outcomes: list[Outcome] = [Accepted(), Retry(0.0, "busy"), Refused("no"), Accepted(rejected=1), TooLarge("big")]
    turn = iter(range(1 << 60))

    class Turns:
        def send(self, signal: str, body: bytes) -> Outcome:
            return outcomes[next(turn) % len(outcomes)]

    put = 0
    with delivery(Turns(), queue_bytes=200, backoff=Backoff(0.0001, 0.0002), concurrency=concurrency) as queue:
        for n in range(2_003):
            queue.put("traces", b"x" * 10, {n % 3: 2})
            put += 2
            assert sum(sum(part.values()) for part in _parts(queue.totals())) == put
        queue.close(10.0)
        totals = queue.totals()
    assert totals.queued == {}
    assert sum(totals.exported.values()) + sum(totals.dropped.values()) == put
    assert totals.exported
    assert totals.dropped


STEPS = st.sampled_from(["put", "take", "back", "settle", "lose", "halve"])


@given(st.lists(st.tuples(STEPS, st.integers(1, 60), st.integers(0, 4)), max_size=60))
def test_backlog_account_closes_whatever_happens(steps: list[tuple[str, int, int]]) -> None:
    """Any order of puts, sends, several at a time, failures and rejections: every span is in exactly one place, and the limit holds."""
    backlog, under_way, put = Backlog(100), list[Request](), Counter[int]()
    for what, size, probe in steps:
        if what == "put":
            backlog.put(Request("traces", b"x" * size, {probe: size, 9: 1}))
            put.update({probe: size, 9: 1})
        elif what == "take" and len(under_way) < 4 and backlog.waiting():
            under_way.append(backlog.take("traces"))
        elif under_way and what in ("back", "settle", "lose", "halve"):
            taken = under_way.pop(probe % len(under_way))
            if what == "back":
                backlog.put_back(taken)
            elif what == "halve":
                middle = len(taken.body) // 2
                [(own, n)] = [item for item in taken.counts.items() if item[0] != 9]
                rest = Request("traces", taken.body[middle:], {own: n - middle, 9: taken.counts.get(9, 0)})
                backlog.replace(taken, [Request("traces", taken.body[:middle], {own: middle}), rest])
            else:
                backlog.settle(taken, size if what == "settle" else None)
        totals = backlog.totals()
        assert Counter(totals.exported) + Counter(totals.dropped) + Counter(totals.queued) == put
        assert 0 <= backlog._bytes <= 100
    backlog.drop_all()
    assert (backlog.totals().queued, backlog._bytes) == ({}, 0)
