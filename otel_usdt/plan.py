"""The plan: everything decided before the kernel is touched. Pure data, printable, and what the planner hands to the supervisor.

Standard library only, for the supervisor reads it. The planner (planner.py, resolve.py) makes it; `Plan.from_dict` is the
boundary at which the supervisor checks a plan that a less trusted process made; after that nothing re-checks.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import socket
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from otel_usdt.elf.locations import Location
from otel_usdt.errors import UsageError

Mode = Literal["count", "histogram", "spans"]
Scope = Literal["pid", "tree", "binary"]
Role = Literal["enter", "return", "point"]
Cost = Literal["emulated", "nop5", "single-step"]
Temporality = Literal["cumulative", "delta", "lowmemory"]
Join = Literal["argument", "enclosing", "obi", "new"]

ARGUMENT_SLOTS = 4  # integers that one record carries; bpf/record.h ARGS
TEXT_SLOTS = 2  # strings that one record carries; bpf/record.h TEXTS
TEXT_BYTES = 256  # of each, with its closing NUL; bpf/record.h TEXT
MAX_SITES = 4096
MAX_SPANS = 1024
MACHINES = ("x86_64", "aarch64")
JOINS: tuple[Join, ...] = ("argument", "enclosing", "obi", "new")  # in the order in which they apply
BPF_FS = "/sys/fs/bpf"  # where OBI pins its map unless it is told otherwise
MAX_PENDING = 1 << 20  # of 300 bytes each
LONGEST_S = 1e9  # 31 years: what clocks and select(2) surely take
MAX_TARGETS = 64  # a process's targets are the bits of one u64 in the kernel's scope map


@dataclass(frozen=True, slots=True)
class Binary:
    """A file that probes go into. `path` opens it from here (/proc/PID/root/..., /proc/PID/map_files/...), `name` is for people."""

    path: str
    name: str
    build_id: str  # hex, "" when the file has none
    device: int  # st_dev and st_ino pin the file between planning and attaching
    inode: int
    machine: str  # "x86_64" or "aarch64"


@dataclass(frozen=True, slots=True)
class Target:
    """Processes under one scope. `pids` are the roots found at planning; `resource` the target's own OTLP resource."""

    name: str
    scope: Scope
    pids: tuple[int, ...]
    resource: dict[str, str | int]
    in_scope: int = 0  # processes that map the binaries and are in scope, when planned
    outsiders: int = 0  # processes outside the scope that would pay for every hit as well
    sample: float = 1.0  # probability that a trace whose root is here is recorded
    join: tuple[Join, ...] = JOINS  # where its calls may find the trace that they belong to


@dataclass(frozen=True, slots=True)
class Argument:
    """A location and where its value goes: record slot `slot` (of 4), or for strings text slot `slot` (of 2)."""

    location: Location
    slot: int
    string: bool = False
    max: int = TEXT_BYTES  # bytes kept of a string, its NUL included


@dataclass(frozen=True, slots=True)
class Traceparent:
    """Where a W3C traceparent's text is: the header's value itself, or a statement with it `in_comment`."""

    location: Location
    in_comment: bool = False


@dataclass(frozen=True, slots=True)
class Attribute:
    """A span attribute: `key` gets the value of an integer slot or the text of a text slot."""

    key: str
    slot: int
    string: bool = False


@dataclass(frozen=True, slots=True)
class ErrorWhen:
    """The span's status is ERROR when `slot` (read as signed) compares so with `value`. `type` is error.type; "" means the value itself."""

    slot: int
    operator: Literal["<", "<=", "==", "!=", ">=", ">"]
    value: int
    type: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """What makes the two ends of a call one, where they may run on different threads: equal keys, read at each end."""

    string: bool = False
    within: Literal["process", "any"] = "process"
    duplicates: Literal["fifo", "last"] = "fifo"  # of ends that wait with one key: the oldest is next, or only the newest counts
    expire_ns: int = 60_000_000_000
    pending: int = 65536  # beginnings that may wait for their end


