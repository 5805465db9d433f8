"""The ledger: where every entry, return, call and record went, per span probe. It must close at every instant.

    entries  = calls + in_flight + unwound + expired + map_full + too_deep
    returns  = calls + orphaned
    calls    = recorded + sampled_out + rate_limited + too_short + ring_full
    recorded = queued + exported + spooled + dropped

Each term is counted where it happens, by a counter of its own; none is a difference of the others. Two things are by definition: a point
(one end only) is a call that enters and returns in one hit, and in the modes that make no records every call is sampled out.
`filtered` hits were outside the scope and are in no equation; nor are the texts that were lost, the calls that joined a trace from outside
(by an argument, by OBI's map), and the traceparents that were not valid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from otel_usdt.plan import Span
from otel_usdt.spans.pairing import Pairing

NAMES = (
    "entries", "returns", "calls", "in_flight", "orphaned", "unwound", "expired", "map_full", "too_deep", "filtered",
    "recorded", "sampled_out", "rate_limited", "too_short", "ring_full", "queued", "exported", "spooled", "dropped", "text_lost",
    "joined_argument", "joined_obi", "bad_traceparent",
)  # fmt: skip
BESIDE = ("filtered", "text_lost", "joined_argument", "joined_obi", "bad_traceparent")  # in no equation
LOSSES = ("map_full", "too_deep", "rate_limited", "ring_full", "dropped", "expired", "text_lost")  # what an operator must hear of

Ledger = dict[str, int]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of the records that user space has, per span index: read from the ring, and of those the ones that left."""

    received: Mapping[int, int]
    exported: Mapping[int, int]
    dropped: Mapping[int, int]
    queued: Mapping[int, int]
    spooled: Mapping[int, int] = field(default_factory=dict)


def ledgers(spans: Sequence[Span], kernel: Mapping[str, np.ndarray], delivered: Delivered) -> dict[str, Ledger]:
    """One ledger a span probe, by its name."""
    return {span.name: _ledger(i, span, kernel, delivered) for i, span in enumerate(spans)}


def with_paired(kernel: Mapping[str, np.ndarray], pairing: Pairing) -> dict[str, np.ndarray]:
    """The kernel's counters with those of keyed calls filled in: only user space knows what their ends came to.

    A beginning still in the ring is in flight. An end is a return once it is known what it ends.
    """
    whole = dict(kernel)
    for i, account in pairing.accounts().items():
        if "expired" not in whole:
            whole["expired"] = np.zeros_like(whole["entries"])
        lost = int(whole["map_full"][i]) + int(whole["too_deep"][i])
        orphaned = int(whole["orphaned"][i]) + account.orphaned  # the kernel's are ends that it could not tell of
        told = {
            "returns": account.calls + orphaned,
            "orphaned": orphaned,
            "in_flight": pairing.in_flight(i) + int(whole["entries"][i]) - lost - account.enters,
            "map_full": int(whole["map_full"][i]) + account.full,
        }
        for name in ("calls", "unwound", "expired", "recorded", "sampled_out", "rate_limited", "too_short"):
            told[name] = getattr(account, name)
        for name, count in told.items():
            whole[name][i] = count
    return whole


def _ledger(i: int, span: Span, kernel: Mapping[str, np.ndarray], delivered: Delivered) -> Ledger:
    ledger = dict.fromkeys(NAMES, 0) | {name: int(kernel[name][i]) for name in NAMES if name in kernel}
    if span.kind == "point":
        ledger["returns"] = ledger["calls"] = ledger["entries"]
    if span.mode != "spans" or span.kind == "point":
        ledger["sampled_out"] = ledger["calls"]
    # What is still in the ring is queued too; `check` sees to it that user space has never received more than was recorded.
    in_ring = ledger["recorded"] - delivered.received.get(i, 0)
    ledger["queued"] = in_ring + delivered.queued.get(i, 0)
    ledger["spooled"] = delivered.spooled.get(i, 0)
    ledger["exported"], ledger["dropped"] = delivered.exported.get(i, 0), delivered.dropped.get(i, 0)
    return ledger


def losses(spans: int, kernel: Mapping[str, np.ndarray], dropped: Mapping[int, int]) -> np.ndarray:
    """[span probe, LOSSES] counts. Looked at every second, so without a ledger of each of a thousand span probes."""
    table = np.zeros((spans, len(LOSSES)), np.uint64)
    for column, name in enumerate(LOSSES):
        table[:, column] = kernel.get(name, 0)
    table[list(dropped), LOSSES.index("dropped")] = list(dropped.values())
    return table


def check(ledger: Mapping[str, int]) -> list[str]:
    """What does not balance, a sentence each; empty when the ledger closes."""
    equations = {
        "entries": ("calls", "in_flight", "unwound", "expired", "map_full", "too_deep"),
        "returns": ("calls", "orphaned"),
        "calls": ("recorded", "sampled_out", "rate_limited", "too_short", "ring_full"),
        "recorded": ("queued", "exported", "spooled", "dropped"),
    }
    faults = [f"{name} is {value}" for name, value in ledger.items() if value < 0]
    for left, right in equations.items():
        total = sum(ledger[name] for name in right)
        if ledger[left] != total:
            faults.append(f"{ledger[left]} {left}, but {' + '.join(right)} is {total}")
    return faults
