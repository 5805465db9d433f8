"""One attempt to send, against real receivers that answer in every way there is."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsPartialSuccess, ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTracePartialSuccess, ExportTraceServiceResponse

from otel_usdt.errors import UsageError
from otel_usdt.otlp.client import Accepted, Exporter, Refused, Retry, TooLarge
from otel_usdt.plan import OtlpExport, OtlpSignal
from tests.pipeline.exporting import METRICS, TRACES, exporter, retry_info, rpc_status
from tests.pipeline.receivers import Abort, Answer, grpc_receiver, http_receiver, talker


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_grpc_receiver_gets_both_signals(compression: Any) -> None:
    """The very bytes that were encoded arrive, as messages of their signal, with the configured headers."""
    with grpc_receiver() as (port, received), exporter(port, headers={"X-Tenant": "orders"}, compression=compression) as client:
        assert client.send("traces", TRACES) == Accepted()
        assert client.send("metrics", METRICS) == Accepted()
    assert received.span_ids() == [n.to_bytes(8, "big") for n in range(1, 4)]
    assert [request.SerializeToString() for request in received.metrics] == [METRICS]
    assert [headers["x-tenant"] for headers in received.headers] == ["orders", "orders"]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_http_receiver_gets_both_signals(compression: Any) -> None:
    """POST to /v1/traces and /v1/metrics under the base, as protobuf, with the configured headers."""
    with http_receiver() as (port, received), exporter(port, "http/protobuf", headers={"X-Tenant": "o"}, compression=compression) as client:
        assert client.send("traces", TRACES) == Accepted()
        assert client.send("metrics", METRICS) == Accepted()
    assert received.paths == ["/v1/traces", "/v1/metrics"]
    assert received.span_ids() == [n.to_bytes(8, "big") for n in range(1, 4)]
    assert [request.SerializeToString() for request in received.metrics] == [METRICS]
    assert {(headers["content-type"], headers["x-tenant"]) for headers in received.headers} == {("application/x-protobuf", "o")}


def test_http_base_path_is_kept_and_a_signals_own_endpoint_used_as_it_is() -> None:
    """The common endpoint is a base; a signal's own is the whole URL."""
    with http_receiver() as (port, received):
        base = f"http://localhost:{port}/otel/"
        with exporter(port, "http/protobuf", endpoint=base, traces=OtlpSignal(endpoint=f"http://localhost:{port}/in?t=1")) as client:
            client.send("traces", TRACES)
            client.send("metrics", METRICS)
    assert received.paths == ["/in?t=1", "/otel/v1/metrics"]


def test_grpc_signals_may_have_receivers_of_their_own() -> None:
    """Metrics go to another server than spans."""
    with (
        grpc_receiver() as (port, of_traces),
        grpc_receiver() as (other, of_metrics),
        exporter(port, metrics=OtlpSignal(endpoint=f"http://127.0.0.1:{other}")) as client,
    ):
        client.send("traces", TRACES)
        client.send("metrics", METRICS)
    assert (len(of_traces.traces), len(of_traces.metrics), len(of_metrics.traces), len(of_metrics.metrics)) == (1, 0, 0, 1)


RETRIED = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}


def test_every_grpc_status_has_the_outcome_of_the_specification() -> None:
    """The retryable codes of the OTLP specification are retried, all others refused, with the code and the server's words."""
    codes = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
    with grpc_receiver(lambda n: Abort(codes[n], "for\na reason")) as (port, _), exporter(port) as client:
        outcomes = {code.name: client.send("traces", TRACES) for code in codes}
    for name, outcome in outcomes.items():
        why = f"{name}: for a reason"
        assert outcome == (Retry(None, why) if name in RETRIED else Refused(why))
    assert set(outcomes) > RETRIED


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
@pytest.mark.parametrize(
    ("details", "after_s"),
    [([retry_info(7, 500_000_000)], 7.5), ([b"\x0a\x03a/b", b"\xff\xff", retry_info(0)], 0.0), ([retry_info(-5)], 0.0)],
)
def test_grpc_retry_info_says_when(code: grpc.StatusCode, details: list[bytes], after_s: float) -> None:
    """A RetryInfo in the status details makes RESOURCE_EXHAUSTED retryable, and says after how long."""
    trailers = (("grpc-status-details-bin", rpc_status(*details)),)
    with grpc_receiver(lambda n: Abort(code, "busy", trailers)) as (port, _), exporter(port) as client:
        assert client.send("traces", TRACES) == Retry(after_s, f"{code.name}: busy")


