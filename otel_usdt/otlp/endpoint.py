"""What the configuration says of an endpoint, checked once before anything is sent."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from otel_usdt.errors import UsageError
from otel_usdt.otlp.tls import check_tls
from otel_usdt.plan import OtlpExport, OtlpSignal

_NAME = re.compile(r"[0-9A-Za-z_.-]+")  # what both HTTP and gRPC take
_VALUE = re.compile(r"[ -~]*")
_URL = re.compile(r"[!-~]+")


def check_export(config: OtlpExport) -> None:
    """UsageError for what the exporter will not be able to use: told while nothing is attached yet."""
    for own in (config.traces, config.metrics):
        of_signal = with_own(config, own)
        parse_endpoint(of_signal.endpoint)
        check_headers(of_signal.headers)
        check_tls(of_signal)


def with_own(config: OtlpExport, own: OtlpSignal) -> OtlpExport:
    """The settings of one signal: its own, else the common ones."""
    return dataclasses.replace(
        config,
        **{one.name: value for one in dataclasses.fields(own) if (value := getattr(own, one.name)) is not None},
    )


def parse_endpoint(endpoint: str) -> SplitResult:
    """The URL `endpoint`; UsageError unless it has http or https, a host, and no user or password."""
    hint = "such as http://localhost:4317 (gRPC) or http://localhost:4318 (HTTP)"
    try:
        url = urlsplit(endpoint)
        well_formed = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and _URL.fullmatch(endpoint)
    except ValueError as error:
        raise UsageError(f"otlp endpoint {endpoint!r}: {error}", hint=hint) from error
    if "@" in url.netloc:
        raise UsageError(f"otlp endpoint at {url.hostname}: no user or password can be in the URL", hint="put credentials into `headers`")
    if not well_formed:
        raise UsageError(f"otlp endpoint {endpoint!r}: a URL with http:// or https:// and a host is wanted", hint=hint)
    return url


def check_headers(headers: Mapping[str, str]) -> None:
    """UsageError for a header that HTTP or gRPC could not carry. The value is not shown: it may be a credential."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or name.lower().endswith("-bin"):  # gRPC's -bin headers are not text
            raise UsageError(f"otlp header {name!r} cannot be sent", hint="a name has letters, digits, - _ and ., and does not end in -bin")
        if not _VALUE.fullmatch(value):
            raise UsageError(f"the value of otlp header {name!r} cannot be sent", hint="only printable ASCII characters can be")
