"""The ledger's equations, written down a second time: independent of the project's own check."""

from __future__ import annotations

from collections.abc import Mapping

COUNTS = frozenset(
    {
        "entries", "returns", "calls", "in_flight", "orphaned", "unwound", "expired", "map_full", "too_deep", "filtered",
        "recorded", "sampled_out", "rate_limited", "too_short", "ring_full", "queued", "exported", "spooled", "dropped",
    }
)  # fmt: skip


def check_closed(ledger: Mapping[str, Mapping[str, int]], *, mode: str = "spans") -> None:
    """Every call of every probe is in exactly one count. In the modes that make no records, each call is sampled out."""
    for probe, c in ledger.items():
        assert c.keys() >= COUNTS, f"{probe}: not in the ledger: {sorted(COUNTS - c.keys())}"
        assert all(c[name] >= 0 for name in COUNTS), f"{probe}: a negative count in {c}"
        assert c["entries"] == c["calls"] + c["in_flight"] + c["unwound"] + c["expired"] + c["map_full"] + c["too_deep"], (
            f"{probe}: {nonzero(c)}"
        )
        assert c["returns"] == c["calls"] + c["orphaned"], f"{probe}: {nonzero(c)}"
        assert c["calls"] == c["recorded"] + c["sampled_out"] + c["rate_limited"] + c["too_short"] + c["ring_full"], (
            f"{probe}: {nonzero(c)}"
        )
        assert mode == "spans" or c["sampled_out"] == c["calls"], f"{probe}: {nonzero(c)}"
        assert c["recorded"] == c["queued"] + c["exported"] + c["spooled"] + c["dropped"], f"{probe}: {nonzero(c)}"


def nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    """What was counted at all."""
    return {name: count for name, count in counts.items() if name in COUNTS and count}


def all_exported(calls: int) -> dict[str, int]:
    """The ledger of a probe that lost nothing."""
    return {"entries": calls, "returns": calls, "calls": calls, "recorded": calls, "exported": calls} if calls else {}