@pytest.mark.parametrize("details", [b"", b"\xff\xff\xff", rpc_status(), rpc_status(b"\xff"), rpc_status(b"\x0a\x03a/b")])
def test_grpc_exhausted_without_retry_info_is_refused(details: bytes) -> None:
    """Only a RetryInfo makes RESOURCE_EXHAUSTED retryable; garbled details are none."""
    abort = Abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota", (("grpc-status-details-bin", details),))
    with grpc_receiver(lambda n: abort) as (port, _), exporter(port) as client:
        assert client.send("traces", TRACES) == Refused("RESOURCE_EXHAUSTED: quota")


def test_grpc_request_over_the_receivers_limit_is_too_large() -> None:
    """A gRPC server's own refusal of a large message is told from other exhaustion."""
    with grpc_receiver(options=[("grpc.max_receive_message_length", 50)]) as (port, received), exporter(port) as client:
        outcome = client.send("traces", TRACES)
    assert isinstance(outcome, TooLarge)
    assert received.traces == []


def test_grpc_partial_success_is_counted() -> None:
    """Rejected spans and data points come back with the receiver's message; a nonsensical negative count is none."""
    spans = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(rejected_spans=2, error_message="no thanks"))
    negative = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(rejected_spans=-9))
    points = ExportMetricsServiceResponse(partial_success=ExportMetricsPartialSuccess(rejected_data_points=1, error_message="stale"))
    with grpc_receiver(lambda n: (spans, negative, points)[n]) as (port, _), exporter(port) as client:
        assert client.send("traces", TRACES) == Accepted(2, "no thanks")
        assert client.send("traces", TRACES) == Accepted()
        assert client.send("metrics", METRICS) == Accepted(1, "stale")


def test_http_partial_success_is_counted() -> None:
    """The same in an HTTP answer's body."""
    body = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(rejected_spans=2, error_message="no")).SerializeToString()
    with http_receiver(lambda n: Answer(body=body)) as (port, _), exporter(port, "http/protobuf") as client:
        assert client.send("traces", TRACES) == Accepted(2, "no")


STATUSES = [301, 400, 401, 403, 404, 405, 408, 413, 415, 418, 429, 500, 501, 502, 503, 504, 505]


def test_every_http_status_has_the_outcome_of_the_specification() -> None:
    """429, 502, 503 and 504 are retried, 413 is too large, the rest refused; the reason has the receiver's own words."""
    plain = (("Content-Type", "text/plain"),)
    with http_receiver(lambda n: Answer(STATUSES[n], b"because", plain)) as (port, _), exporter(port, "http/protobuf") as client:
        outcomes = {status: client.send("traces", TRACES) for status in STATUSES}
    assert {status for status, outcome in outcomes.items() if isinstance(outcome, Retry)} == {429, 502, 503, 504}
    assert {status for status, outcome in outcomes.items() if isinstance(outcome, TooLarge)} == {413}
    assert all(isinstance(outcome, Refused) for status, outcome in outcomes.items() if status not in {413, 429, 502, 503, 504})
    assert outcomes[400] == Refused("HTTP 400: because")


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7.0, 7.0),
        ("0", 0.0, 0.0),
        ("-3", 0.0, 0.0),
        ("in 3,000 s", 2_000.0, 3_001.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, 0.0),
    ],
)
def test_http_retry_after_says_when(header: str, least: float, most: float) -> None:
    """Retry-After in seconds or as a date; one that lies in the past is now."""
    if header == "in 3,000 s":  # counted from now: the tests may have been collected long ago
        header = email.utils.formatdate(time.time() + 3_000, usegmt=True)
    answer = Answer(503, headers=(("Retry-After", header),))
    with http_receiver(lambda n: answer) as (port, _), exporter(port, "http/protobuf") as client:
        outcome = client.send("traces", TRACES)
    assert isinstance(outcome, Retry)
    assert outcome.after_s is not None
    assert least <= outcome.after_s <= most


@pytest.mark.parametrize("header", ["soon", "inf", "nan", "Wed, 99 Oct 2015 99:28:00 GMT", "1e999"])
def test_http_retry_after_that_means_nothing_is_ignored(header: str) -> None:
    """A Retry-After that is no time leaves the wait to us."""
    answer = Answer(429, headers=(("Retry-After", header),))
    with http_receiver(lambda n: answer) as (port, _), exporter(port, "http/protobuf") as client:
        assert client.send("traces", TRACES) == Retry(None, "HTTP 429: Too Many Requests")


