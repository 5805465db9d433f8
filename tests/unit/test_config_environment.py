"""Where data goes: the file before the environment before the defaults."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from otel_usdt.config import export_of, histogram_type, load_config, otlp_export
from otel_usdt.config.exports import ExportConfig
from otel_usdt.errors import ConfigError
from otel_usdt.plan import Console, Export, OtlpExport, OtlpSignal

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def export(text: str) -> ExportConfig:
    return load_config(f"targets: [{{select: {{pid: 1}}, spans: [{{function: f}}]}}]\n{text}", "a.yaml", {}).export


def otlp(text: str, environ: Mapping[str, str]) -> OtlpExport:
    made = otlp_export(export(text), environ)
    assert made is not None
    return made


def test_with_nothing_said_the_console_shows_spans() -> None:
    """The embedded default needs no collector."""
    assert export_of(export(""), {}) == Export(console=Console(view="spans"), interval_s=60.0)


@pytest.mark.parametrize("name", [ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"])
@pytest.mark.parametrize("text", ["", "export: {interval: 5s}"])
def test_with_nothing_said_an_endpoint_in_the_environment_is_used(name: str, text: str) -> None:
    """A sidecar in a pod gets its collector from the pod."""
    made = export_of(export(text), {name: "http://collector:4317"})
    assert made.otlp is not None
    assert made.console is None


def test_a_way_out_in_the_file_leaves_the_environments_endpoint_alone() -> None:
    """Who names a file or the console wants that and no more."""
    assert otlp_export(export("export: {file: {path: /tmp/x}}"), {ENDPOINT: "http://collector:4317"}) is None
    assert export_of(export("export: {file: {path: /tmp/x}}"), {}) == Export(file="/tmp/x")


def test_an_empty_otlp_takes_the_defaults() -> None:
    """`otlp:` alone is a collector on this host, for both protocols."""
    assert otlp("export: {otlp: }", {}) == OtlpExport(endpoint="http://localhost:4317")
    assert otlp("export: {otlp: {protocol: http/protobuf}}", {}).endpoint == "http://localhost:4318"


def test_every_variable_is_read() -> None:
    """As the specification names and spells them: times in milliseconds, headers percent-encoded."""
    environ = {
        ENDPOINT: "https://collector:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://traces/in",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://metrics/in",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic%20a%3Db, x-tenant = orders,",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/ca.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/etc/client.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/etc/client.key",
        "OTEL_METRIC_EXPORT_INTERVAL": "1500",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "Delta",
    }
    made = export_of(export("export: {otlp: {queue: 1MiB, concurrency: 2}}"), environ)
    assert (made.interval_s, made.temporality) == (1.5, "delta")
    assert export_of(export("export: {otlp: , temporality: cumulative}"), environ).temporality == "cumulative"
    assert made.otlp == OtlpExport(
        endpoint="https://collector:4318",
        protocol="http/protobuf",
        traces=OtlpSignal(endpoint="https://traces/in"),
        metrics=OtlpSignal(endpoint="https://metrics/in"),
        headers={"authorization": "Basic a=b", "x-tenant": "orders"},
        timeout_s=2.5,
        compression="gzip",
        ca_file="/etc/ca.pem",
        client_certificate_file="/etc/client.pem",
        client_key_file="/etc/client.key",
        queue_bytes=1 << 20,
        concurrency=2,
    )


def test_every_variable_of_one_signal_is_read() -> None:
    """It wins over the one for all signals, and the other signal does not notice."""
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=all",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "metrics:4317",
        "OTEL_EXPORTER_OTLP_METRICS_INSECURE": "true",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "x-tenant=metrics",
        "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "1500",
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE": "/etc/ca.pem",
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE": "/etc/client.pem",
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY": "/etc/client.key",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://traces/in",
    }
    assert otlp("export: {otlp: }", environ) == OtlpExport(
        endpoint="http://localhost:4317",
        headers={"x-tenant": "all"},
        timeout_s=2.5,
        traces=OtlpSignal(endpoint="https://traces/in", protocol="http/protobuf"),
        metrics=OtlpSignal(
            endpoint="http://metrics:4317",
            headers={"x-tenant": "metrics"},
            timeout_s=1.5,
            compression="gzip",
            ca_file="/etc/ca.pem",
            client_certificate_file="/etc/client.pem",
            client_key_file="/etc/client.key",
        ),
    )


@pytest.mark.parametrize(
    ("common", "own", "endpoint"),
    [("grpc", "http/protobuf", "http://localhost:4318/v1/traces"), ("http/protobuf", "grpc", "http://localhost:4317")],
)
def test_a_signal_with_another_protocol_has_that_protocols_default_endpoint(common: str, own: str, endpoint: str) -> None:
    """Only where no endpoint is named; else that one serves both."""
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": common, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": own}
    assert otlp("export: {otlp: }", environ).traces == OtlpSignal(endpoint=endpoint, protocol=own)  # type: ignore[arg-type]
    made = otlp("", environ | {ENDPOINT: "http://collector:1"})
    assert (made.endpoint, made.traces.endpoint, made.metrics) == ("http://collector:1", None, OtlpSignal())


def test_the_file_wins_over_the_environment() -> None:
    """Malformed variables do no harm either where the file has the value; a signal's endpoint yields to the file's."""
    text = """
