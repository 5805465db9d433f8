"""Spans as the servers tell them by their query APIs, in the same words as the command's own `--json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode

from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from tests.peers.servers import Server, get, get_json


@dataclass(frozen=True, slots=True, order=True)
class Seen:
    """A span. Ids in hex, no parent: ""; times in the unit that the server tells."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    service: str
    start: int
    duration: int


def expected(spans: Iterable[dict[str, Any]], service: str, unit: int) -> list[Seen]:
    """The command's own spans, as a server should tell them."""
    return sorted(
        Seen(
            span["trace_id"],
            span["span_id"],
            span["parent_span_id"] or "",
            span["name"],
            service,
            span["start_time_unix_nano"] // unit,
            (span["end_time_unix_nano"] - span["start_time_unix_nano"]) // unit,
        )
        for span in spans
    )


JAEGER_UNIT = 1000  # its API tells microseconds


def jaeger_traces(server: Server, service: str, **how: str) -> list[dict[str, Any]]:
    """Every trace of the service, as Jaeger's API has them. raw="true": as they are stored, before Jaeger mends anything."""
    told = get_json(server.url("query", f"/api/traces?{urlencode({'service': service, 'limit': 100000, **how})}"))
    assert not told["errors"], told["errors"]
    found: list[dict[str, Any]] = told["data"] or []
    return found


def jaeger_spans(traces: Iterable[dict[str, Any]]) -> list[Seen]:
    """The spans of these traces."""
    return sorted(_of_jaeger(span) for trace in traces for span in _with_process(trace))


def _with_process(trace: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for span in trace["spans"]:
        yield {**span, "service": trace["processes"][span["processID"]]["serviceName"]}


def _of_jaeger(span: dict[str, Any]) -> Seen:
    parents = [one for one in span["references"] if one["refType"] == "CHILD_OF"]
    assert len(parents) < 2
    assert all(one["traceID"] == span["traceID"] for one in parents)
    parent = parents[0]["spanID"] if parents else ""
    return Seen(span["traceID"], span["spanID"], parent, span["operationName"], span["service"], span["startTime"], span["duration"])


def notes(traces: Iterable[dict[str, Any]]) -> list[str]:
    """What Jaeger's pages show as warnings: of spans whose parent is not there, and of any that outlives its parent."""
    found = []
    for trace in traces:
        found += [str(one) for one in trace.get("warnings") or []]
        for span in trace["spans"]:
            found += [str(one) for one in span.get("warnings") or []]
    return found


def jaeger_warnings(server: Server, service: str) -> list[list[str]]:
    """The warnings of each span of the service by Jaeger's API v3, which compares host.id before it doubts a clock."""
    span_of_time = {"query.start_time_min": "2000-01-01T00:00:00Z", "query.start_time_max": "2100-01-01T00:00:00Z"}
    query = urlencode({"query.service_name": service, "query.num_traces": 100000, **span_of_time})
    told = get_json(server.url("query", f"/api/v3/traces?{query}"))["result"]
    spans = [span for resource in told["resourceSpans"] for scope in resource["scopeSpans"] for span in scope["spans"]]
    return [[str(one["value"]) for one in span.get("attributes", ()) if one["key"] == "@jaeger@warnings"] for span in spans]


TEMPO_UNIT = 1


def tempo_spans(server: Server, trace_ids: Iterable[str]) -> list[Seen]:
    """The spans of these traces; a trace that Tempo has not (yet) has none."""
    found: list[Seen] = []
    for trace_id in trace_ids:
        try:
            body = get(server.url("query", f"/api/traces/{trace_id}"), accept="application/protobuf")
        except HTTPError as answer:
            answer.close()
            if answer.code == 404:
                continue
            raise
        found += _of_tempo(TracesData.FromString(body))  # its own message is the same on the wire
    return sorted(found)


def _of_tempo(traces: TracesData) -> Iterator[Seen]:
    for of_resource in traces.resource_spans:
        (service,) = [one.value.string_value for one in of_resource.resource.attributes if one.key == "service.name"]
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                start, end = span.start_time_unix_nano, span.end_time_unix_nano
                yield Seen(span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.name, service, start, end - start)


def prometheus_values(server: Server, query: str, label: str) -> dict[str, float]:
    """The present value of each series that the query finds, by one of its labels, which must tell them apart."""
    told = get_json(server.url("query", f"/api/v1/query?{urlencode({'query': query})}"))
    found = [(one["metric"][label], float(one["value"][1])) for one in told["data"]["result"]]
    assert len(dict(found)) == len(found), f"{label} does not tell apart {told}"
    return dict(found)


def exemplar_traces(server: Server, query: str, since: float, until: float) -> set[str]:
    """Trace ids of the exemplars that Prometheus has kept for these series, between two Unix times."""
    told = get_json(server.url("query", f"/api/v1/query_exemplars?{urlencode({'query': query, 'start': since, 'end': until})}"))
    return {exemplar["labels"]["trace_id"] for series in told["data"] for exemplar in series["exemplars"]}