def test_http_error_status_in_protobuf_is_read() -> None:
    """Receivers explain themselves in a google.rpc.Status."""
    answer = Answer(400, rpc_status(message="bad trace id"))
    with http_receiver(lambda n: answer) as (port, _), exporter(port, "http/protobuf") as client:
        assert client.send("traces", TRACES) == Refused("HTTP 400: bad trace id")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(413),
        Answer(400, rpc_status(message="http: request body too large")),
        Answer(400, b"http: request body too large", (("Content-Type", "text/plain"),)),
    ],
)
def test_http_request_over_the_receivers_limit_is_too_large(answer: Answer) -> None:
    """413, and what the Collector says, which is 400 with a remark."""
    with http_receiver(lambda n: answer) as (port, _), exporter(port, "http/protobuf") as client:
        assert isinstance(client.send("traces", TRACES), TooLarge)


def test_http_answer_before_the_body_was_read_is_heard() -> None:
    """A server that says 413 at the headers and hangs up has answered, on a new connection and on a kept one."""
    with talker(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n") as (port, called), exporter(port, "http/protobuf") as client:
        for _ in range(20):
            assert client.send("traces", b"x" * 20_000_000) == TooLarge("HTTP 413: Too Large")
    assert len(called) == 20


def test_http_success_that_is_a_web_page_is_refused() -> None:
    """A web server that answers every POST with a page has not taken the spans."""
    answer = Answer(200, b"<html>hello</html>", (("Content-Type", "text/html; charset=utf-8"),))
    with http_receiver(lambda n: answer) as (port, _), exporter(port, "http/protobuf") as client:
        assert isinstance(client.send("traces", TRACES), Refused)


def test_success_with_a_garbled_answer_is_success_with_a_remark() -> None:
    """The status decides; what could not be read is said."""
    with http_receiver(lambda n: Answer(body=b"\xff\xfegarbage")) as (port, _), exporter(port, "http/protobuf") as client:
        outcome = client.send("traces", TRACES)
    assert isinstance(outcome, Accepted)
    assert outcome.rejected == 0
    assert "garbage" in outcome.message


def test_http_answer_without_end_is_not_read_to_the_end() -> None:
    """Of an endless answer a little is read, and the next request has a connection of its own."""
    answer = Answer(400, b"x" * 1_000_000, (("Content-Type", "text/plain"),))
    with http_receiver(lambda n: answer) as (port, received), exporter(port, "http/protobuf") as client:
        outcomes = [client.send("traces", TRACES) for _ in range(2)]
    assert all(isinstance(outcome, Refused) and len(outcome.why) < 400 for outcome in outcomes)
    assert len(received.connections) == 2


def test_http_connection_is_kept() -> None:
    """Ten requests, one connection."""
    with http_receiver() as (port, received), exporter(port, "http/protobuf") as client:
        assert [client.send("traces", TRACES) for _ in range(10)] == [Accepted()] * 10
    assert len(received.connections) == 1


def test_http_connection_that_the_server_closed_meanwhile_is_opened_again() -> None:
    """A server that drops idle connections is no failure: nothing is lost, and nothing has to wait."""
    with http_receiver(lambda n: Answer(close=True)) as (port, received), exporter(port, "http/protobuf") as client:
        for _ in range(3):
            assert client.send("traces", TRACES) == Accepted()
            time.sleep(0.02)  # for the server's FIN
    assert len(received.traces) == 3


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize(
    "config",
    [
        {"endpoint": "localhost:4317"},
        {"endpoint": "ftp://localhost"},
        {"endpoint": "http://"},
        {"endpoint": "http://[::1"},
        {"endpoint": "http://host:99999"},
        {"endpoint": "http://host/a b"},
        {"endpoint": "http://user:secret@host"},
        {"endpoint": "https://host", "ca_file": "/nonexistent/ca.pem"},
        {"endpoint": "https://host", "ca_file": "/etc/hostname"},
        {"endpoint": "https://host", "client_certificate_file": "/etc/hostname", "client_key_file": "/etc/hostname"},
        {"endpoint": "https://host", "client_certificate_file": "/etc/hostname", "client_key_file": "/nonexistent/key.pem"},
        {"endpoint": "https://host", "client_certificate_file": "/etc/hostname"},
        {"endpoint": "https://host", "client_key_file": "/etc/hostname"},
        {"endpoint": "http://host", "metrics": OtlpSignal(endpoint="host")},
        {"endpoint": "http://host", "traces": OtlpSignal(headers={"bad name": "secret"})},
        {"endpoint": "http://host", "headers": {"bad name": "secret"}},
        {"endpoint": "http://host", "headers": {"x": "secret\r\ninjected: 1"}},
    ],
)
def test_unusable_configuration_is_an_error_before_anything_is_sent(protocol: Any, config: dict[str, Any]) -> None:
    """A wrong endpoint, header or CA file is the user's to mend: said at the start, with a hint, without its secrets."""
    with pytest.raises(UsageError) as caught:
        Exporter(OtlpExport(protocol=protocol, **config))
    assert caught.value.hint
    assert "secret" not in str(caught.value)
