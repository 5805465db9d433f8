"""When requests may go: many at a time to a receiver that is there, one to one that is away, and one outage is one failure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otel_usdt.otlp.lane import Backoff, Lane
from otel_usdt.otlp.outcome import Accepted, Outcome, Refused, Retry

BACKOFF = Backoff(1.0, 64.0)
AWAY = Retry(None, "away")


def test_many_go_while_the_receiver_takes_them() -> None:
    """Nothing bounds them here: the threads do."""
    lane = Lane(BACKOFF)
    for n in range(7):
        assert lane.opens_at() == 0.0
        assert lane.begin() == 0
        assert lane.under_way == n + 1


def test_requests_that_one_outage_fails_are_one_failure() -> None:
    """Four under way fail: the wait is that of the first failure, however many they were."""
    lane = Lane(BACKOFF)
    turns = [lane.begin() for _ in range(4)]
    for turn in turns:
        lane.end(turn, AWAY, now=100.0)
    assert (lane.away, lane.failures) == (True, 1)
    assert 100.5 <= lane.not_before <= 101.0


def test_one_request_tries_while_the_receiver_is_away() -> None:
    """The next may go when it has failed, after twice the wait, or has been taken, and then at once."""
    lane = Lane(BACKOFF)
    lane.end(lane.begin(), AWAY, now=100.0)
    probe = lane.begin()
    assert lane.opens_at() is None
    lane.end(probe, AWAY, now=101.0)
    at = lane.opens_at()
    assert at is not None
    assert 102.0 <= at <= 103.0
    lane.end(lane.begin(), Refused("but there"), now=103.0)
    assert (lane.away, lane.failures, lane.opens_at()) == (False, 0, 0.0)


def test_an_outcome_of_an_earlier_turn_neither_ends_nor_begins_an_outage() -> None:
    """Sent before the outage: that it was taken says nothing of now; that it failed, after the receiver is back, neither."""
    lane = Lane(BACKOFF)
    early = [lane.begin() for _ in range(3)]
    lane.end(early[0], AWAY, now=100.0)
    lane.end(early[1], Accepted(), now=100.1)
    assert lane.away
    assert lane.not_before >= 100.5
    lane.end(lane.begin(), Accepted(), now=101.0)
    lane.end(early[2], AWAY, now=110.0)
    assert (lane.away, lane.opens_at()) == (False, 0.0)


def test_what_a_receiver_asks_holds_for_all_its_requests() -> None:
    """Also when it asks in answer to a request that began before the outage."""
    lane = Lane(BACKOFF)
    first, second = lane.begin(), lane.begin()
    lane.end(first, AWAY, now=100.0)
    lane.end(second, Retry(20.0, "busy"), now=100.0)
    assert 120.0 <= lane.not_before <= 122.0
    lane.hurry()
    assert lane.opens_at() == 0.0


def test_nothing_to_send_leaves_the_lane_as_it_was() -> None:
    """The disk was empty after all: that says nothing of the receiver, and the next may try."""
    lane = Lane(BACKOFF)
    lane.end(lane.begin(), AWAY, now=100.0)
    before = lane.opens_at()
    lane.end(lane.begin(), None, now=101.0)
    assert (lane.away, lane.failures, lane.opens_at()) == (True, 1, before)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([Accepted(), AWAY, Retry(3.0, "busy"), Refused("no"), None])), max_size=60))
def test_never_more_than_one_tries_in_an_outage(steps: list[tuple[int, Outcome | None]]) -> None:
    """Whatever ends in whatever order: no attempt is counted twice or never, and in an outage one is under way at most."""
    lane, under_way = Lane(BACKOFF), list[int]()
    for now, (which, outcome) in enumerate(steps):
        if lane.opens_at() is not None and len(under_way) < 4:
            under_way.append(lane.begin())
        assert lane.under_way == under_way.count(lane.turn)
        assert not lane.away or lane.under_way <= 1
        assert lane.away == (lane.failures > 0)
        if which < len(under_way):
            lane.end(under_way.pop(which), outcome, float(now))
