"""The shape of a configuration: frozen models, one a section. Names of fields carry units; aliases are the keys in YAML.

Rules between keys are in check.py, so that they are told together with the faults of single keys.
"""

from __future__ import annotations

import ipaddress
import json
import re
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from otel_usdt import units
from otel_usdt.errors import UsageError
from otel_usdt.ladder import MAX_BOUNDS, crowded
from otel_usdt.plan import BPF_FS, JOINS, MAX_PENDING, MAX_SERIES, MAX_TARGETS, TEXT_BYTES, HistogramType, Join, Temporality
from otel_usdt.probespec import ProbeSpec, parse_function, parse_probe

Number = TypeVar("Number", int, float)
Operator = Literal["<", "<=", "==", "!=", ">=", ">"]


Integer = Literal["int", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


class Comparison(NamedTuple):
    """`OPERATOR INTEGER`, of a signed return value."""

    operator: Operator
    value: int


_COMPARISON = re.compile(r"\s*(<=|>=|==|!=|<|>)\s*(-?(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}))\s*")


def _comparison(text: Any) -> Any:
    if isinstance(text, Comparison):
        return text
    found = _COMPARISON.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f'{text!r} is no comparison: one of < <= == != >= > and a whole number is wanted, as in "< 0"')
    value = int(found[2], 16 if "x" in found[2].lower() else 10)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{found[2]} does not fit into 64 signed bits")
    return Comparison(found[1], value)  # type: ignore[arg-type]  # the pattern admits no other operator


def _probe(text: Any) -> Any:
    return _parsed(parse_probe, text)


def _function(text: Any) -> Any:
    return _parsed(parse_function, text)


def _parsed(parse: Any, text: Any) -> Any:
    if isinstance(text, ProbeSpec):
        return text
    if not isinstance(text, str):
        raise ValueError("a probe is wanted, as in usdt:postgresql:query__start")
    try:
        return parse(text)
    except UsageError as error:
        raise ValueError(str(error)) from error


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | ProbeSpec) else value


def _empty_mapping(value: Any) -> Any:
    return {} if value is None else value  # `otlp:` with nothing after it, or all of it commented out


def _executable_glob(value: str) -> str:
    if not value.startswith(("/", "*")):
        raise ValueError(f"{value!r} can match no executable: paths are absolute, so it starts with / or *")
    return value


def _power_of_two(size: int) -> int:
    if size & (size - 1) or not 4096 <= size <= 1 << 30:
        raise ValueError(f"{size} bytes is no ring: a power of two from 4KiB to 1GiB is wanted")
    return size


def _positive(duration: Number) -> Number:
    if duration <= 0:
        raise ValueError("a duration longer than 0 is wanted")
    return duration


def _build_id(value: str) -> str:
    if not re.fullmatch(r"\s*[0-9a-fA-F]{8,128}\s*", value):
        raise ValueError(f"{value!r} is no build id: 8 to 128 of its hex digits are wanted; readelf -n BINARY shows it")
    return value.strip().lower()


def _url(value: str) -> str:
    if not re.match(r"https?://[^/\s?#]+", value):
        raise ValueError(f"{value!r} is no endpoint: http://HOST:PORT or https://HOST:PORT is wanted")
    return value


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = ipaddress.ip_address("127.0.0.1" if address == "localhost" else address)
        if getattr(found, "scope_id", None) or (found.version == 6) != host.startswith("[") or not (port.isascii() and port.isdigit()):
            raise ValueError
        if int(port) >= 1 << 16:
            raise ValueError
    except ValueError:
        raise ValueError(f"{value!r} is no place to listen: ADDRESS:PORT is wanted, as in 127.0.0.1:9464 or [::1]:9464") from None
    return f"[{found.compressed}]:{int(port)}" if found.version == 6 else f"{found.compressed}:{int(port)}"


def _only_true(value: bool) -> bool:
    if not value:
        raise ValueError("true is wanted; leave the key out for an argument")
    return value


def _in_order(join: tuple[Join, ...]) -> tuple[Join, ...]:
    return tuple(one for one in JOINS if one in join)