@dataclass(frozen=True, slots=True)
class Span:
    """A span probe, resolved. `point` means one end only: counted, never a span."""

    name: str
    target: int  # index into Plan.targets
    mode: Mode
    kind: Literal["function", "pair", "point"]
    probe: str  # as the user wrote it: "func:pg_parse_query", "usdt:a:b ~~ usdt:a:c"
    function: str = ""  # code.function.name
    min_duration_ns: int = 0
    attributes: tuple[Attribute, ...] = ()
    error: ErrorWhen | None = None
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """One address where one end of a span probe fires: one row of the kernel's `sites`."""

    span: int  # index into Plan.spans
    binary: int  # index into Plan.binaries
    role: Role
    probe: str  # this end: "usdt:postgresql:query__start", "func:XLogFlush"
    address: int  # virtual address in the file's own numbering
    file_offset: int
    uretprobe: bool = False  # the kernel's return probe, placed at the entry's address
    semaphore_offset: int = 0  # file offset of the USDT semaphore, 0 for none
    # activation: entry and return are of one function call, so the stack pointer pairs them exactly.
    # body: both ends of a USDT pair lie in one function's body, so the frame is dead once the stack has shrunk past it.
    # loose: the ends may be in different functions of the same thread; paired last in, first out.
    binding: Literal["activation", "body", "loose"] = "loose"
    arguments: tuple[Argument, ...] = ()
    traceparent: Traceparent | None = None
    key: Location | None = None
    instruction: str = ""  # what the trap sits on, for people
    cost: Cost = "single-step"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What will not be attached, why, and what to do instead."""

    probe: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Who attached, why, and for how long (0: until stopped)."""

    owner: str = ""
    reason: str = ""
    ttl_s: float = 0.0


@dataclass(frozen=True, slots=True)
class OtlpSignal:
    """What one signal has of its own; None: as the other."""

    endpoint: str | None = None  # used as it is, where the common one is a base
    protocol: Literal["grpc", "http/protobuf"] | None = None
    headers: dict[str, str] | None = None
    timeout_s: float | None = None
    compression: Literal["none", "gzip"] | None = None
    ca_file: str | None = None
    client_certificate_file: str | None = None
    client_key_file: str | None = None


@dataclass(frozen=True, slots=True)
class OtlpExport:
    """Where OTLP goes. Times in seconds, sizes in bytes."""

    endpoint: str
    protocol: Literal["grpc", "http/protobuf"] = "grpc"
    headers: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 10.0
    compression: Literal["none", "gzip"] = "none"
    ca_file: str = ""
    client_certificate_file: str = ""
    client_key_file: str = ""
    traces: OtlpSignal = OtlpSignal()
    metrics: OtlpSignal = OtlpSignal()
    queue_bytes: int = 64 << 20  # spans wait here while the collector is away; beyond it the oldest are dropped, and counted


@dataclass(frozen=True, slots=True)
class SpoolFolder:
    """Where spans wait on disk while the OTLP receiver is away."""

    path: str  # absolute
    max_bytes: int = 512 << 20
    max_age_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Console:
    """JSON lines on standard output (docs/json.md): `view` says of what; "all" is spans, at the end histograms, then the ledger."""

    view: Literal["spans", "counts", "histograms", "all"] = "spans"
    interval_s: float = 0.0  # 0: counts and histograms only at the end


