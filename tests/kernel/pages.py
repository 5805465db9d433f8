"""What a session with telemetry.listen tells over HTTP, and the ledger in it."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping

from tests.kernel.ledger import COUNTS
from tests.kernel.session import Session, wait_until

Key = tuple[str, tuple[tuple[str, str], ...]]  # a metric's name and its sorted attributes, as OTLP or as Prometheus writes them


def address(session: Session) -> str:
    """Where it listens, as it says: maybe a moment after it has attached."""
    wait_until(lambda: bool(addresses(session)), "the address")
    return addresses(session)[-1]


def addresses(session: Session) -> list[str]:
    """Where its pipelines have listened, one after the other."""
    return re.findall(r"telemetry: (http://[^/]+)/metrics", "".join(list(session.err)))


def samples(session: Session) -> dict[Key, int]:
    """The whole numbers on the page, by metric and attributes."""
    with urllib.request.urlopen(f"{address(session)}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    told = {}
    for line in lines:
        if not line.startswith("#") and (value := line.rsplit(" ", 1)[1]).isdigit():
            name, _, labels = line.rsplit(" ", 1)[0].partition("{")
            told[name, tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels)))] = int(value)
    return told


def ledger_of(values: Mapping[Key, int]) -> dict[str, dict[str, int]]:
    """The ledger, by span probe, of samples of the page or of points that came by OTLP."""
    found: dict[str, dict[str, int]] = {}
    for (metric, attributes), value in values.items():
        of = {key.replace(".", "_"): one for key, one in attributes}
        name = of.pop("otel_usdt_span_name", None)
        match metric.replace(".", "_").removesuffix("_total"):
            case "otel_usdt_hits":
                what = {"entry": "entries", "return": "returns", "filtered": "filtered"}[of["otel_usdt_hit"]]
            case "otel_usdt_calls":
                what = of["otel_usdt_outcome"]
            case "otel_usdt_calls_waiting":
                what = of["otel_usdt_where"]
            case "otel_usdt_calls_paired":
                what = "calls"
            case "otel_usdt_calls_recorded":
                what = "recorded"
            case _:
                continue
        if name is not None and what in COUNTS:
            found.setdefault(name, {})[what] = value
    return found
