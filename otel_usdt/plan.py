"""The plan: everything decided before the kernel is touched. Pure data, printable, and what the planner hands to the supervisor.

Standard library only, for the supervisor reads it. The planner (planner.py, resolve.py) makes it; `Plan.from_dict` is the
boundary at which the supervisor checks a plan that a less trusted process made; after that nothing re-checks.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from otel_usdt.elf.locations import Location
from otel_usdt.ladder import BOUNDS_NS

Mode = Literal["count", "histogram", "spans"]
Scope = Literal["pid", "tree", "binary"]
Role = Literal["enter", "return", "point"]
Cost = Literal["emulated", "nop5", "single-step"]
HistogramType = Literal["explicit", "exponential"]
Temporality = Literal["cumulative", "delta", "lowmemory"]
Join = Literal["argument", "enclosing", "obi", "new"]

ARGUMENT_SLOTS = 4  # integers that one record carries; bpf/record.h ARGS
TEXT_SLOTS = 2  # strings that one record carries; bpf/record.h TEXTS
WORD_BYTES = 64  # of a string that is a dimension, with its closing NUL; bpf/record.h WORD
TEXT_BYTES = 256  # of each, with its closing NUL; bpf/record.h TEXT
MAX_SITES = 4096
MAX_SPANS = 1024
MACHINES = ("x86_64", "aarch64")
JOINS: tuple[Join, ...] = ("argument", "enclosing", "obi", "new")  # in the order in which they apply
BPF_FS = "/sys/fs/bpf"  # where OBI pins its map unless it is told otherwise
MAX_PENDING = 1 << 20  # of 300 bytes each
LONGEST_S = 1e9  # 31 years: what clocks and select(2) surely take
MAX_SERIES = 4096  # of one span probe
MAX_ROWS = 1 << 16  # of histograms, in all
MAX_LADDERS = 64  # different sets of bounds: 8 KiB each in the kernel
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
    """A location and where its value goes: record slot `slot` (of 4), or for strings text slot `slot` (of 2).

    Of a `word`, a string that is a dimension, the hash goes to a record slot.
    """

    location: Location
    slot: int
    string: bool = False
    max: int = TEXT_BYTES  # bytes kept of a string, its NUL included
    word: bool = False


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
    bounds_ns: tuple[int, ...] | None = BOUNDS_NS  # of its histogram; None: an exponential one
    dimensions: tuple[Attribute, ...] = ()  # by which its calls are counted apart; a string's slot has its hash
    max_series: int = 100


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
    instruction: str = ""  # what the trap sits on, where the plan is for people
    cost: Cost = "single-step"
    entry: int = 0  # at a function's entry: the address of its first byte, from which `address` lies a few instructions at most
    before: int = 0  # elf/entry_block.py, fingerprint() of the code from there to here
    stays: str = ""  # why a dear entry is at no cheaper instruction


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
    concurrency: int = 4  # requests of spans under way at a time


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
    ring_bytes: int = 8 << 20  # a power of two of pages; a third of a second of 200,000 calls/s
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
    max_buckets: int = 160  # of an exponential histogram's data point; the OpenTelemetry SDKs' default

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, told: Any) -> Plan:
        """The plan in `told`, each type, index and range checked; UsageError names the first fault."""
        from otel_usdt.plan_check import check, decode  # here, for they are made of this module's words

        plan: Plan = decode(cls, told, "plan")
        check(plan)
        return plan
