"""A whole configuration: frozen models, one a section; those of targets and of ways out have modules of their own.

Names of fields carry units; aliases are the keys in YAML. Rules between keys are in check.py, so that they are told together with the
faults of single keys.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from otel_usdt.config.exports import ExportConfig
from otel_usdt.config.targets import TargetConfig
from otel_usdt.config.values import BUCKETS, MAY_BE_EMPTY, SERIES, Buckets, ListenAddress, Name, Never, RingBytes, Seconds, Strict, Text
from otel_usdt.plan import BPF_FS, MAX_SERIES, MAX_TARGETS, HistogramType


class HistogramConfig(Strict):
    """Histograms, where span probes have nothing of their own."""

    type: HistogramType | None = Field(
        default=None,
        description="Of all histograms; default OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION, else explicit.",
    )
    buckets_ns: Buckets | None = Field(default=None, alias="buckets", description=BUCKETS)
    max_series: int = Field(default=100, ge=1, le=MAX_SERIES, description=SERIES)
    max_size: int = Field(default=160, ge=2, le=1024, description="Buckets of an exponential histogram, at most.")


class LeaseConfig(Strict):
    """Who attached, why, and for how long."""

    owner: Text | None = Field(default=None, description="Person or team that answers for the session.")
    reason: Text | None = Field(default=None, description="Why: a ticket, an incident.")
    ttl_s: Seconds = Field(default=0.0, alias="ttl", description="When it is over, everything is detached; 0: until stopped.")
    renew: Never = Field(default="never", description="Whether the lease may be prolonged.")


class BudgetConfig(Strict):
    """What the session may cost."""

    not_yet: ClassVar[tuple[str, ...]] = ("cpu", "drop_rate")
    records_per_second: int = Field(default=0, ge=0, lt=1 << 31, description="Ceiling on span records, enforced in the kernel; 0: none.")


class PipelineConfig(Strict):
    """The process that reads records and talks to the network."""

    user: Name = Field(default="nobody", description="It runs as this user, without capabilities.")


class TelemetryConfig(Strict):
    """What the pipeline tells of itself over HTTP: /metrics in Prometheus' text format, and /healthz."""

    listen: ListenAddress | None = Field(
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

    ring_bytes: RingBytes = Field(default=8 << 20, alias="ring", description="Records wait here to be read.")
    text_ring_bytes: RingBytes = Field(default=2 << 20, alias="text_ring", description="The same for records with captured text.")
    max_probes: int = Field(default=50, ge=1, le=4096, description="More probes than this out of one glob are a mistake, and refused.")


class Config(Strict):
    """An otel-usdt configuration."""

    not_yet: ClassVar[tuple[str, ...]] = ("policy",)
    targets: tuple[TargetConfig, ...] = Field(min_length=1, max_length=MAX_TARGETS, description="Programs and their span probes.")
    lease: Annotated[LeaseConfig, MAY_BE_EMPTY] = LeaseConfig.model_construct()
    budget: Annotated[BudgetConfig, MAY_BE_EMPTY] = BudgetConfig.model_construct()
    export: Annotated[ExportConfig, MAY_BE_EMPTY] = ExportConfig.model_construct()
    pipeline: Annotated[PipelineConfig, MAY_BE_EMPTY] = PipelineConfig.model_construct()
    limits: Annotated[LimitsConfig, MAY_BE_EMPTY] = LimitsConfig.model_construct()
    telemetry: Annotated[TelemetryConfig, MAY_BE_EMPTY] = TelemetryConfig.model_construct()
    histogram: Annotated[HistogramConfig, MAY_BE_EMPTY] = HistogramConfig.model_construct()
    obi: Annotated[ObiConfig, MAY_BE_EMPTY] = ObiConfig.model_construct()
