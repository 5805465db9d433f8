"""What single keys of a configuration may hold: texts, durations, sizes, probes; and `Strict`, the base of its sections."""

from __future__ import annotations

import ipaddress
import re
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from otel_usdt import units
from otel_usdt.errors import UsageError
from otel_usdt.ladder import MAX_BOUNDS, crowded
from otel_usdt.plan import JOINS, Join
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
ExecutableGlob = Annotated[Text, AfterValidator(_executable_glob)]
RingBytes = Annotated[Bytes, AfterValidator(_power_of_two)]
Period = Annotated[Seconds, AfterValidator(_positive)]
PeriodNs = Annotated[Nanoseconds, AfterValidator(_positive)]
Endpoint = Annotated[Text, AfterValidator(_url)]
ListenAddress = Annotated[Text, AfterValidator(_listen)]
Yes = Annotated[bool, AfterValidator(_only_true)]
Joins = Annotated[tuple[Join, ...], AfterValidator(_in_order)]
Never = Annotated[Literal["never"], BeforeValidator(_only_never)]
ScopeName = Annotated[Literal["pid", "tree", "binary"], _not_yet("cgroup")]
MAY_BE_EMPTY = BeforeValidator(_empty_mapping)  # of a section
BuildId = Annotated[str, AfterValidator(_build_id), WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{8,128}$"})]

# Descriptions that two sections share.
BUCKETS = "Upper bounds, inclusive, of the buckets of an explicit histogram: durations that rise."
SERIES = "Series of one span probe, at most; calls of all further ones are counted together, with otel.metric.overflow."


class Strict(BaseModel):
    """A section: unknown keys are refused, and so are (by name) those that a later release brings."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, defer_build=True)
    not_yet: ClassVar[tuple[str, ...]] = ()
