"""The account of one span probe: it closes when every event is in one place, and says which equation does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_usdt.metrics.ledger import BESIDE, LOSSES, NAMES, Delivered, check, ledgers
from otel_usdt.plan import Span
from otel_usdt.stream.records import COUNTER_NAMES

SPAN = Span("query", 0, "spans", "pair", "a ~~ b")
NOTHING = Delivered({}, {}, {}, {})
EQUATIONS = {
    "entries": ("calls", "in_flight", "unwound", "expired", "map_full", "too_deep"),
    "returns": ("calls", "orphaned"),
    "calls": ("recorded", "sampled_out", "rate_limited", "too_short", "ring_full"),
    "recorded": ("queued", "exported", "spooled", "dropped"),
}
TERMS = [name for name in NAMES if name not in (*EQUATIONS, *BESIDE)]


def kernel(*of_spans: Mapping[str, int]) -> dict[str, np.ndarray[Any, Any]]:
    """The kernel's counters, an array over span probes each; what is not given is 0."""
    return {name: np.array([told.get(name, 0) for told in of_spans], "i8") for name in COUNTER_NAMES}


def closed(terms: Mapping[str, int]) -> dict[str, int]:
    """A ledger whose left sides are the sums of their right sides."""
    ledger = dict.fromkeys(NAMES, 0) | dict(terms)
    for left in ("recorded", "calls", "returns", "entries"):
        ledger[left] = sum(ledger[name] for name in EQUATIONS[left])
    return ledger


term = st.dictionaries(st.sampled_from(TERMS), st.integers(0, 1 << 62))


@given(term)
def test_a_ledger_whose_every_event_is_somewhere_closes(terms: dict[str, int]) -> None:
    """Whatever the terms are, their sums balance."""
    assert check(closed(terms)) == []


@given(term, st.sampled_from(sorted({*TERMS, *EQUATIONS})), st.integers(1, 1 << 40))
def test_one_event_too_many_in_any_place_is_seen(terms: dict[str, int], name: str, more: int) -> None:
    """There is no term that could be wrong unseen."""
    ledger = closed(terms)
    ledger[name] += more
    assert check(ledger) != []


@pytest.mark.parametrize(("left", "right"), EQUATIONS.items())
def test_each_imbalance_is_said_by_its_equation(left: str, right: tuple[str, ...]) -> None:
    """The sentence has the numbers and the terms, and other equations are not blamed for it."""
    ledger = closed({"exported": 5, "orphaned": 2, "in_flight": 1})
    total = ledger[left]
    ledger[right[-1]] += 3  # a term of this equation alone
    assert check(ledger) == [f"{total} {left}, but {' + '.join(right)} is {total + 3}"]


def test_a_negative_count_is_said_even_where_the_sums_balance() -> None:
    """What was never recorded cannot have been received: a balance by a negative term is none."""
    assert check(closed({"queued": -2, "exported": 2})) == ["queued is -2"]
    assert check(closed({}) | {"filtered": -1}) == ["filtered is -1"]


def test_what_stands_beside_the_equations_balances_nothing() -> None:
    """Hits outside the scope, lost texts and joined calls are told, and that is all."""
    assert check(closed({"exported": 1}) | dict.fromkeys(BESIDE, 99)) == []


def test_a_span_probe_has_the_kernels_counts_and_what_became_of_its_records() -> None:
    """Each span probe gets its own column, and records are in the ring, waiting, exported or dropped."""
    told = kernel(
        {"entries": 1, "calls": 1, "recorded": 1},
        {"entries": 30, "returns": 24, "calls": 23, "in_flight": 4, "orphaned": 1, "unwound": 2, "map_full": 1, "filtered": 50}
        | {
            "recorded": 15,
            "sampled_out": 1,
            "rate_limited": 2,
            "too_short": 3,
            "ring_full": 2,
            "text_lost": 6,
            "joined_obi": 5,
            "sum_ns": 777,
        },
    )
    delivered = Delivered(received={1: 11}, exported={1: 6}, dropped={1: 2}, queued={1: 3})
    ledger = ledgers([SPAN, replace(SPAN, name="parse")], told, delivered)["parse"]
    assert list(ledger) == list(NAMES)
    assert ledger == {
        "entries": 30, "returns": 24, "calls": 23, "in_flight": 4, "orphaned": 1, "unwound": 2, "expired": 0, "map_full": 1, "too_deep": 0,
        "filtered": 50, "recorded": 15, "sampled_out": 1, "rate_limited": 2, "too_short": 3, "ring_full": 2,
        "queued": 4 + 3, "exported": 6, "spooled": 0, "dropped": 2, "text_lost": 6,
        "joined_argument": 0, "joined_obi": 5, "bad_traceparent": 0,
    }  # fmt: skip
    assert check(ledger) == []
    assert all(type(value) is int for value in ledger.values())


def test_more_received_than_recorded_is_an_imbalance() -> None:
    """Records that our program did not write show as a negative queue."""
    ledger = ledgers([SPAN], kernel({"entries": 1, "returns": 1, "calls": 1, "recorded": 1}), Delivered({0: 3}, {0: 3}, {}, {}))["query"]
    assert check(ledger) == ["queued is -2"]


@pytest.mark.parametrize("mode", ["count", "histogram", "spans"])
def test_a_point_is_a_call_that_enters_and_returns_in_one_hit(mode: Any) -> None:
    """Its hits are entries; by definition they are calls, returns and sampled out as well, and the ledger closes."""
    ledger = ledgers([replace(SPAN, kind="point", mode=mode)], kernel({"entries": 7, "filtered": 2}), NOTHING)["query"]
    assert (ledger["entries"], ledger["returns"], ledger["calls"], ledger["sampled_out"]) == (7, 7, 7, 7)
    assert check(ledger) == []


@pytest.mark.parametrize("mode", ["count", "histogram"])
def test_a_mode_without_records_samples_every_call_out(mode: Any) -> None:
    """The calls are where the equations want them."""
    told = kernel({"entries": 9, "returns": 8, "calls": 7, "in_flight": 2, "orphaned": 1})
    ledger = ledgers([replace(SPAN, mode=mode)], told, NOTHING)["query"]
    assert (ledger["sampled_out"], ledger["recorded"]) == (7, 0)
    assert check(ledger) == []


def test_spans_that_the_kernel_sampled_out_stay_as_counted() -> None:
    """Only modes without records have the definition: a span probe's own loss is not papered over."""
    ledger = ledgers([SPAN], kernel({"entries": 5, "returns": 5, "calls": 5, "sampled_out": 2}), NOTHING)["query"]
    assert check(ledger) == ["5 calls, but recorded + sampled_out + rate_limited + too_short + ring_full is 2"]


def test_losses_are_terms_and_none_of_the_good_ones() -> None:
    """What an operator must hear of exists, and is a loss."""
    assert set(LOSSES) <= set(NAMES)
    assert not {"entries", "returns", "calls", "in_flight", "recorded", "queued", "exported", "sampled_out", "too_short"} & set(LOSSES)
    assert set(COUNTER_NAMES) - set(NAMES) == {"sum_ns", "max_ns", "min_ns_inverted"}
