"""Where data goes, out of the configuration and the OTEL_* variables: the file wins over the environment, that over the defaults.

Source: OpenTelemetry specification, "OpenTelemetry Protocol Exporter" (OTEL_EXPORTER_OTLP_*) and "Environment Variable
Specification" (empty is unset; times in milliseconds).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal
from urllib.parse import unquote

from otel_usdt.config.exports import ExportConfig, OtlpConfig
from otel_usdt.config.model import Config
from otel_usdt.errors import ConfigError
from otel_usdt.plan import Console, Export, HistogramType, OtlpExport, OtlpSignal, SpoolFolder, Temporality

_OTLP = "OTEL_EXPORTER_OTLP_"
_ENDPOINTS = (f"{_OTLP}ENDPOINT", f"{_OTLP}TRACES_ENDPOINT", f"{_OTLP}METRICS_ENDPOINT")
_DEFAULTS = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318"}
_PREFERENCE = f"{_OTLP}METRICS_TEMPORALITY_PREFERENCE"
_AGGREGATION = f"{_OTLP}METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 token


def export_of(export: ExportConfig, environ: Mapping[str, str]) -> Export:
    """Every way out. ConfigError when a variable that counts is malformed."""
    otlp = otlp_export(export, environ)
    console = None
    if export.console is not None:
        console = Console(view=export.console.view, interval_s=export.console.interval_s)
    elif otlp is None and export.file is None:
        console = Console()  # nothing asked for: show what happens
    if export.spool is not None and otlp is None:
        raise ConfigError("export.spool: spans wait there for OTLP, and there is none", hint="add export.otlp, or take export.spool away")
    spool = SpoolFolder(export.spool.path, export.spool.max_bytes, export.spool.max_age_s) if export.spool else None
    temporality = export.temporality or _temporality(environ) or "cumulative"
    interval_s = export.interval_s or _milliseconds(environ, _INTERVAL) or 60.0
    file = export.file.path if export.file else ""
    return Export(otlp=otlp, file=file, console=console, interval_s=interval_s, spool=spool, temporality=temporality)


def otlp_export(export: ExportConfig, environ: Mapping[str, str]) -> OtlpExport | None:
    """OTLP as the file and the environment want it; None when neither does.

    It is wanted when the file has `otlp`, or when it names no way out at all and the environment has an endpoint.
    """
    told = export.otlp
    if told is None:
        if export.file is not None or export.console is not None or not any(environ.get(name) for name in _ENDPOINTS):
            return None
        told = OtlpConfig()
    common = _from(told, environ, "")
    protocol = told.protocol or common.protocol or "grpc"
    endpoint = told.endpoint or _endpoint(environ, "", protocol)
    return OtlpExport(
        endpoint=endpoint or _DEFAULTS[protocol],
        protocol=protocol,
        headers=_lower(told.headers) if told.headers is not None else common.headers or {},
        timeout_s=told.timeout_s or common.timeout_s or 10.0,
        compression=told.compression or common.compression or "none",
        ca_file=told.certificate or common.ca_file or "",
        client_certificate_file=told.client_certificate or common.client_certificate_file or "",
        client_key_file=told.client_key or common.client_key_file or "",
        traces=_own(told, environ, "traces", protocol, endpoint),
        metrics=_own(told, environ, "metrics", protocol, endpoint),
        queue_bytes=told.queue_bytes,
        concurrency=told.concurrency,
    )


def _from(told: OtlpConfig, environ: Mapping[str, str], signal: str) -> OtlpSignal:
    """What the variables say, of one signal or ("") of all, but for the endpoint. Those that the file has are not looked at."""
    prefix = f"{_OTLP}{signal.upper()}_" if signal else _OTLP
    return OtlpSignal(
        protocol=None if told.protocol else _protocol(environ, f"{prefix}PROTOCOL"),
        headers=None if told.headers is not None else _headers(environ, f"{prefix}HEADERS"),
        timeout_s=None if told.timeout_s else _milliseconds(environ, f"{prefix}TIMEOUT"),
        compression=None if told.compression else _compression(environ, f"{prefix}COMPRESSION"),
        ca_file=None if told.certificate else environ.get(f"{prefix}CERTIFICATE") or None,
        client_certificate_file=None if told.client_certificate else environ.get(f"{prefix}CLIENT_CERTIFICATE") or None,
        client_key_file=None if told.client_key else environ.get(f"{prefix}CLIENT_KEY") or None,
    )


def _own(told: OtlpConfig, environ: Mapping[str, str], signal: str, protocol: str, endpoint: str) -> OtlpSignal:
    """What one signal has of its own. `protocol` and `endpoint` are the common ones; without an endpoint, each protocol has its default."""
    own = _from(told, environ, signal)
    if told.endpoint is not None:
        return own
    own_protocol = own.protocol or protocol
    own_endpoint = _endpoint(environ, signal, own_protocol)
    if not own_endpoint and not endpoint and own_protocol != protocol:
        own_endpoint = _DEFAULTS[own_protocol] + (f"/v1/{signal}" if own_protocol == "http/protobuf" else "")
    return replace(own, endpoint=own_endpoint or None)


def _protocol(environ: Mapping[str, str], name: str) -> Literal["grpc", "http/protobuf"] | None:
    match environ.get(name, "").strip():
        case "":
            return None
        case "grpc":
            return "grpc"
        case "http/protobuf":
            return "http/protobuf"
        case other:
            raise _wrong(name, f"{other!r} is none of grpc, http/protobuf")


def _compression(environ: Mapping[str, str], name: str) -> Literal["none", "gzip"] | None:
    match environ.get(name, "").strip():
        case "":
            return None
        case "none":
            return "none"
        case "gzip":
            return "gzip"
        case other:
            raise _wrong(name, f"{other!r} is none of none, gzip")


def _temporality(environ: Mapping[str, str]) -> Temporality | None:
    match environ.get(_PREFERENCE, "").strip().lower():
        case "":
            return None
        case "cumulative" | "delta" | "lowmemory" as known:
            return known
        case other:
            raise _wrong(_PREFERENCE, f"{other!r} is none of cumulative, delta, lowmemory")


def histogram_type(config: Config, environ: Mapping[str, str]) -> HistogramType:
    """Of all histograms. A file that has buckets has said it."""
    own = (span.histogram for target in config.targets for span in target.spans)
    if config.histogram.type or config.histogram.buckets_ns or any(one.buckets_ns for one in own):
        return config.histogram.type or "explicit"
    match environ.get(_AGGREGATION, "").strip().lower():
        case "" | "explicit_bucket_histogram":
            return "explicit"
        case "base2_exponential_bucket_histogram":
            return "exponential"
        case other:
            raise _wrong(_AGGREGATION, f"{other!r} is none of explicit_bucket_histogram, base2_exponential_bucket_histogram")


def _endpoint(environ: Mapping[str, str], signal: str, protocol: str) -> str:
    own = f"{_OTLP}{signal.upper()}_" if signal else _OTLP
    name = f"{own}ENDPOINT"
    value = environ.get(name, "").strip()
    if not value or re.match(r"https?://[^/\s?#]+", value):
        return value
    if protocol == "grpc" and re.fullmatch(r"[^/\s?#]+:[0-9]+", value):  # gRPC's own form, secure unless said otherwise
        insecure = (environ.get(f"{own}INSECURE") or environ.get(f"{_OTLP}INSECURE", "")).strip().lower() == "true"
        return f"{'http' if insecure else 'https'}://{value}"
    raise _wrong(name, f"{value!r} is no endpoint: http://HOST:PORT or https://HOST:PORT is wanted")


def _headers(environ: Mapping[str, str], variable: str) -> dict[str, str] | None:
    """`name=value,name=value` with percent-encoded values, as W3C Baggage writes them. No fault shows a value: they are credentials."""
    told = environ.get(variable, "").strip()
    if not told:
        return None
    headers: dict[str, str] = {}
    for i, member in enumerate(told.split(","), 1):
        if not member.strip():
            continue
        name, equals, value = member.partition("=")
        if not equals or not _HEADER.fullmatch(name.strip()):
            raise _wrong(variable, f"member {i} is no NAME=VALUE")
        headers[name.strip()] = unquote(value.strip())
    return _lower(headers)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}  # gRPC refuses upper case, HTTP does not mind


def _milliseconds(environ: Mapping[str, str], name: str) -> float | None:
    value = environ.get(name, "").strip()
    if not value:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", value) or int(value) == 0:
        raise _wrong(name, f"{value!r} is no time: milliseconds, a whole number above 0, is wanted")
    return int(value) / 1000


def _wrong(name: str, what: str) -> ConfigError:
    return ConfigError(f"environment: {name}: {what}", hint=f"mend or unset {name}; what the configuration file says comes first")
