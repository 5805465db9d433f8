"""The ledger: what became of every call, losses foremost. Standard library only, rich when drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from otel_usdt.cli.views.text import number, plural, printable, table

if TYPE_CHECKING:
    from rich.console import Console

Ledger = dict[str, dict[str, int]]

_ALWAYS = ("entries", "calls", "recorded", "exported")
_STATES = ("in_flight", "queued", "spooled")  # not lost: on the way
_CHOSEN = ("sampled_out", "too_short", "filtered")  # left out because the configuration says so
_UNPAIRED = ("orphaned", "unwound")  # one end only: no call, and nothing that more room would mend
_LOST = ("rate_limited", "expired", "map_full", "too_deep", "ring_full", "dropped", "text_lost")
_NOT_SHOWN = ("returns", "sum_ns", "max_ns", "min_ns_inverted", *_ALWAYS)

MEANING = {
    "in_flight": "entered, not yet returned",
    "queued": "waiting for the collector",
    "spooled": "on disk, waiting for the collector",
    "sampled_out": "counted, not recorded: sampling, or a mode or probe that makes no spans",
    "rate_limited": "counted, not recorded: records_per_second was reached",
    "too_short": "counted, not recorded: below min_duration",
    "filtered": "hits of processes outside the scope",
    "orphaned": "returns whose entry was not seen (running when the probe was attached)",
    "unwound": "left by longjmp, an exception, thread exit or a missing end",
    "expired": "no return in time",
    "map_full": "entries for which the kernel's table of threads had no room",
    "too_deep": "entries nested deeper than is followed",
    "ring_full": "counted, not recorded: the ring buffer was full",
    "dropped": "spans lost on the way out: the queue was full, or the receiver refused them",
    "text_lost": "spans sent without their text, which could not be read or kept",
}


def faults(ledger: Ledger) -> list[str]:
    """What does not balance, a sentence each; none means that every call is accounted for."""
    from otel_usdt.metrics.ledger import check

    return [f"{printable(probe)}: {fault}" for probe, counts in ledger.items() for fault in check(counts)]


def columns(ledger: Ledger) -> list[str]:
    """The counters worth a column: the way of a call always, all others where any probe has them."""
    known = [*_STATES, *_CHOSEN, *_UNPAIRED, *_LOST]
    other = {name for counts in ledger.values() for name in counts} - set(known) - set(_NOT_SHOWN)
    return [*_ALWAYS, *(name for name in [*known, *sorted(other)] if any(counts.get(name) for counts in ledger.values()))]


def totals(ledger: Ledger, names: tuple[str, ...]) -> dict[str, int]:
    """Sums over all probes of those counters in `names` that are not 0."""
    sums = {name: sum(counts.get(name, 0) for counts in ledger.values()) for name in names}
    return {name: value for name, value in sums.items() if value}


def _rows(ledger: Ledger, names: list[str]) -> list[tuple[str, ...]]:
    used = {probe: counts for probe, counts in ledger.items() if any(counts.values())}
    return [(printable(probe), *(number(counts.get(name, 0)) for name in names)) for probe, counts in used.items()]


def _unused(ledger: Ledger) -> str:
    """A line on the probes that never fired; "" when all did."""
    silent = [printable(probe) for probe, counts in ledger.items() if not any(counts.values())]
    return f"never hit: {', '.join(silent)}" if silent else ""


def _closed(ledger: Ledger) -> str:
    entries = sum(counts.get("entries", 0) for counts in ledger.values())
    return f"closed: every call is accounted for ({plural(entries, 'entry', 'entries')})"


def plain(write: Callable[[str], None], ledger: Ledger) -> None:
    """A table, what each loss means, and whether the account is closed."""
    names = columns(ledger)
    for line in table([("ledger", *names), *_rows(ledger, names)], "<" + ">" * len(names)):
        write(line)
    if _unused(ledger):
        write(_unused(ledger))
    for name, value in totals(ledger, (*_CHOSEN, *_UNPAIRED, *_LOST)).items():
        write(f"{'LOST: ' if name in _LOST else ''}{name} {number(value)}: {MEANING[name]}")
    wrong = faults(ledger)
    for fault in wrong:
        write(f"DOES NOT BALANCE: {fault}")
    if not wrong:
        write(_closed(ledger))


def render(console: Console, ledger: Ledger) -> None:
    """The same, with losses in colour."""
    from rich.table import Table
    from rich.text import Text

    names = columns(ledger)
    drawn = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2 if console.width >= 96 else 1, 0, 0))
    drawn.add_column("ledger", no_wrap=True, overflow="ellipsis")
    for name in names:
        drawn.add_column(name, justify="right", no_wrap=len(names) < 8, header_style="bold red" if name in _LOST else "bold")
    for row in _rows(ledger, names):
        cells = [Text(v, style=_style(n, v)) for n, v in zip(names, row[1:], strict=True)]
        drawn.add_row(Text(row[0]), *cells)
    console.print(drawn)
    if _unused(ledger):
        console.print(Text(_unused(ledger), style="dim"))
    for name, value in totals(ledger, (*_CHOSEN, *_UNPAIRED, *_LOST)).items():
        console.print(Text(f"{name} {number(value)}", style=_style(name, "")).append(f"  {MEANING[name]}", style="dim"))
    wrong = faults(ledger)
    for fault in wrong:
        console.print(Text(f"does not balance: {fault}", style="bold red"))
    if not wrong:
        console.print(Text(_closed(ledger), style="bold green"))


def _style(name: str, value: str) -> str:
    if value == "0":
        return "dim"
    return "bold red" if name in _LOST else "yellow" if name in _UNPAIRED else "none"
