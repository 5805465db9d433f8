"""A span probe of the configuration -> spans and sites of the plan, or refusals that say why and what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import Literal

from otel_usdt.config import SpanConfig, TraceparentConfig
from otel_usdt.elf.binary import Binary
from otel_usdt.elf.placement import Placement, address_site, entry_site, instruction_text, usdt_site
from otel_usdt.elf.returns import return_refused, return_sites, switches_stacks, uretprobe_refused
from otel_usdt.elf.symbols import Symbol
from otel_usdt.errors import UsageError
from otel_usdt.plan import Argument, Key, Refusal, Role, Site, Span
from otel_usdt.planning.arguments import Reads, Usual, Wanted, arguments, key_location, traceparent, wanted
from otel_usdt.planning.find import End, Files

Binding = Literal["activation", "body", "loose"]


@dataclass(slots=True)
class Draft:
    """The plan in the making."""

    binaries: dict[tuple[int, int], Binary] = field(default_factory=dict)  # by device and inode
    spans: list[Span] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    functions: dict[tuple[int, int], tuple[Binary, Symbol]] = field(default_factory=dict)  # as placing.Functions

    def binary(self, binary: Binary) -> int:
        """Its index in the plan."""
        key = binary.device, binary.inode
        self.binaries.setdefault(key, binary)
        return list(self.binaries).index(key)


def add_span(draft: Draft, files: Files, span: SpanConfig, target: int, usual: Usual, most: int) -> None:
    """Resolve one span probe, or several where a glob names several. Errors are those of `Files.find` and `arguments`."""
    if span.function is not None:
        for name, ends in _by_key(files.find(span.function, most)):
            _function(draft, files, span, target, name, ends, wanted(span, usual))
    elif span.probe is not None:
        for name, ends in _by_key(files.find(span.probe, most)):
            sites: list[Site] = []
            for end in ends:
                try:
                    sites += _sites(draft, [end], "point", "loose", (), draft.notes)
                except _Refused as why:
                    draft.refused.append(Refusal(name, str(why), why.remedy))
            _add(draft, Span(span.name or _short(ends[0]), target, "count", "point", name), sites)
    else:
        _pair(draft, files, span, target, wanted(span, usual), most)


def _by_key(ends: list[End]) -> Iterator[tuple[str, list[End]]]:
    for key, group in groupby(sorted(ends, key=attrgetter("key")), attrgetter("key")):
        yield key, list(group)


def _short(end: End) -> str:
    return f"{end.spec.provider}:{end.spec.name}" if end.note else end.spec.name or str(end.spec)


def _function(draft: Draft, files: Files, span: SpanConfig, target: int, probe: str, ends: list[End], want: Wanted) -> None:
    counted = span.mode == "count"
    sites: list[Site] = []
    for end in ends:
        try:
            role: Role = "point" if counted else "enter"
            entries = _sites(draft, [end], role, "activation", want.entry, draft.notes, want.traceparent)
            sites += entries if counted or not entries else [*entries, *_returns(draft, files, end, entries[0], want)]
        except _Refused as why:
            draft.refused.append(Refusal(probe, str(why), why.remedy))
    kind: Literal["point", "function"] = "point" if counted else "function"
    name, function = span.name or ends[0].spec.name, ends[0].spec.name
    made = Span(name, target, span.mode, kind, probe, function, span.min_duration_ns, want.attributes, want.error)
    _add(draft, made, sites, want)


def _returns(draft: Draft, files: Files, end: End, entry: Site, want: Wanted) -> list[Site]:
    """The kernel's return probe, or where that is not safe probes on the return instructions."""
    read = arguments(end, want.exit, draft.notes)
    if end.symbol is not None and (why := return_refused(end.symbol)):
        raise _Refused(why, "count its entries (mode: count), which is safe")
    unsafe = uretprobe_refused(end.binary) or next(filter(None, (switches_stacks(files.binary(one)) for one in files.programs)), "")
    if not unsafe:
        return [replace(entry, role="return", uretprobe=True, arguments=read, traceparent=None)]
    assert end.symbol is not None
    if end.binary.is_go:
        raise _Refused(unsafe, "count its entries (mode: count), which is safe; goroutines move between threads, so calls cannot be paired")
    found = return_sites(end.binary, end.symbol)
    if found.refused:
        raise _Refused(f"{unsafe}, and its return instructions cannot all be told: {found.refused}", "use a USDT pair, or mode: count")
    sites = []
    for address in found.addresses:
        place = address_site(end.binary, address)
        if place.refused:
            raise _Refused(f"return instruction at {address:#x}: {place.refused}", place.remedy)
        # A jump out is a return too, but the value will be made by the function that it jumps to.
        returns = "ret" in instruction_text(end.binary, address)  # with a prefix, too: "repz ret"
        sites.append(_site(draft, end, place, "return", "activation", read if returns else ()))
    return sites


