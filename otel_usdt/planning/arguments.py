"""What a span probe reads, and where: attributes of the configuration -> locations and record slots for each site."""

from __future__ import annotations

from dataclasses import dataclass, replace

from otel_usdt.config import AttributeConfig, KeyConfig, SpanConfig, TraceparentConfig
from otel_usdt.elf.locations import Location
from otel_usdt.errors import ProbeNotFound
from otel_usdt.layout import Bounds
from otel_usdt.plan import ARGUMENT_SLOTS, Argument, Attribute, ErrorWhen, Role, Traceparent
from otel_usdt.planning.find import End
from otel_usdt.probes.rows import RETURN_VALUE

# System V AMD64 ABI 3.2.3; AAPCS64 6.8.2: where integer arguments are when a function is entered.
_PASSED = {"x86_64": ("di", "si", "dx", "cx", "r8", "r9"), "aarch64": tuple(f"x{i}" for i in range(8))}
_FIRST_ON_STACK = {"x86_64": 8, "aarch64": 0}  # bytes above the stack pointer: behind the return address


Reads = tuple[tuple[AttributeConfig, int, bool], ...]  # (what, record slot, whether a string's hash is wanted) of one end


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a span probe wants of each end, and how its spans show it. Made once for a span probe, used for each of its sites."""

    attributes: tuple[Attribute, ...]
    error: ErrorWhen | None
    entry: Reads
    exit: Reads
    traceparent: TraceparentConfig | None
    bounds_ns: Bounds
    dimensions: tuple[Attribute, ...]
    max_series: int


@dataclass(frozen=True, slots=True)
class Usual:
    """What holds for span probes that have nothing of their own. `bounds_ns` None: histograms are exponential."""

    text: bool  # whether it is captured
    bounds_ns: Bounds
    max_series: int


def wanted(span: SpanConfig, usual: Usual) -> Wanted:
    """Slots for the span's attributes; those with captured text only if that is wanted. The configuration has been checked to fit."""
    integers = strings = 0
    attributes: list[Attribute] = []
    entry: list[tuple[AttributeConfig, int, bool]] = []
    leave: list[tuple[AttributeConfig, int, bool]] = []
    for key, one in span.attributes.items():
        is_string = one.as_ == "string"
        if is_string and not usual.text:
            continue
        slot = strings if is_string else integers
        strings, integers = strings + is_string, integers + (not is_string)
        attributes.append(Attribute(key, slot, is_string))
        (leave if one.return_ or one.at == "return" else entry).append((one, slot, False))
    dimensions = []
    for key in span.histogram.dimensions:
        one = span.attributes[key]
        if one.as_ == "string" and usual.text:
            dimensions.append(Attribute(key, integers, string=True))
            (leave if one.return_ or one.at == "return" else entry).append((one, integers, True))
            integers += 1
        dimensions += [attribute for attribute in attributes if attribute.key == key and not attribute.string]
    error = None
    if span.error is not None:
        error = ErrorWhen(integers, span.error.when.operator, span.error.when.value, span.error.type or "")
        assert integers < ARGUMENT_SLOTS, "checked with the configuration"
        # Its own slot, for it is read as the type that the comparison wants.
        leave.append((AttributeConfig.model_validate({"return": True, "as": span.error.as_}), integers, False))
    bounds_ns = span.histogram.buckets_ns or usual.bounds_ns if usual.bounds_ns is not None else None
    return Wanted(
        tuple(attributes),
        error,
        tuple(entry),
        tuple(leave),
        span.traceparent,
        bounds_ns,
        tuple(dimensions),
        span.histogram.max_series or usual.max_series,
    )


def arguments(end: End, what: Reads, notes: list[str]) -> tuple[Argument, ...]:
    """How this site reads them; ProbeNotFound when it has no such argument. One that cannot be read there is told in `notes`."""
    found = []
    for one, slot, word in what:
        location = _location(end, one)
        if isinstance(location, str):
            notes.append(f"{end.key}: argument {one.arg} is left out at {_place(end):#x}: {location}")
            continue
        found.append(Argument(_typed(location, one), slot, one.as_ == "string", one.max, word))
    return tuple(found)


def traceparent(end: End, wanted: TraceparentConfig | None, notes: list[str]) -> Traceparent | None:
    """Where this site finds a traceparent, which may be nowhere: told in `notes` when one was wanted."""
    if wanted is None:
        return None
    for one in arguments(end, ((AttributeConfig.model_validate({"arg": wanted.arg, "as": "string"}), 0, False),), notes):
        return Traceparent(one.location, wanted.in_ == "sqlcommenter")
    return None


def key_location(end: End, wanted: KeyConfig, role: Role) -> Location:
    """Where this site finds its key; it can do nothing without, so ProbeNotFound when that cannot be read."""
    arg = wanted.return_arg or wanted.arg if role == "return" else wanted.arg
    notes: list[str] = []
    for one in arguments(end, ((AttributeConfig.model_validate({"arg": arg, "as": wanted.as_}), 0, False),), notes):
        return one.location
    raise ProbeNotFound(f"{notes[0]}, and it is the key", hint="take another argument, or probe the function by its symbol")


def _place(end: End) -> int:
    return end.note.address if end.note else end.symbol.address if end.symbol else end.spec.address


def _location(end: End, one: AttributeConfig) -> Location | str:
    machine = end.binary.machine
    if one.return_:
        return RETURN_VALUE[machine]
    assert one.arg is not None, "checked with the configuration"
    if end.note is not None:
        if one.arg > len(end.note.arguments):
            raise ProbeNotFound(f"{end.key} has {len(end.note.arguments)} arguments; {one.arg} is wanted")
        return end.note.arguments[one.arg - 1]
    registers = _PASSED[machine]
    if one.arg <= len(registers):
        return Location("register", 8, True, registers[one.arg - 1])
    return Location("memory", 8, True, "sp", offset=_FIRST_ON_STACK[machine] + 8 * (one.arg - 1 - len(registers)))


def _typed(location: Location, one: AttributeConfig) -> Location:
    """As the configuration types it: intN and uintN say size and sign, int is what the probe says, a string's is a pointer."""
    if one.as_ == "string":
        return location if location.how == "constant" else replace(location, size=8, signed=False)
    if one.as_ == "int":
        return location
    return replace(location, size=int(one.as_.lstrip("uint")) // 8, signed=not one.as_.startswith("u"))