@dataclass(frozen=True, slots=True)
class Export:
    """Every way out; all may be used at once."""

    otlp: OtlpExport | None = None
    file: str = ""  # OTLP/JSON lines
    console: Console | None = None
    interval_s: float = 60.0  # of metrics
    spool: SpoolFolder | None = None
    temporality: Temporality = "cumulative"  # of metrics


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the session."""

    records_per_second: int = 0  # 0: no ceiling
    ring_bytes: int = 4 << 20  # a power of two of pages
    text_ring_bytes: int = 2 << 20


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Where the pipeline tells of itself over HTTP: ADDRESS:PORT, IPv6 in brackets; "" for nowhere."""

    listen: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Config + targets + binaries -> this. Indices of the inner records point into these tuples."""

    targets: tuple[Target, ...]
    binaries: tuple[Binary, ...]
    spans: tuple[Span, ...]
    sites: tuple[Site, ...]
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    lease: Lease = Lease()
    export: Export = Export()
    limits: Limits = Limits()
    pipeline_user: str = "nobody"
    telemetry: Telemetry = Telemetry()
    bpf_fs: str = BPF_FS

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, told: Any) -> Plan:
        """The plan in `told`, each type, index and range checked; UsageError names the first fault."""
        plan: Plan = _decode(cls, told, "plan")
        _check(plan)
        return plan


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)  # evaluates texts: slow, and a plan has thousands of these objects


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: an object is wanted")
        hints = _hints(typing.cast(Any, kind))
        unknown = value.keys() - hints.keys()
        if unknown:
            raise UsageError(f"{where}: unknown {_shown(sorted(unknown)[0])}")
        try:
            return typing.cast(Any, kind)(**{k: _decode(hints[k], v, f"{where}.{k}") for k, v in value.items()})
        except TypeError as error:
            raise UsageError(f"{where}: {error}") from error
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{where}: a list is wanted")
        return tuple(_decode(inner[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{where}: an object is wanted")
        return {_decode(inner[0], k, where): _decode(inner[1], v, f"{where}.{str(k)[:80]}") for k, v in value.items()}
    if origin is Literal:
        if value not in inner:
            raise UsageError(f"{where}: {_shown(value)} is none of {', '.join(map(str, inner))}")
        return value
    if origin in (types.UnionType, typing.Union):
        for one in inner:
            try:
                return _decode(one, value, where)
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


def _check(plan: Plan) -> None:
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
    for site in plan.sites:
        _want(0 <= site.span < len(plan.spans), f"{site.probe}: no such span probe")
        _want(0 <= site.binary < len(plan.binaries), f"{site.probe}: no such binary")
        _want(0 <= site.file_offset < 1 << 62 and 0 <= site.semaphore_offset < 1 << 32, f"{site.probe}: offset out of range")
        _want(len(site.arguments) <= ARGUMENT_SLOTS + TEXT_SLOTS, f"{site.probe}: too many arguments")
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
    texts = [span.name, span.function, *(attribute.key for attribute in span.attributes), *([span.error.type] if span.error else ())]
    _want(all(map(_is_text, texts)), f"{_shown(span.name)}: a name that is no text")
    for attribute in span.attributes:
        _want(0 <= attribute.slot < (TEXT_SLOTS if attribute.string else ARGUMENT_SLOTS), f"{span.name}: slot out of range")
    if span.key is not None:
        _want(0 < span.key.expire_ns < 1 << 62 and 0 < span.key.pending <= MAX_PENDING, f"{span.name}: bounds of its key are out of range")
        _want(not any(attribute.string for attribute in span.attributes), f"{span.name}: a keyed call carries no text")
    _want(span.error is None or 0 <= span.error.slot < ARGUMENT_SLOTS, f"{span.name}: slot out of range")


def _check_argument(argument: Argument, machine: str, probe: str) -> None:
    _want(0 <= argument.slot < (TEXT_SLOTS if argument.string else ARGUMENT_SLOTS), f"{probe}: slot out of range")
    _want(2 <= argument.max <= TEXT_BYTES, f"{probe}: text of {_shown(argument.max)} bytes")
    _check_location(argument.location, machine, probe)


def _check_location(location: Location, machine: str, probe: str) -> None:
    from otel_usdt.probes.rows import REGISTERS  # here, for it is made of this module's words

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
