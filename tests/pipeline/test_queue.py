"""Delivery: nothing is lost while the receiver is away, and whatever is lost is counted, to the span."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_usdt.metrics.points import ledger_points
from otel_usdt.otlp.backlog import Backlog, Request
from otel_usdt.otlp.client import Accepted, Exporter, Outcome, Refused, Retry, TooLarge
from otel_usdt.otlp.encode import Encoded, encode_spans
from otel_usdt.otlp.encode_metrics import encode_points
from otel_usdt.otlp.halves import halves
from otel_usdt.otlp.queue import Backoff, Delivered, Delivery
from otel_usdt.plan import OtlpExport
from otel_usdt.stream.records import TEXT_FLAG
from tests.pipeline.receivers import Abort, Received, accept, grpc_receiver, http_receiver
from tests.samples import PARSE, QUERY, batch, call, plain

QUICK = Backoff(0.01, 0.05)
NAMES = (QUERY.name, PARSE.name)


class Script:
    """A sender that answers as told, the last answer from then on, and keeps what it was given."""

    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[tuple[str, bytes]] = []
        self.times: list[float] = []
        self.gate = threading.Event()
        self.gate.set()

    def send(self, signal: str, body: bytes) -> Outcome:
        self.sent.append((signal, body))
        self.times.append(time.monotonic())
        self.gate.wait(10)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@contextmanager
def delivery(
    sender: Any,
    queue_bytes: int = 1 << 20,
    say: Callable[[str], None] = lambda line: None,
    backoff: Backoff = QUICK,
    concurrency: int = 1,
) -> Iterator[Delivery]:
    made = Delivery(sender, queue_bytes, NAMES, say, backoff, concurrency=concurrency)
    try:
        yield made
    finally:
        made.close(0)


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30.0
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def spans(n: int, first: int = 1) -> Encoded:
    """A request of n spans, the first third of which are of span probe 0."""
    calls = [call(probe=0 if i < n // 3 else 1, span=first + i) for i in range(n)]
    [encoded] = encode_spans(batch(calls), [QUERY, PARSE], {}, "1")
    return encoded


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


@contextmanager
def limited(protocol: Any, limit: int) -> Iterator[tuple[Exporter, Received]]:
    """A client whose receiver takes no request of more bytes."""
    receiver = grpc_receiver(options=[("grpc.max_receive_message_length", limit)]) if protocol == "grpc" else http_receiver(limit=limit)
    with receiver as (port, received), closing(Exporter(OtlpExport(f"http://127.0.0.1:{port}", protocol, timeout_s=20.0))) as sender:
        yield sender, received


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("limit", [1_500, 8_000])
def test_request_that_is_too_large_goes_in_halves(protocol: Any, limit: int) -> None:
    """Real receivers that take little at once get every span once and in order; the account is exact, and nothing needs saying."""
    said: list[str] = []
    encoded = spans(101)
    assert len(encoded.body) > 8_000
    with limited(protocol, limit) as (sender, received), delivery(sender, say=said.append) as queue:
        queue.put("traces", encoded.body, encoded.counts)
        until(lambda: not queue.totals().queued)
        assert queue.totals() == Delivered(encoded.counts, {}, {})
    assert received.span_ids() == [n.to_bytes(8, "big") for n in range(1, 102)]
    assert len(received.traces) > 1
    assert said == []


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_single_span_that_is_too_large_is_dropped_and_said_once(protocol: Any) -> None:
    """The others of its request arrive; a second one like it is counted and not said again."""
    said: list[str] = []
    calls = [call(probe=0 if n in (4, 9) else 1, span=n, flags=TEXT_FLAG) for n in range(1, 12)]
    texts = [{0: b"q" * (230 + n)} if n in (4, 9) else {} for n in range(1, 12)]
    [encoded] = encode_spans(batch(calls, texts), [QUERY, PARSE], {}, "1")
    with limited(protocol, 300) as (sender, received), delivery(sender, say=said.append) as queue:
        queue.put("traces", encoded.body, encoded.counts)
        until(lambda: not queue.totals().queued)
        assert queue.totals() == Delivered({1: 9}, {0: 2}, {})
    assert [int.from_bytes(span_id, "big") for span_id in received.span_ids()] == [1, 2, 3, 5, 6, 7, 8, 10, 11]
    assert len(said) == 1
    assert "a single span is too large" in said[0]


def test_halves_keep_every_span_under_its_own_resource() -> None:
    """Spans of three processes: each half names the processes and the scope of its spans, and has their account."""
    calls = [call(probe=n % 2, tgid=100 + n // 3, span=1 + n) for n in range(9)]
    resources: dict[int, dict[str, str | int]] = {100 + n: {"service.name": f"s{n}", "process.pid": 100 + n} for n in range(3)}
    [encoded] = encode_spans(batch(calls), [QUERY, PARSE], resources, "1.2.3")
    pieces = halves(Request("traces", encoded.body, encoded.counts), {QUERY.name: 0, PARSE.name: 1})
    assert [piece.counts for piece in pieces] == [{0: 3, 1: 1}, {0: 2, 1: 3}]
    told = [
        (plain(of_process.resource.attributes)["process.pid"], scope.scope.version, [span.span_id[-1] for span in scope.spans])
        for piece in pieces
        for of_process in ExportTraceServiceRequest.FromString(piece.body).resource_spans
        for scope in of_process.scope_spans
    ]
    assert told == [(100, "1.2.3", [1, 3, 2]), (101, "1.2.3", [5]), (101, "1.2.3", [4, 6]), (102, "1.2.3", [7, 9, 8])]


def test_metrics_that_are_too_large_are_dropped_and_said() -> None:
    """They are not split; the next ones are tried again."""
    said: list[str] = []
    sender = Script(TooLarge("413"), Accepted())
    with delivery(sender, say=said.append) as queue:
        queue.put("metrics", b"large", {})
        until(lambda: said)
        queue.put("metrics", b"small", {})
        until(lambda: sender.sent == [("metrics", b"large"), ("metrics", b"small")])
    assert said == ["the metrics are too large for the OTLP receiver: such are dropped (413)"]


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


def test_metrics_keep_only_the_newest() -> None:
    """Metrics are cumulative: while the receiver is away a newer request replaces the older, spans stay."""
    sender = Script(Retry(None, "away"))
    with delivery(sender) as queue:
        for n in range(10):
            queue.put("metrics", b"m%d" % n, {})
        queue.put("traces", b"spans", {0: 1})
        until(lambda: {("metrics", b"m9"), ("traces", b"spans")} <= set(sender.sent))
        sender.sent.clear()
        sender.outcomes = [Accepted()]
        until(lambda: len(set(sender.sent)) == 2)
        assert {body for _, body in sender.sent} == {b"m9", b"spans"}


def test_metrics_that_failed_do_not_replace_newer_ones() -> None:
    """While an attempt was under way newer metrics came: those are tried next."""
    backlog = Backlog(100)
    backlog.put(Request("metrics", b"old", {}))
    old = backlog.take("metrics")
    backlog.put(Request("metrics", b"new", {}))
    backlog.put_back(old)
    assert backlog.take("metrics").body == b"new"
    assert backlog.waiting() == []


def test_metrics_that_nobody_takes_do_not_hold_up_spans() -> None:
    """A receiver without metrics (it is away for them, or refuses them) gets its spans."""

    class TracesOnly:
        def send(self, signal: str, body: bytes) -> Outcome:
            return Accepted() if signal == "traces" else Retry(None, "no such receiver")

    with delivery(TracesOnly(), backoff=Backoff(300.0, 300.0)) as queue:
        queue.put("metrics", b"metrics", {})
        queue.put("traces", b"spans", {0: 1})
        until(lambda: queue.totals() == Delivered({0: 1}, {}, {}))


def test_grpc_receiver_without_metrics_is_told_once() -> None:
    """A real server that does not implement metrics: spans arrive, the refusal is said once however often it happens."""
    said: list[str] = []

    def script(n: int) -> Any:
        return Abort(grpc.StatusCode.UNIMPLEMENTED, "unknown service") if n % 2 == 0 else accept(n)

    body = encode_points(ledger_points({"parse": {"entries": 1}}), {}, 1, 2, "1")
    with (
        grpc_receiver(script) as (port, received),
        closing(Exporter(OtlpExport(f"http://127.0.0.1:{port}"))) as sender,
        delivery(sender, say=said.append) as queue,
    ):
        for n in range(3):
            queue.put("metrics", body, {})
            until(lambda n=n: len(received.headers) == 2 * n + 1)  # type: ignore[misc]
            queue.put("traces", spans(3).body, {0: 1, 1: 2})
            until(lambda n=n: len(received.headers) == 2 * n + 2)  # type: ignore[misc]
        until(lambda: not queue.totals().queued)
        assert queue.totals().exported == {0: 3, 1: 6}
    assert len(said) == 1
    assert "metrics" in said[0]


def test_empty_body_is_never_sent() -> None:
    """OTLP has no empty requests."""
    sender = Script(Accepted())
    with delivery(sender) as queue:
        queue.put("metrics", b"", {})
        queue.put("traces", b"x", {0: 1})
        until(lambda: not queue.totals().queued)
    assert sender.sent == [("traces", b"x")]


def test_close_empties_the_queue_within_its_grace() -> None:
    """What waits is sent before the end, also while a backoff is running."""
    sender = Script(Retry(60.0, "busy"), Accepted())
    queue = Delivery(sender, 1 << 20, NAMES, lambda line: None)
    queue.put("traces", b"a", {0: 1})
    until(lambda: sender.sent)
    queue.put("traces", b"b", {0: 1})
    queue.put("metrics", b"last", {})
    started = time.monotonic()
    queue.close(30.0)
    assert time.monotonic() - started < 10
    assert queue.totals() == Delivered({0: 2}, {}, {})
    assert ("metrics", b"last") in sender.sent


def test_close_with_the_receiver_away_drops_and_counts() -> None:
    """At the end of the grace the rest is dropped; the account closes with nothing queued."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with closing(Exporter(OtlpExport(f"http://127.0.0.1:{port}"))) as sender:
        queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK)
        for _ in range(3):
            queue.put("traces", spans(9).body, {0: 3, 1: 6})
        started = time.monotonic()
        queue.close(0.3)
        assert 0.25 < time.monotonic() - started < 5
    assert queue.totals() == Delivered({}, {0: 9, 1: 18}, {})


