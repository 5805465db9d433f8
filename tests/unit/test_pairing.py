"""Keyed calls are paired whatever the order, and the account closes after every step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from otel_usdt.ladder import BOUNDS_NS, uppers
from otel_usdt.metrics.histograms import cells_of
from otel_usdt.plan import Key, Span
from otel_usdt.spans.pairing import GRACE_NS, Pairing
from otel_usdt.stream.records import CALL, ENTER, RATE_LIMITED, RETURN, SAMPLED_OUT

SPAN = Span("job", 0, "spans", "pair", "func:put ~~ func:got", key=Key())
S = 1_000_000_000


def end(flags: int, key: int, at_ns: int, **fields: Any) -> dict[str, Any]:
    return {"flags": flags, "duration_ns": key, "start_ktime_ns": at_ns, "thread": 100 << 32 | 101, **fields}


def records(*ends: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.void]]:
    made = np.zeros(len(ends), CALL)
    for row, fields in zip(made, ends, strict=True):
        for name, value in fields.items():
            row[name] = value
    return made


def test_a_call_has_its_beginnings_ids_and_both_ends_arguments() -> None:
    """Process, trace, parent and flags are of the beginning; the duration is the time between, and nothing of the key is left."""
    pairing = Pairing([SPAN])
    begin = end(ENTER | 4, 7, 1_000, trace=(1, 2), span=3, parent=4, depth=2, arg=(11, 0, 0, 0))
    (call,) = pairing.feed(records(begin, end(RETURN, 7, 5_000, thread=100 << 32 | 999, arg=(0, -5, 0, 0))))
    assert call["trace"].tolist() == [1, 2]
    assert (call["span"], call["parent"], call["flags"], call["depth"], call["thread"]) == (3, 4, 4, 2, 100 << 32 | 101)
    assert (call["start_ktime_ns"], call["duration_ns"], call["arg"].tolist()) == (1_000, 4_000, [11, -5, 0, 0])


@pytest.mark.parametrize(("within", "calls"), [("process", 0), ("any", 1)])
def test_one_key_in_two_processes_is_two_keys_unless_it_is_said(within: Any, calls: int) -> None:
    """Pointers mean nothing in another process; the numbers of orders do."""
    pairing = Pairing([replace(SPAN, key=Key(within=within))])
    assert len(pairing.feed(records(end(ENTER, 7, 1), end(RETURN, 7, 2, thread=300 << 32 | 300)))) == calls


def test_an_end_waits_a_moment_for_its_beginning() -> None:
    """Processors race for the ring: an end that was read first is paired all the same, and never has a negative duration."""
    pairing = Pairing([SPAN])
    assert len(pairing.feed(records(end(RETURN, 7, 1_000)))) == 0
    pairing.expire(1_000 + GRACE_NS - 1)
    (call,) = pairing.feed(records(end(ENTER, 7, 1_200)))
    assert call["duration_ns"] == 0
    pairing.feed(records(end(RETURN, 8, 2_000)))
    pairing.expire(2_000 + GRACE_NS)
    assert (pairing.accounts()[0].orphaned, len(pairing.feed(records(end(ENTER, 8, 2_100))))) == (1, 0)


def test_the_call_around_an_end_links_to_what_ended_there() -> None:
    """Once, and only where the keyed call is a span itself."""
    pairing = Pairing([SPAN])
    pairing.feed(records(end(ENTER, 1, 10, trace=(1, 2), span=3), end(RETURN, 1, 20, span=77), end(ENTER, 2, 10, span=4)))
    pairing.feed(records(end(RETURN, 2, 20, span=77), end(ENTER | SAMPLED_OUT, 5, 10, span=6), end(RETURN, 5, 20, span=78)))
    around = records({"span": 5}, {"span": 77}, {"span": 78})
    assert [(row, trace.tolist(), span) for row, trace, span in pairing.links(around)] == [(1, [1, 2], 3), (1, [0, 0], 4)]
    assert len(pairing.links(around)) == 0


def test_each_reason_for_no_span_has_its_count() -> None:
    """In the kernel's order: too short before sampled out before rate limited; the histogram has them all."""
    pairing = Pairing([replace(SPAN, min_duration_ns=100)])
    flags = (0, SAMPLED_OUT, RATE_LIMITED, SAMPLED_OUT, 0)
    ends = [end(ENTER | flag, i, 0) for i, flag in enumerate(flags)]
    pairing.feed(records(*ends, *(end(RETURN, i, 99 if i > 2 else 100) for i in range(5))))
    account = pairing.accounts()[0]
    assert (account.calls, account.recorded, account.sampled_out, account.rate_limited, account.too_short) == (5, 1, 1, 1, 2)
    assert (int(account.took.cells.sum()), account.took.sum_ns, account.took.min_ns, account.took.max_ns) == (5, 498, 99, 100)


