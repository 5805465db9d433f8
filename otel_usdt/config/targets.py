"""The sections of a target: its processes, its span probes, and what those read. Field names carry units; aliases are the keys in YAML."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from otel_usdt.config.values import (
    BUCKETS,
    MAY_BE_EMPTY,
    SERIES,
    Buckets,
    BuildId,
    Ends,
    ExecutableGlob,
    Function,
    Integer,
    Joins,
    Name,
    Nanoseconds,
    PeriodNs,
    Probe,
    ScopeName,
    Share,
    Strict,
    Text,
    When,
    Yes,
)
from otel_usdt.plan import JOINS, MAX_PENDING, MAX_SERIES, TEXT_BYTES


class SelectConfig(Strict):
    """Which processes: all that is given must hold."""

    not_yet: ClassVar[tuple[str, ...]] = (
        "open_ports", "cgroup", "container", "container_name", "containers_only", "k8s_*", "languages", "cmd_args", "target_pids",
    )  # fmt: skip
    pid: int | None = Field(default=None, ge=1, lt=1 << 22, description="One process, by its pid as the host sees it.")
    exe_path: ExecutableGlob | None = Field(
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
    return_: Yes | None = Field(default=None, alias="return", description="The function's return value.")
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
    expire_ns: PeriodNs = Field(
        default=60_000_000_000, alias="expire", description="A beginning that is older without its end is given up."
    )
    pending: int = Field(default=65536, ge=1, le=MAX_PENDING, description="Beginnings that may wait for their end; 300 bytes each.")


class SpanHistogramConfig(Strict):
    """What a span probe's histogram has of its own."""

    buckets_ns: Buckets | None = Field(default=None, alias="buckets", description=BUCKETS)
    dimensions: tuple[Name, ...] = Field(
        default=(), description="Attributes of the span probe by which its calls are counted apart, each combination a series."
    )
    max_series: int | None = Field(default=None, ge=1, le=MAX_SERIES, description=SERIES)


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
    attributes: Annotated[dict[Name, AttributeConfig], MAY_BE_EMPTY] = Field(
        default={}, description="Span attributes, by their OpenTelemetry names."
    )
    histogram: Annotated[SpanHistogramConfig, MAY_BE_EMPTY] = Field(
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
    scope: ScopeName = Field(
        default="pid", description="pid: those processes; tree: their children too; binary: every process that maps the binary."
    )
    build_id: BuildId | None = Field(default=None, description="First 8 or more hex digits of the build id that the executable must have.")
    outsiders: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="Whether a file that many processes outside the scope map may be probed; they pay for every hit as well.",
    )
    capture: Annotated[CaptureConfig, MAY_BE_EMPTY] = Field(
        default=CaptureConfig.model_construct(), description="What may be read out of the target's memory."
    )
    sample: Share = Field(default=1.0, description="Share of the traces that begin here that are recorded; histograms count every call.")
    join: Joins = Field(
        default=JOINS,
        min_length=1,
        description="Where calls find their trace, in this order: an argument, the enclosing call, OBI's request; new: one of their own.",
    )
    spans: tuple[SpanConfig, ...] = Field(min_length=1, description="The span probes.")