def test_close_does_not_wait_for_a_hanging_receiver() -> None:
    """A request under way when the grace ends is counted dropped, and stays so however it ends."""
    sender = Script(Accepted())
    sender.gate.clear()
    queue = Delivery(sender, 1 << 20, NAMES, lambda line: None, QUICK)
    queue.put("traces", b"body", {0: 1})
    until(lambda: sender.sent)
    queue.close(0.05)
    assert queue.totals() == Delivered({}, {0: 1}, {})
    sender.gate.set()
    for thread in queue._threads:
        thread.join(5)
        assert not thread.is_alive()
    assert queue.totals() == Delivered({}, {0: 1}, {})


def test_put_after_close_is_dropped_and_counted() -> None:
    """Nobody will send it."""
    queue = Delivery(Script(Accepted()), 1 << 20, NAMES, lambda line: None)
    queue.close(0)
    queue.put("traces", b"body", {0: 1})
    assert queue.totals() == Delivered({}, {0: 1}, {})


def test_closed_standard_error_does_not_stop_the_delivery() -> None:
    """`say` may fail; the spans go out all the same."""

    def broken(line: str) -> None:
        raise BrokenPipeError

    with delivery(Script(Retry(None, "away"), Accepted()), say=broken) as queue:
        queue.put("traces", b"body", {0: 1})
        until(lambda: queue.totals() == Delivered({0: 1}, {}, {}))


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
