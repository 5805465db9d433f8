"""A plan as people check it before they attach: what goes where, what each hit costs, who else pays, and what is refused.

Standard library only, rich when drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from otel_usdt.cli.views.text import duration, left, plural, printable
from otel_usdt.ladder import BOUNDS_NS

if TYPE_CHECKING:
    from rich.console import Console

Plan = dict[str, Any]

# Ratios, measured: an emulated instruction's trap is the unit; a single-stepped one takes a second trap and a detour:
# 3 times on bare metal, up to 35 under some hypervisors.
_COSTS = {"emulated": ("cheap", "none"), "nop5": ("cheapest", "none"), "single-step": ("dear, 3-35 x", "yellow")}

# A line is pieces of text, each with a rich style ("" for none); the plain variant joins the texts.
Piece = tuple[str, str]
Line = list[Piece]


def plain(write: Callable[[str], None], plan: Plan) -> None:
    """The plan as lines of text."""
    for line in lines(plan):
        write("".join(text for text, _ in line).rstrip())


def render(console: Console, plan: Plan) -> None:
    """The plan in colour: dear sites, outsiders and refusals stand out."""
    from rich.text import Text

    for line in lines(plan):
        console.print(Text.assemble(*line), soft_wrap=True)


def lines(plan: Plan) -> Iterator[Line]:
    """`plan` (docs/json.md) as styled lines: a headline, targets, span probes with their sites, refusals, notes, limits."""
    sites, spans, refused = plan["sites"], plan["spans"], plan["refused"]
    head: Line = [(f"{plural(len(spans), 'span probe')} at {plural(len(sites), 'site')}", "bold")]
    if refused:
        head.append((f", {len(refused)} refused", "bold red"))
    yield head
    dear = sum(site["cost"] == "single-step" and not site["uretprobe"] for site in sites)
    if dear:
        yield [
            (f"{plural(dear, 'site')} on an instruction that must be single-stepped: 3-35 x the cost of the others, on every hit", "yellow")
        ]
    if moved := sum(map(_moved, sites)):
        saving = "moved to a later instruction of its function, at 1/3 to 1/35 of the first one's cost on every hit"
        yield [(f"{plural(moved, 'site')} {saving}", "green")]
    if raised := sum(bool(site["semaphore_offset"]) for site in sites):
        yield [(f"{plural(raised, 'site')} with a USDT semaphore, raised while attached and dropped even if we are killed", "dim")]
    for index, target in enumerate(plan.get("targets", ())):
        yield from _target(target)
        for at, span in enumerate(spans):
            if span["target"] in (index, target["name"]):
                yield from _span(plan, at, span)
    if refused:
        yield [("refused", "bold red")]
        for one in refused:
            yield [("  " + printable(one["probe"]), "bold"), (f": {printable(one['reason'])}", "")]
            yield [("    remedy: ", "green"), (printable(one["remedy"]), "")]
    for note in plan.get("notes", ()):
        yield [("note: ", "cyan"), (printable(note), "")]
    yield from _bounds(plan)


def _target(target: dict[str, Any]) -> Iterator[Line]:
    pids = target["pids"]
    roots = f"pid {', '.join(map(str, pids[:8]))}" + (f" and {len(pids) - 8} more" if len(pids) > 8 else "")
    scopes = {"pid": roots, "tree": f"{roots} and all children, now and later", "binary": "every process of the binary"}
    headline: Line = [("target " + printable(target["name"]), "bold"), ("  " + scopes.get(target["scope"], target["scope"]), "")]
    if target["resource"].get("service.name"):
        headline.append((f"  as service {printable(str(target['resource']['service.name']))}", "dim"))
    yield headline
    outside = plural(target["outsiders"], "process", "processes")
    paying: Line = [(f"  {plural(target['in_scope'], 'process', 'processes')} in scope will be trapped", "")]
    if target["outsiders"]:
        paying.append((f"; {outside} outside the scope map the same file and pay for every hit too", "bold yellow"))
    else:
        paying.append(("; none outside it", "green"))
    yield paying
    if target.get("sample", 1.0) < 1:
        yield [(f"  {target['sample']:.4g} of its traces are recorded; counts and histograms see every call", "")]


def _span(plan: Plan, at: int, span: dict[str, Any]) -> Iterator[Line]:
    bits = [span["mode"]]
    if span["min_duration_ns"]:
        bits.append(f"from {duration(span['min_duration_ns'], ascii_only=True)} on")
    bits += [printable(a["key"]) for a in span["attributes"]]
    if span["error"]:
        bits.append(f"error when the result {span['error']['operator']} {span['error']['value']}")
    bits += _histogram(span)
    if span["kind"] == "point":
        bits[0] = "counted only: it has one end"
    yield [("  " + printable(span["name"]), "bold"), (f"  {'; '.join(bits)}", "dim")]
    mine = [site for site in plan["sites"] if site["span"] in (at, span["name"])]
    rows = [_site(plan, site) for site in mine]
    widths = [max(len(row[i][0]) for row in rows) for i in range(5)] if rows else []
    for row in rows:
        yield [("    ", ""), *((left(text, width) + "  ", style) for (text, style), width in zip(row, widths, strict=True))]


def _histogram(span: dict[str, Any]) -> list[str]:
    """What is uncommon about its histogram."""
    if span["mode"] == "count":
        return []
    bounds, bits = span.get("bounds_ns", BOUNDS_NS), []
    if bounds is None:
        bits.append("an exponential histogram")
    elif tuple(bounds) != BOUNDS_NS:
        ends = [duration(bound, ascii_only=True) for bound in (bounds[0], bounds[-1])]
        bits.append(f"{len(bounds) + 1} buckets, bounds from {ends[0]} to {ends[1]}")
    if apart := [printable(one["key"]) for one in span.get("dimensions", ())]:
        bits.append(f"counted apart by {', '.join(apart)}, at most {plural(span['max_series'], 'series', 'series')}")
    return bits


def _site(plan: Plan, site: dict[str, Any]) -> list[Piece]:
    binary = site["binary"]
    name = plan["binaries"][binary]["name"] if isinstance(binary, int) else binary
    kind = "return trap" if site["uretprobe"] else site["role"]
    cost, style = ("with the entry's", "dim") if site["uretprobe"] else _COSTS.get(site["cost"], (site["cost"], "none"))
    if _moved(site):
        cost, style = f"{cost}, {site['address'] - site['entry']} bytes into the function, whose first instruction is dear", "green"
    elif site["stays"] and not site["uretprobe"]:
        cost = f"{cost}: {printable(site['stays'])}"
    on = printable(site["instruction"])
    address = site["address"] if isinstance(site["address"], str) else f"{site['address']:#x}"
    return [
        (kind, ""),
        (printable(site["probe"]), ""),
        (f"{printable(name.rsplit('/', 1)[-1])}+{address}", "dim"),
        (f"on {on}" if on else "", "dim"),
        (cost, style),
    ]


def _moved(site: dict[str, Any]) -> bool:
    """Does its probe sit behind the function's first instruction, and save by it?"""
    return bool(site["entry"] and site["address"] > site["entry"] and site["cost"] == "emulated" and not site["uretprobe"])


def _bounds(plan: Plan) -> Iterator[Line]:
    lease, limits = plan.get("lease", {}), plan["limits"]
    bits = []
    if lease.get("owner") or lease.get("reason"):
        bits.append("for " + printable(", ".join(filter(None, (lease.get("owner"), lease.get("reason"))))))
    bits.append(f"ends after {duration(lease['ttl_s'] * 1e9)}" if lease.get("ttl_s") else "until stopped")
    rate = limits.get("records_per_second")
    bits.append(f"at most {plural(rate, 'record')} a second" if rate else "no ceiling on records")
    yield [("lease: ", "cyan"), ("; ".join(bits), "")]
    export = plan.get("export", {})
    ways = [f"OTLP to {export['otlp']['endpoint']}"] if export.get("otlp") else []
    ways += [f"OTLP/JSON lines to {export['file']}"] if export.get("file") else []
    ways += ["the console"] if export.get("console") else []
    if ways:
        yield [("export: ", "cyan"), (printable("; ".join(ways)), "")]
