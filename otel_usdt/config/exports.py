"""The sections of the ways out. Field names carry units; aliases are the keys in YAML."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from otel_usdt.config.values import MAY_BE_EMPTY, Bytes, Endpoint, Name, Period, Seconds, Strict, Text
from otel_usdt.plan import Temporality


class OtlpConfig(Strict):
    """OTLP, to a collector. What is absent comes from OTEL_EXPORTER_OTLP_*, else the default."""

    endpoint: Endpoint | None = Field(default=None, description="Default http://localhost:4317 (http/protobuf: 4318).")
    protocol: Literal["grpc", "http/protobuf"] | None = Field(default=None, description="Default grpc.")
    headers: dict[Name, str] | None = Field(default=None, description="Sent with every request.")
    timeout_s: Period | None = Field(default=None, alias="timeout", description="Of one request; 10s.")
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
    max_age_s: Period = Field(default=3600.0, alias="max_age", description="Spans that are older are dropped.")


class ExportConfig(Strict):
    """Every way out; all may be used at once. With none, OTLP if the environment names an endpoint, else the console."""

    otlp: Annotated[OtlpConfig | None, MAY_BE_EMPTY] = Field(default=None, description="To a collector.")
    file: Annotated[FileConfig | None, MAY_BE_EMPTY] = Field(default=None, description="Into a file.")
    console: Annotated[ConsoleConfig | None, MAY_BE_EMPTY] = Field(default=None, description="Onto standard output.")
    spool: SpoolConfig | None = Field(default=None, description="Onto disk, while the collector is away; goes with otlp.")
    interval_s: Period | None = Field(
        default=None, alias="interval", description="How often metrics go out; default OTEL_METRIC_EXPORT_INTERVAL, else 60s."
    )
    temporality: Temporality | None = Field(
        default=None,
        description="Of metrics; default OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, else cumulative.",
    )
