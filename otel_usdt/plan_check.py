"""Where the supervisor checks a plan that a less trusted process made: each type, index and range. Standard library only."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import socket
import types
import typing
from itertools import pairwise
from typing import Any, Literal

from otel_usdt.elf.locations import Location
from otel_usdt.errors import UsageError
from otel_usdt.ladder import MAX_BOUNDS, crowded
from otel_usdt.layout import has_histogram, layout_of
from otel_usdt.plan import (
    ARGUMENT_SLOTS,
    LONGEST_S,
    MACHINES,
    MAX_LADDERS,
    MAX_PENDING,
    MAX_ROWS,
    MAX_SERIES,
    MAX_SITES,
    MAX_SPANS,
    MAX_TARGETS,
    TEXT_BYTES,
    TEXT_SLOTS,
    Argument,
    Export,
    Plan,
    Span,
)  # fmt: skip
from otel_usdt.probes.rows import REGISTERS


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)  # evaluates texts: slow, and a plan has thousands of these objects


def decode(kind: Any, value: Any, where: str) -> Any:
    """What JSON has as `value`, as the type `kind`; `where` names it in a UsageError."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: an object is wanted")
        hints = _hints(typing.cast(Any, kind))
        unknown = value.keys() - hints.keys()
        if unknown:
            raise UsageError(f"{where}: unknown {_shown(sorted(unknown)[0])}")
        try:
            return typing.cast(Any, kind)(**{k: decode(hints[k], v, f"{where}.{k}") for k, v in value.items()})
        except TypeError as error:
            raise UsageError(f"{where}: {error}") from error
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{where}: a list is wanted")
        return tuple(decode(inner[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{where}: an object is wanted")
        return {decode(inner[0], k, where): decode(inner[1], v, f"{where}.{str(k)[:80]}") for k, v in value.items()}
    if origin is Literal:
        if value not in inner:
            raise UsageError(f"{where}: {_shown(value)} is none of {', '.join(map(str, inner))}")
        return value
    if origin in (types.UnionType, typing.Union):
        for one in inner:
            try:
                return decode(one, value, where)
            except UsageError:
                continue
        raise UsageError(f"{where}: {_shown(value)} does not fit")
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise UsageError(f"{where}: out of range") from error
    if type(value) is not (type(None) if kind is None else kind):
        raise UsageError(f"{where}: {_shown(value)} is no {getattr(kind, '__name__', kind)}")
    return value


def _shown(value: Any) -> str:
    try:
        shown = repr(value)
    except ValueError:  # more digits than Python prints
        shown = "a huge number"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _want(true: bool, what: str) -> None:
    if not true:
        raise UsageError(f"plan: {what}")


def check(plan: Plan) -> None:
    """UsageError names the first index or number that does not fit; types are `decode`'s."""
    _want(len(plan.targets) <= MAX_TARGETS, f"more than {MAX_TARGETS} targets")
    _want(len(plan.spans) <= MAX_SPANS, f"more than {MAX_SPANS} span probes")
    _want(len(plan.sites) <= MAX_SITES, f"more than {MAX_SITES} probe sites")
    _want(len(plan.binaries) <= MAX_SITES, f"more than {MAX_SITES} binaries")
    for target in plan.targets:
        _want(0.0 <= target.sample <= 1.0, f"sample of {target.name} is not within 0 and 1")
        _want(all(0 < pid < 1 << 22 for pid in target.pids), f"a pid of {target.name} is out of range")
        for key, value in target.resource.items():  # the encoder relies on it
            fits = _is_text(value) if isinstance(value, str) else -(1 << 63) <= value < 1 << 63
            _want(_is_text(key) and fits, f"resource of {_shown(target.name)}: {_shown(key)} does not fit")
    for binary in plan.binaries:
        _want(binary.machine in MACHINES, f"machine {_shown(binary.machine)} is none of {', '.join(MACHINES)}")
        _want(_is_path(binary.path), f"{_shown(binary.path)} is no path")
    names: set[str] = set()
    for span in plan.spans:
        _want(span.name not in names, f"two span probes are named {_shown(span.name)}")
        names.add(span.name)
        _check_span(span, len(plan.targets))
    kinds = {span.bounds_ns is None for span in plan.spans if has_histogram(span)}
    _want(len(kinds) < 2, "histograms of two types")
    _want(layout_of(plan.spans).rows <= MAX_ROWS, f"more than {MAX_ROWS} series of histograms")
    _want(len(layout_of(plan.spans).ladders) <= MAX_LADDERS, f"more than {MAX_LADDERS} sets of histogram buckets")
    _want(2 <= plan.max_buckets <= 1 << 10, "max_buckets is out of range")
    for site in plan.sites:
        _want(0 <= site.span < len(plan.spans), f"{site.probe}: no such span probe")
        _want(0 <= site.binary < len(plan.binaries), f"{site.probe}: no such binary")
        _want(0 <= site.file_offset < 1 << 62 and 0 <= site.semaphore_offset < 1 << 32, f"{site.probe}: offset out of range")
        _want(not site.entry or 0 <= site.address - site.entry < 32, f"{site.probe}: too far from the function's entry")
        _want(0 <= site.before < 1 << 32, f"{site.probe}: no number of 32 bits")
        words = sum(argument.word for argument in site.arguments)
        fits = words <= TEXT_SLOTS and len(site.arguments) - words <= ARGUMENT_SLOTS + TEXT_SLOTS
        _want(fits, f"{site.probe}: too many arguments")
        machine = plan.binaries[site.binary].machine
        for argument in site.arguments:
            _check_argument(argument, machine, site.probe)
        if site.traceparent is not None:
            _check_location(site.traceparent.location, machine, site.probe)
        if site.key is not None:
            _check_location(site.key, machine, site.probe)
        _want((site.key is None) == (plan.spans[site.span].key is None), f"{site.probe}: a key at one place only")
    for size in (plan.limits.ring_bytes, plan.limits.text_ring_bytes):
        _want(
            4096 <= size <= 1 << 30 and size & (size - 1) == 0,
            f"a ring of {_shown(size)} bytes: a power of two from 4096 to 1 GiB is wanted",
        )
    _want(0 <= plan.limits.records_per_second < 1 << 31, "records_per_second is out of range")
    _want(0 <= plan.lease.ttl_s <= LONGEST_S, "ttl of the lease is out of range")
    _want(_is_path(plan.bpf_fs) and plan.bpf_fs.startswith("/"), f"bpf_fs_path {_shown(plan.bpf_fs)} is no absolute path")
    _want(_is_place(plan.telemetry.listen), f"telemetry on {_shown(plan.telemetry.listen)}: ADDRESS:PORT is wanted")
    _check_export(plan.export)


def _check_span(span: Span, targets: int) -> None:
    _want(0 <= span.target < targets, f"{span.name}: no such target")
    _want(0 <= span.min_duration_ns < 1 << 63, f"{span.name}: min_duration is out of range")
    texts = [
        span.name,
        span.function,
        *(attribute.key for attribute in (*span.attributes, *span.dimensions)),
        *([span.error.type] if span.error else ()),
    ]
    _want(all(map(_is_text, texts)), f"{_shown(span.name)}: a name that is no text")
    for attribute in span.attributes:
        _want(0 <= attribute.slot < (TEXT_SLOTS if attribute.string else ARGUMENT_SLOTS), f"{span.name}: slot out of range")
    if (bounds := span.bounds_ns) is not None:
        rising = all(low < high for low, high in pairwise((0, *bounds))) and bounds[-1:] < (1 << 62,)
        _want(0 < len(bounds) <= MAX_BOUNDS and rising and not crowded(bounds), f"{span.name}: bounds of its histogram are out of range")
    slots = [dimension.slot for dimension in span.dimensions]
    _want(all(0 <= slot < ARGUMENT_SLOTS for slot in slots) and len({*slots}) == len(slots), f"{span.name}: slot out of range")
    _want(sum(dimension.string for dimension in span.dimensions) <= TEXT_SLOTS, f"{span.name}: too many dimensions")
    _want(1 <= span.max_series <= MAX_SERIES, f"{span.name}: max_series is out of range")
    if span.key is not None:
        _want(0 < span.key.expire_ns < 1 << 62 and 0 < span.key.pending <= MAX_PENDING, f"{span.name}: bounds of its key are out of range")
        _want(not any(attribute.string for attribute in (*span.attributes, *span.dimensions)), f"{span.name}: a keyed call carries no text")
    _want(span.error is None or 0 <= span.error.slot < ARGUMENT_SLOTS, f"{span.name}: slot out of range")


def _check_argument(argument: Argument, machine: str, probe: str) -> None:
    _want(0 <= argument.slot < (TEXT_SLOTS if argument.string and not argument.word else ARGUMENT_SLOTS), f"{probe}: slot out of range")
    _want(2 <= argument.max <= TEXT_BYTES, f"{probe}: text of {_shown(argument.max)} bytes")
    _check_location(argument.location, machine, probe)


def _check_location(location: Location, machine: str, probe: str) -> None:
    registers = REGISTERS[machine]
    _want(location.size in (1, 2, 4, 8), f"{probe}: argument of {_shown(location.size)} bytes")
    _want(-(1 << 63) <= location.offset < 1 << 63, f"{probe}: offset out of range")
    for register, may_be_none in ((location.register, location.how == "constant"), (location.index, True)):
        _want(register in registers or (may_be_none and register == ""), f"{probe}: {machine} has no register {_shown(register)}")
    _want(location.scale in (1, 2, 4, 8), f"{probe}: scale out of range")
    _want(location.byte in (0, 1), f"{probe}: byte of a register out of range")


def _check_export(export: Export) -> None:
    _want(0 < export.interval_s <= LONGEST_S, "interval of metrics is out of range")
    if export.console is not None:
        _want(0 <= export.console.interval_s <= LONGEST_S, "interval of the console is out of range")
    if export.spool is not None:
        _want(_is_path(export.spool.path) and export.spool.path.startswith("/"), f"spool {_shown(export.spool.path)} is no absolute path")
        _want(
            1 << 20 <= export.spool.max_bytes < 1 << 44 and 0 < export.spool.max_age_s <= LONGEST_S, "a bound of the spool is out of range"
        )
        _want(export.otlp is not None, "a spool without OTLP")
    if export.otlp is not None:
        times = (export.otlp.timeout_s, export.otlp.traces.timeout_s, export.otlp.metrics.timeout_s)
        _want(all(time is None or 0 < time <= LONGEST_S for time in times), "timeout of OTLP is out of range")
        _want(0 < export.otlp.queue_bytes < 1 << 40, "queue of OTLP is out of range")
        _want(0 < export.otlp.concurrency <= 64, "concurrency of OTLP is out of range")


def _is_text(value: str) -> bool:
    try:
        value.encode()  # half a surrogate pair cannot go into protobuf
    except UnicodeEncodeError:
        return False
    return True


def _is_path(value: str) -> bool:
    try:
        return bool(value) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _is_place(listen: str) -> bool:
    found = re.fullmatch(r"(\[[0-9a-f:.]{2,45}\]|[0-9.]{7,15}):([0-9]{1,5})", listen)
    if found is None:
        return listen == ""
    family = socket.AF_INET6 if listen.startswith("[") else socket.AF_INET
    try:
        socket.inet_pton(family, found[1].strip("[]"))
    except OSError:
        return False
    return int(found[2]) < 1 << 16