export:
  interval: 5s
  otlp: {endpoint: "http://a:1", protocol: grpc, headers: {X-A: b}, timeout: 3s, compression: none, certificate: /a.pem,
    client_certificate: /b.pem, client_key: /b.key}
"""
    environ = dict.fromkeys((ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_METRIC_EXPORT_INTERVAL"), "nonsense")
    names = ("PROTOCOL", "HEADERS", "TIMEOUT", "COMPRESSION", "CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
    environ |= {f"OTEL_EXPORTER_OTLP_{signal}{name}": "nonsense" for name in names for signal in ("", "TRACES_", "METRICS_")}
    made = export_of(export(text), environ)
    assert made.otlp == OtlpExport(
        "http://a:1", headers={"x-a": "b"}, timeout_s=3.0, ca_file="/a.pem", client_certificate_file="/b.pem", client_key_file="/b.key"
    )
    assert made.interval_s == 5.0


def test_grpc_takes_an_endpoint_without_a_scheme() -> None:
    """HOST:PORT is secure unless OTEL_EXPORTER_OTLP_INSECURE says otherwise."""
    assert otlp("", {ENDPOINT: "collector:4317"}).endpoint == "https://collector:4317"
    assert otlp("", {ENDPOINT: "collector:4317", "OTEL_EXPORTER_OTLP_INSECURE": "TRUE"}).endpoint == "http://collector:4317"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (ENDPOINT, "ftp://x"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-5"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "difference"),
    ],
)
def test_a_malformed_variable_is_a_config_error(name: str, value: str) -> None:
    """The message names the variable and shows what it holds."""
    with pytest.raises(ConfigError, match=f"environment: {name}: .*{value}"):
        export_of(export("export: {otlp: }"), {name: value})


def test_a_malformed_header_does_not_show_its_value() -> None:
    """Headers carry credentials, and errors go to logs."""
    with pytest.raises(ConfigError, match="member 2") as caught:
        otlp("export: {otlp: }", {"OTEL_EXPORTER_OTLP_HEADERS": "a=b,s3cret"})
    assert "s3cret" not in str(caught.value)


AGGREGATION = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"


@pytest.mark.parametrize(
    ("span", "rest", "value", "kind"),
    [
        ("", "", "", "explicit"),
        ("", "", "explicit_bucket_histogram", "explicit"),
        ("", "", "base2_exponential_bucket_histogram", "exponential"),
        ("", "histogram: {type: explicit}", "base2_exponential_bucket_histogram", "explicit"),
        ("", "histogram: {type: exponential}", "no such thing", "exponential"),
        ("", "histogram: {buckets: [1ms]}", "base2_exponential_bucket_histogram", "explicit"),
        (", histogram: {buckets: [1ms]}", "", "base2_exponential_bucket_histogram", "explicit"),
    ],
)
def test_the_type_of_histograms(span: str, rest: str, value: str, kind: str) -> None:
    """By the file, which says explicit too by having buckets; else by the environment."""
    config = load_config(f"targets: [{{select: {{pid: 1}}, spans: [{{function: f{span}}}]}}]\n{rest}", "a.yaml", {})
    assert histogram_type(config, {AGGREGATION: value}) == kind


def test_an_unknown_aggregation_is_a_config_error() -> None:
    """It names the variable and the two that there are."""
    config = load_config("targets: [{select: {pid: 1}, spans: [{function: f}]}]", "a.yaml", {})
    with pytest.raises(ConfigError, match=f"{AGGREGATION}: 'linear' is none of explicit_bucket_histogram, base2"):
        histogram_type(config, {AGGREGATION: "linear"})