@pytest.mark.parametrize("bounds_ns", [BOUNDS_NS, None])
def test_a_duration_is_in_the_cell_of_its_bounds(bounds_ns: tuple[int, ...] | None) -> None:
    """(lower, upper], at every bound and beside it: as the kernel counts."""
    bounds = np.array(uppers(bounds_ns), "u8")
    assert cells_of(bounds, bounds_ns).tolist() == list(range(len(bounds)))
    assert cells_of(bounds[:-1] + np.uint64(1), bounds_ns).tolist() == list(range(1, len(bounds)))


@dataclass(slots=True)
class Model:
    """The rules once more, as plainly as they can be written."""

    key: Key
    begun: list[tuple[int, int, int]] = field(default_factory=list)  # time, key, number
    ended: list[tuple[int, int]] = field(default_factory=list)  # time, key
    pairs: list[int] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("unwound", "expired", "orphaned", "full"), 0))

    def begin(self, now: int, key: int, number: int) -> None:
        waiting = [one for one in self.ended if one[1] == key]
        if waiting:
            self.ended.remove(waiting[0])
            self.pairs.append(number)
        elif self.key.duplicates == "last" and any(one[1] == key for one in self.begun):
            self.begun = [one for one in self.begun if one[1] != key] + [(now, key, number)]
            self.lost["unwound"] += 1
        elif len(self.begun) >= self.key.pending:
            self.lost["full"] += 1
        else:
            self.begun.append((now, key, number))

    def end(self, now: int, key: int) -> None:
        open_ = [one for one in self.begun if one[1] == key]
        if open_:
            self.begun.remove(open_[0])
            self.pairs.append(open_[0][2])
        else:
            self.ended.append((now, key))

    def expire(self, now: int) -> None:
        begun = [one for one in self.begun if one[0] > now - self.key.expire_ns]
        ended = [one for one in self.ended if one[0] > now - GRACE_NS]
        self.lost["expired"] += len(self.begun) - len(begun)
        self.lost["orphaned"] += len(self.ended) - len(ended)
        self.begun, self.ended = begun, ended


class Machine(RuleBasedStateMachine):
    """Any sequence of beginnings, ends, batches and time."""

    @initialize(
        key=st.builds(
            Key,
            duplicates=st.sampled_from(("fifo", "last")),
            expire_ns=st.sampled_from((1, S, 5 * S)),
            pending=st.integers(1, 6),
        )
    )
    def begin(self, key: Key) -> None:
        self.now, self.number, self.ends = 10 * S, 0, 0
        self.pairing, self.model = Pairing([replace(SPAN, key=key)]), Model(key)
        self.made: list[int] = []

    @rule(ends=st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=12))
    def feed(self, ends: list[tuple[bool, int]]) -> None:
        batch = []
        for begins, key in ends:
            self.now += 1
            if begins:
                self.number += 1
                batch.append(end(ENTER, key, self.now, span=self.number))
                self.model.begin(self.now, key, self.number)
            else:
                self.ends += 1
                batch.append(end(RETURN, key, self.now))
                self.model.end(self.now, key)
        shuffled = records(*batch)[np.random.default_rng(self.now).permutation(len(batch))]
        self.made += self.pairing.feed(shuffled)["span"].tolist()

    @rule(seconds=st.integers(0, 3))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds * S
        self.pairing.expire(self.now)
        self.model.expire(self.now)

    @invariant()
    def the_account_closes(self) -> None:
        account = self.pairing.accounts()[0]
        assert self.made == self.model.pairs
        assert {name: getattr(account, name) for name in self.model.lost} == self.model.lost
        in_flight = self.pairing.in_flight(0)
        assert account.enters == self.number == account.calls + in_flight + account.unwound + account.expired + account.full
        assert self.ends == account.returns + len(self.model.ended)
        assert account.returns == account.calls + account.orphaned
        assert account.calls == account.recorded == int(account.took.cells.sum())
        assert in_flight == len(self.model.begun)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