def _rising(bounds: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if bounds is None:
        return None
    for low, high in pairwise((0, *bounds)):
        if low >= high:
            raise ValueError(f"{_told(high)} after {_told(low)}: bounds rise" if low else "a bound longer than 0 is wanted")
    if bounds[-1] >= 1 << 62:
        raise ValueError(f"{_told(bounds[-1])} is longer than any call")
    if near := crowded(bounds):
        raise ValueError(f"{_told(near[0])} and {_told(near[1])} are too near to be counted apart: raise each bound by 12.5 % or more")
    return bounds


def _told(duration_ns: int) -> str:
    unit, size = next((one for one in (("s", 10**9), ("ms", 10**6), ("us", 1000)) if duration_ns >= one[1]), ("ns", 1))
    return f"{duration_ns / size:g}{unit}"


def _not_yet(*words: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value in words:
            raise ValueError("not supported yet")
        return value

    return BeforeValidator(check)


def _only_never(value: Any) -> Any:
    if value != "never":
        raise ValueError("not supported yet")
    return value


_WRITTEN = {
    "duration": {"type": ["string", "number"], "examples": ["500us", "30s", "1h"]},
    "size": {"type": ["string", "integer"], "examples": ["64KiB", "4MiB"]},
    "share": {"type": ["string", "number"], "examples": ["10%", 0.1]},
    "probe": {"type": "string", "examples": ["usdt:postgresql:query__start", "libpq.so.5:func:PQexec", "addr:0x1234"]},
    "function": {"type": "string", "examples": ["XLogFlush", "libpq.so.5:func:PQexec"]},
}

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4096)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Seconds = Annotated[float, BeforeValidator(units.seconds), WithJsonSchema(_WRITTEN["duration"])]
Nanoseconds = Annotated[int, BeforeValidator(units.nanoseconds), WithJsonSchema(_WRITTEN["duration"])]
Bytes = Annotated[int, BeforeValidator(units.size_bytes), WithJsonSchema(_WRITTEN["size"])]
Share = Annotated[float, BeforeValidator(units.share), WithJsonSchema(_WRITTEN["share"])]
Probe = Annotated[ProbeSpec, BeforeValidator(_probe), WithJsonSchema(_WRITTEN["probe"])]
Function = Annotated[ProbeSpec, BeforeValidator(_function), WithJsonSchema(_WRITTEN["function"])]
Ends = Annotated[
    tuple[Probe, ...],
    BeforeValidator(_one_or_more),
    Field(min_length=1, max_length=16),
    WithJsonSchema({"anyOf": [_WRITTEN["probe"], {"type": "array", "items": _WRITTEN["probe"], "minItems": 1, "maxItems": 16}]}),
]
When = Annotated[Comparison, BeforeValidator(_comparison), WithJsonSchema({"type": "string", "examples": ["< 0", "== 0"]})]
Buckets = Annotated[tuple[Nanoseconds, ...], Field(min_length=1, max_length=MAX_BOUNDS), AfterValidator(_rising)]
_BUCKETS = "Upper bounds, inclusive, of the buckets of an explicit histogram: durations that rise."
_SERIES = "Series of one span probe, at most; calls of all further ones are counted together, with otel.metric.overflow."
BuildId = Annotated[str, AfterValidator(_build_id), WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{8,128}$"})]


class Strict(BaseModel):
    """A section: unknown keys are refused, and so are (by name) those that a later release brings."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, defer_build=True)
    not_yet: ClassVar[tuple[str, ...]] = ()


class SelectConfig(Strict):
    """Which processes: all that is given must hold."""

    not_yet: ClassVar[tuple[str, ...]] = (
        "open_ports", "cgroup", "container", "container_name", "containers_only", "k8s_*", "languages", "cmd_args", "target_pids",
    )  # fmt: skip
    pid: int | None = Field(default=None, ge=1, lt=1 << 22, description="One process, by its pid as the host sees it.")
    exe_path: Annotated[Text, AfterValidator(_executable_glob)] | None = Field(
        default=None, description="A glob on the path of the executable as the process sees it; * also matches /."
    )
    binary: Text | None = Field(
        default=None, description="A file to probe in all processes that map it, now or later; needs scope: binary."
    )


class CaptureConfig(Strict):
    """What may be read out of the target's memory."""

    text: bool = Field(default=False, description="Whether attributes with `as: string` are captured; they may hold personal data.")


class AttributeConfig(Strict):
    """One span attribute: an argument or the return value."""

    arg: int | None = Field(default=None, ge=1, le=12, description="The argument, from 1.")
    return_: Annotated[bool, AfterValidator(_only_true)] | None = Field(
        default=None, alias="return", description="The function's return value."
    )
    as_: Literal[Integer, "string"] = Field(
        default="int",
        alias="as",
        description="A number (int: as wide as the probe says, of a function 64 bits), or the text at the address that the argument holds.",
    )
    max: int = Field(default=TEXT_BYTES, ge=2, le=TEXT_BYTES, description="Bytes kept of a string, its closing NUL included.")
    at: Literal["enter", "return"] = Field(default="enter", description="At which end the argument is read.")


class ErrorConfig(Strict):
    """When a call has failed."""

    when: When = Field(alias="return", description='A comparison with the signed return value, as in "< 0".')
    as_: Integer = Field(
        default="int32", alias="as", description="The function's return type: int32 is C's int; int64 for long, ssize_t and pointers."
    )
    type: Name | None = Field(default=None, description="error.type of the span; the return value itself when absent.")


class TraceparentConfig(Strict):
    """A W3C traceparent among the arguments: the call hangs under the span that it names."""

    arg: int = Field(ge=1, le=12, description="The argument that points to the text, from 1; read where the call begins.")
    in_: Literal["value", "sqlcommenter"] = Field(
        default="value",
        alias="in",
        description="value: the text is the traceparent; sqlcommenter: a statement with /*traceparent='...'*/ at its beginning or end.",
    )


class KeyConfig(Strict):
    """What makes two ends one call where threads or processes change between: a queue's put and get, a request and its reply."""

    arg: int = Field(ge=1, le=12, description="The argument that is the key, from 1.")
    return_arg: int | None = Field(default=None, ge=1, le=12, description="The same at the end, where it is another argument.")
    as_: Literal[Integer, "string"] = Field(
        default="int64", alias="as", description="A number or pointer; or the text at that address, of which 63 bytes count."
    )
    within: Literal["process", "any"] = Field(
        default="process", description="process: both ends in one; any: they may be in two, so keys must differ between processes."
    )
    duplicates: Literal["fifo", "last"] = Field(
        default="fifo",
        description="Of several beginnings with one key, the oldest ends first (fifo), or a new one replaces the old (last).",
    )
    expire_ns: Annotated[Nanoseconds, AfterValidator(_positive)] = Field(
        default=60_000_000_000, alias="expire", description="A beginning that is older without its end is given up."
    )
    pending: int = Field(default=65536, ge=1, le=MAX_PENDING, description="Beginnings that may wait for their end; 300 bytes each.")


class SpanHistogramConfig(Strict):
    """What a span probe's histogram has of its own."""

    buckets_ns: Buckets | None = Field(default=None, alias="buckets", description=_BUCKETS)
    dimensions: tuple[Name, ...] = Field(
        default=(), description="Attributes of the span probe by which its calls are counted apart, each combination a series."
    )
    max_series: int | None = Field(default=None, ge=1, le=MAX_SERIES, description=_SERIES)


class HistogramConfig(Strict):
    """Histograms, where span probes have nothing of their own."""

    type: HistogramType | None = Field(
        default=None,
        description="Of all histograms; default OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION, else explicit.",
    )
    buckets_ns: Buckets | None = Field(default=None, alias="buckets", description=_BUCKETS)
    max_series: int = Field(default=100, ge=1, le=MAX_SERIES, description=_SERIES)
    max_size: int = Field(default=160, ge=2, le=1024, description="Buckets of an exponential histogram, at most.")


class SpanConfig(Strict):
    """A span probe: one of function, enter and return, or probe."""

    name: Name | None = Field(default=None, description="Name of the spans; the function's or probe's own when absent.")
    function: Function | None = Field(default=None, description="A function, its entry paired with its return; may be a glob.")
    enter: Ends = Field(default=(), description="Where a call begins: a probe, or a list of alternatives.")
    return_: Ends = Field(default=(), alias="return", description="Where it ends: a probe, or a list of alternatives.")
    probe: Probe | None = Field(default=None, description="One end alone: counted, never a span.")
    mode: Literal["count", "histogram", "spans"] = Field(
        default="spans", description="What is made of each call; a probe alone is only counted."
    )
    min_duration_ns: Nanoseconds = Field(
        default=0, alias="min_duration", description="Shorter calls make no span, but count in the histogram."
    )
    attributes: Annotated[dict[Name, AttributeConfig], BeforeValidator(_empty_mapping)] = Field(
        default={}, description="Span attributes, by their OpenTelemetry names."
    )
    histogram: Annotated[SpanHistogramConfig, BeforeValidator(_empty_mapping)] = Field(
        default=SpanHistogramConfig.model_construct(), description="What its histogram has of its own."
    )
    error: ErrorConfig | None = Field(default=None, description="When the span's status is ERROR; for functions.")
    traceparent: TraceparentConfig | None = Field(default=None, description="Where a call finds the trace that it belongs to.")
    key: KeyConfig | None = Field(default=None, description="How enter and return are told to be of one call when threads change between.")

    @model_validator(mode="before")
    @classmethod
    def _a_point_is_counted(cls, told: Any) -> Any:
        return {"mode": "count", **told} if isinstance(told, dict) and "probe" in told else told


class TargetConfig(Strict):
    """Processes, and what is probed in them."""

    name: Name | None = Field(default=None, description="Its name in messages and in the plan; derived from `select` when absent.")
    select: SelectConfig = Field(description="Which processes.")
    scope: Annotated[Literal["pid", "tree", "binary"], _not_yet("cgroup")] = Field(
        default="pid", description="pid: those processes; tree: their children too; binary: every process that maps the binary."
    )
    build_id: BuildId | None = Field(default=None, description="First 8 or more hex digits of the build id that the executable must have.")
    outsiders: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="Whether a file that many processes outside the scope map may be probed; they pay for every hit as well.",
    )
    capture: Annotated[CaptureConfig, BeforeValidator(_empty_mapping)] = Field(
        default=CaptureConfig.model_construct(), description="What may be read out of the target's memory."
    )
    sample: Share = Field(default=1.0, description="Share of the traces that begin here that are recorded; histograms count every call.")
    join: Annotated[tuple[Join, ...], AfterValidator(_in_order)] = Field(
        default=JOINS,
        min_length=1,
        description="Where calls find their trace, in this order: an argument, the enclosing call, OBI's request; new: one of their own.",
    )
    spans: tuple[SpanConfig, ...] = Field(min_length=1, description="The span probes.")


class LeaseConfig(Strict):
    """Who attached, why, and for how long."""

    owner: Text | None = Field(default=None, description="Person or team that answers for the session.")
    reason: Text | None = Field(default=None, description="Why: a ticket, an incident.")
    ttl_s: Seconds = Field(default=0.0, alias="ttl", description="When it is over, everything is detached; 0: until stopped.")
    renew: Annotated[Literal["never"], BeforeValidator(_only_never)] = Field(
        default="never", description="Whether the lease may be prolonged."
    )


class BudgetConfig(Strict):
    """What the session may cost."""

    not_yet: ClassVar[tuple[str, ...]] = ("cpu", "drop_rate")
    records_per_second: int = Field(default=0, ge=0, lt=1 << 31, description="Ceiling on span records, enforced in the kernel; 0: none.")


class OtlpConfig(Strict):
    """OTLP, to a collector. What is absent comes from OTEL_EXPORTER_OTLP_*, else the default."""

    endpoint: Annotated[Text, AfterValidator(_url)] | None = Field(
        default=None, description="Default http://localhost:4317 (http/protobuf: 4318)."
    )
    protocol: Literal["grpc", "http/protobuf"] | None = Field(default=None, description="Default grpc.")
    headers: dict[Name, str] | None = Field(default=None, description="Sent with every request.")
    timeout_s: Annotated[Seconds, AfterValidator(_positive)] | None = Field(
        default=None, alias="timeout", description="Of one request; 10s."
    )
    compression: Literal["none", "gzip"] | None = Field(default=None, description="Default none.")
    certificate: Text | None = Field(default=None, description="A PEM file of the authorities trusted for https.")
    client_certificate: Text | None = Field(default=None, description="A PEM file of the certificate that we show (mTLS).")
    client_key: Text | None = Field(default=None, description="A PEM file of its key.")
    queue_bytes: Bytes = Field(
        default=64 << 20, alias="queue", ge=1 << 16, le=1 << 34, description="Spans wait here while the collector is away."
    )
    concurrency: int = Field(default=4, ge=1, le=64, description="Requests of spans that are under way at a time.")


class FileConfig(Strict):
    """OTLP/JSON lines."""

    path: Text = Field(description="Appended to; made when absent.")


class ConsoleConfig(Strict):
    """JSON lines on standard output, or a table on a terminal."""

    view: Literal["spans", "counts", "histograms", "all"] = Field(default="spans", description="Of what.")
    interval_s: Seconds = Field(default=0.0, alias="interval", description="How often counts and histograms are shown; 0: at the end.")


class SpoolConfig(Strict):
    """Spans wait on disk while the collector is away, and for the next session."""

    path: Annotated[Text, Field(pattern="^/")] = Field(
        description="A folder of its own, absolute; made when absent, for the pipeline's user alone."
    )
    max_bytes: Bytes = Field(default=512 << 20, alias="max", ge=1 << 20, lt=1 << 44, description="Beyond it the oldest spans are dropped.")
    max_age_s: Annotated[Seconds, AfterValidator(_positive)] = Field(
        default=3600.0, alias="max_age", description="Spans that are older are dropped."
    )


class ExportConfig(Strict):
    """Every way out; all may be used at once. With none, OTLP if the environment names an endpoint, else the console."""

    otlp: Annotated[OtlpConfig | None, BeforeValidator(_empty_mapping)] = Field(default=None, description="To a collector.")
    file: Annotated[FileConfig | None, BeforeValidator(_empty_mapping)] = Field(default=None, description="Into a file.")
    console: Annotated[ConsoleConfig | None, BeforeValidator(_empty_mapping)] = Field(default=None, description="Onto standard output.")
    spool: SpoolConfig | None = Field(default=None, description="Onto disk, while the collector is away; goes with otlp.")
    interval_s: Annotated[Seconds, AfterValidator(_positive)] | None = Field(
        default=None, alias="interval", description="How often metrics go out; default OTEL_METRIC_EXPORT_INTERVAL, else 60s."
    )
    temporality: Temporality | None = Field(
        default=None,
        description="Of metrics; default OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, else cumulative.",
    )


class PipelineConfig(Strict):
    """The process that reads records and talks to the network."""

    user: Name = Field(default="nobody", description="It runs as this user, without capabilities.")


class TelemetryConfig(Strict):
    """What the pipeline tells of itself over HTTP: /metrics in Prometheus' text format, and /healthz."""

    listen: Annotated[Text, AfterValidator(_listen)] | None = Field(
        default=None, description="ADDRESS:PORT, as in 127.0.0.1:9464 or [::1]:9464; port 0: any; without it nothing listens."
    )
    remote: bool = Field(default=False, description="Whether the address may be another than loopback; nobody is asked who they are.")

    @model_validator(mode="after")
    def _stays_at_home(self) -> TelemetryConfig:
        if self.listen and not self.remote and not ipaddress.ip_address(self.listen.rpartition(":")[0].strip("[]")).is_loopback:
            raise ValueError(f"{self.listen} is open to other hosts: listen on 127.0.0.1, or say remote: true")
        return self


class ObiConfig(Strict):
    """OpenTelemetry eBPF Instrumentation, beside us."""

    bpf_fs_path: Text = Field(default=BPF_FS, pattern="^/", description="The bpffs in which it pins its map, as its own setting says.")


class LimitsConfig(Strict):
    """Memory and numbers."""

    ring_bytes: Annotated[Bytes, AfterValidator(_power_of_two)] = Field(
        default=8 << 20, alias="ring", description="Records wait here to be read."
    )
    text_ring_bytes: Annotated[Bytes, AfterValidator(_power_of_two)] = Field(
        default=2 << 20, alias="text_ring", description="The same for records with captured text."
    )
    max_probes: int = Field(default=50, ge=1, le=4096, description="More probes than this out of one glob are a mistake, and refused.")


class Config(Strict):
    """An otel-usdt configuration."""

    not_yet: ClassVar[tuple[str, ...]] = ("policy",)
    targets: tuple[TargetConfig, ...] = Field(min_length=1, max_length=MAX_TARGETS, description="Programs and their span probes.")
    lease: Annotated[LeaseConfig, BeforeValidator(_empty_mapping)] = LeaseConfig.model_construct()
    budget: Annotated[BudgetConfig, BeforeValidator(_empty_mapping)] = BudgetConfig.model_construct()
    export: Annotated[ExportConfig, BeforeValidator(_empty_mapping)] = ExportConfig.model_construct()
    pipeline: Annotated[PipelineConfig, BeforeValidator(_empty_mapping)] = PipelineConfig.model_construct()
    limits: Annotated[LimitsConfig, BeforeValidator(_empty_mapping)] = LimitsConfig.model_construct()
    telemetry: Annotated[TelemetryConfig, BeforeValidator(_empty_mapping)] = TelemetryConfig.model_construct()
    histogram: Annotated[HistogramConfig, BeforeValidator(_empty_mapping)] = HistogramConfig.model_construct()
    obi: Annotated[ObiConfig, BeforeValidator(_empty_mapping)] = ObiConfig.model_construct()


def json_schema() -> str:
    """The JSON Schema (draft 2020-12) of a configuration, as the text of config.schema.json."""
    schema = Config.model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **_from_environment(schema)}, indent=2) + "\n"


def _from_environment(schema: Any) -> Any:
    """`schema` with `${NAME}` allowed wherever a number, a truth value or one of a few words is wanted."""
    if isinstance(schema, list):
        return [_from_environment(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    walked = {key: value if key in ("default", "examples", "enum", "type") else _from_environment(value) for key, value in schema.items()}
    if walked.get("type") not in ("integer", "number", "boolean") and "enum" not in walked:
        return walked
    outer = {key: walked.pop(key) for key in ("default", "description", "title") if key in walked}
    return {"anyOf": [walked, {"type": "string", "pattern": r"\$\{"}], **outer}
