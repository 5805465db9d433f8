"""What became of one attempt to send, and how receivers say it in protobuf. https://opentelemetry.io/docs/specs/otlp/"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

Signal = Literal["traces", "metrics"]

_WHY_LENGTH = 300  # characters kept of what a receiver says: it goes to a log


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver has it. `rejected` spans or data points it did not keep, and will not; `message` is its remark, "" for none."""

    rejected: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now. `after_s` is how long the receiver asks to wait, None when it says nothing."""

    after_s: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Never: the same bytes would be refused again."""

    why: str


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The request is larger than the receiver takes."""

    why: str


Outcome = Accepted | Retry | Refused | TooLarge


def accepted(signal: Signal, answer: bytes) -> Accepted:
    """The outcome of a success whose body is `answer`, an Export*ServiceResponse. The status decides: a garbled body is a remark."""
    try:
        if signal == "traces":
            of_spans = ExportTraceServiceResponse.FromString(answer).partial_success
            rejected, message = of_spans.rejected_spans, of_spans.error_message
        else:
            of_points = ExportMetricsServiceResponse.FromString(answer).partial_success
            rejected, message = of_points.rejected_data_points, of_points.error_message
    except DecodeError:
        return Accepted(0, f"took it, but its answer is no OTLP: {shown(answer)}")
    return Accepted(max(0, rejected), shown(message.encode()))


def status_message(status: bytes) -> str:
    """The message of an encoded google.rpc.Status; "" when there is none or `status` is something else."""
    return "".join(map(shown, _fields(status, 2)[:1]))


def retry_delay_s(status: bytes) -> float | None:
    """The delay of the google.rpc.RetryInfo in an encoded google.rpc.Status; 0.0 when it names none, None without a RetryInfo."""
    for detail in _fields(status, 3):
        try:
            packed = Any.FromString(detail)
            if packed.type_url.endswith("/google.rpc.RetryInfo"):
                delay = Duration.FromString(b"".join(_fields(packed.value, 1)))
                return max(0.0, delay.seconds + delay.nanos / 1e9)
        except DecodeError:
            continue
    return None


def shown(said: bytes) -> str:
    """What a receiver said, fit for a log line."""
    text = said[:_WHY_LENGTH].decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in text).strip()


def _fields(message: bytes, number: int) -> list[bytes]:
    """The values of a bytes, string or message field of a message whose type protobuf's own library does not bring (google.rpc)."""
    try:
        parsed = UnknownFieldSet(Empty.FromString(message))
    except DecodeError:
        return []
    fields = (parsed[at] for at in range(len(parsed)))
    return [field.data for field in fields if field.field_number == number and isinstance(field.data, bytes)]