def _pair(draft: Draft, files: Files, span: SpanConfig, target: int, want: Wanted, most: int) -> None:
    starts = [end for spec in span.enter for end in files.find(spec, most)]
    stops = [end for spec in span.return_ for end in files.find(spec, most)]
    probe = f"{' | '.join(map(str, span.enter))} ~~ {' | '.join(map(str, span.return_))}"
    if span.name is None and any(spec.is_glob for spec in (*span.enter, *span.return_)):
        raise UsageError(f"{probe}: a pair of globs needs a name", hint="give the span probe a name, or name both ends in full")
    function = _one_body(starts, stops)
    binding: Binding = "body" if function else "loose"
    try:
        entries = _sites(draft, starts, "enter", binding, want.entry, draft.notes, want.traceparent)
        exits = _sites(draft, stops, "return", binding, want.exit, draft.notes)
    except _Refused as why:
        draft.refused.append(Refusal(probe, str(why), why.remedy))
        return
    made = Span(span.name or probe, target, span.mode, "pair", probe, function, span.min_duration_ns, want.attributes)
    if span.key is None:
        _add(draft, made, [*entries, *exits], want)
        return
    ends = [*zip(starts, entries, strict=True), *zip(stops, exits, strict=True)]
    keyed = [replace(site, key=key_location(end, span.key, site.role), binding="loose") for end, site in ends]
    one = span.key
    _add(draft, replace(made, key=Key(one.as_ == "string", one.within, one.duplicates, one.expire_ns, one.pending)), keyed, want)


def _one_body(starts: list[End], stops: list[End]) -> str:
    """The function in whose body a call both begins and ends, for every place where it may begin; "" when that cannot be told.

    Several functions may qualify (inlined code is in each of its callers); the first gives the name.
    """
    if any(end.symbol is not None for end in (*starts, *stops)):
        return ""  # a function's entry is not in the body: the stack pointer differs
    ends_in = {(end.binary.inode, body.address) for end in stops if (body := _body(end)) is not None}
    begins_in = [(end.binary.inode, body.address, body.name) if (body := _body(end)) is not None else None for end in starts]
    if all(body is not None and body[:2] in ends_in for body in begins_in) and begins_in and begins_in[0] is not None:
        return begins_in[0][2]
    return ""


def _body(end: End) -> Symbol | None:
    return end.binary.function_at(end.note.address if end.note else end.spec.address)


class _Refused(Exception):
    """Attaching there could harm the target."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def _sites(
    draft: Draft,
    ends: list[End],
    role: Role,
    binding: Binding,
    what: Reads,
    notes: list[str],
    outside: TraceparentConfig | None = None,
) -> list[Site]:
    sites = []
    for end in ends:
        if end.note is not None:
            place = usdt_site(end.binary, end.note)
        elif end.symbol is not None:
            place = entry_site(end.binary, end.symbol)
        else:
            place = address_site(end.binary, end.spec.address)
        if place.refused:
            raise _Refused(place.refused, place.remedy)
        made = _site(draft, end, place, role, binding, arguments(end, what, notes))
        if end.symbol is not None:
            made = replace(made, entry=end.symbol.address)
            draft.functions[made.binary, made.entry] = end.binary, end.symbol
        sites.append(replace(made, traceparent=traceparent(end, outside, notes)))
    return sites


def _site(draft: Draft, end: End, place: Placement, role: Role, binding: Binding, read: tuple[Argument, ...]) -> Site:
    semaphore = end.binary.file_offset(end.note.semaphore) if end.note and end.note.semaphore else 0
    return Site(
        span=-1,  # known when the span is added
        binary=draft.binary(end.binary),
        role=role,
        probe=end.key,
        address=place.address,
        file_offset=end.binary.file_offset(place.address),
        semaphore_offset=semaphore,
        binding=binding,
        arguments=read,
        cost=place.cost,
    )


def _add(draft: Draft, span: Span, sites: list[Site], want: Wanted | None = None) -> None:
    if want is not None:
        span = replace(span, bounds_ns=want.bounds_ns, dimensions=want.dimensions, max_series=want.max_series)
    if not sites:
        return
    for other in draft.spans:
        if other.name == span.name:
            raise UsageError(
                f"two span probes are named {span.name!r}: {other.probe} and {span.probe}", hint="give one of them another name"
            )
    draft.sites += [replace(site, span=len(draft.spans)) for site in sites]
    draft.spans.append(span)
