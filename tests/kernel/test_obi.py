"""Calls join the requests that OBI sees: while its map is there, whatever it is, and however often it comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed
from tests.kernel.obi import Obi, bpffs
from tests.kernel.program import Workload
from tests.kernel.session import Session, wait_until

pytestmark = pytest.mark.kernel

TRACE, SERVER, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
OTHER = "4bf92f3577b34da6a3ce929d0e0e4736"
LEAF: dict[str, Any] = {"name": "leaf", "function": "leaf"}
OUTER, REQUEST = ({"name": name, "function": name} for name in ("outer", "request"))


@pytest.fixture
def obi(tmp_path: Path) -> Iterator[Obi]:
    """A bpffs for OBI's map, which is not there yet."""
    with bpffs(tmp_path / "bpf") as played:
        yield played


def attached(otel_usdt: Commands, workload: Workload, obi: Obi, *spans: dict[str, Any], **target: Any) -> Session:
    return otel_usdt.spans(workload.pid, *spans, target=target, obi={"bpf_fs_path": str(obi.folder)})


def says(session: Session, what: str, times: int = 1) -> None:
    """Returns when the command has said so."""
    wait_until(lambda: "".join(session.err).count(what) >= times, what)


JOIN, GONE = "calls join the requests that OBI sees", "is gone: calls join no request"


def test_calls_hang_under_the_request_that_the_thread_serves(workload: Workload, otel_usdt: Commands, obi: Obi) -> None:
    """A root takes OBI's trace and span, and its own calls follow it; the parent is remote, and no doubt is cast on it."""
    obi.start()
    session = attached(otel_usdt, workload, obi, OUTER, LEAF)
    says(session, JOIN)
    obi.serves(workload.pid, TRACE, SERVER)
    workload.run("outer 5")
    obi.done(workload.pid)
    workload.run("outer 3")
    told = session.stop()
    check_closed(told.ledger)
    joined = [span for span in told.spans if span["trace_id"] == TRACE]
    assert len(joined) == 5 * 5
    roots = {span["span_id"] for span in told.named("outer")}
    assert [span["parent_span_id"] for span in joined if span["name"] == "outer"] == [SERVER] * 5
    assert {span["parent_span_id"] for span in told.named("leaf")} == roots
    assert told.ledger["outer"]["joined_obi"] == 5
    assert not any(span["links"] or "otel_usdt.parent" in span["attributes"] for span in told.spans)


def test_obi_may_come_go_and_come_again(workload: Workload, otel_usdt: Commands, obi: Obi) -> None:
    """Each is said once; while the map is away calls begin traces of their own, and the old map's entries mean nothing."""
    session = attached(otel_usdt, workload, obi, LEAF)
    workload.run("leaf 3")
    for times in (1, 2):
        obi.start()
        obi.serves(workload.pid, TRACE, SERVER)
        says(session, JOIN, times)
        workload.run("leaf 7")
        obi.stop()
        says(session, GONE, times)
        workload.run("leaf 2")
    told = session.stop()
    check_closed(told.ledger)
    assert [span["trace_id"] == TRACE for span in sorted(told.spans, key=lambda span: int(span["start_time_unix_nano"]))] == (
        [False] * 3 + [True] * 7 + [False] * 2 + [True] * 7 + [False] * 2
    )
    assert (told.stderr.count(JOIN), told.stderr.count(GONE)) == (2, 2)


def test_a_map_that_is_not_obis_is_left_alone(workload: Workload, otel_usdt: Commands, obi: Obi) -> None:
    """Another shape under that name is told, with its sizes, and nothing is read from it."""
    obi.start(value_bytes=32)
    session = attached(otel_usdt, workload, obi, LEAF)
    says(session, "is not OBI's map (it has type 9, 8 bytes of key and 32 of value)")
    workload.run("leaf 5")
    obi.stop()
    obi.start()
    says(session, JOIN)
    told = session.stop()
    assert told.ledger["leaf"]["joined_obi"] == 0
    assert len({span["trace_id"] for span in told.spans}) == 5


def test_the_map_is_never_made(workload: Workload, otel_usdt: Commands, obi: Obi) -> None:
    """Where OBI is not, nothing is pinned in its name, and nothing is said."""
    session = attached(otel_usdt, workload, obi, LEAF)
    workload.run("leaf 5")
    told = session.stop()
    assert not (obi.folder / "otel").exists()
    assert "OBI" not in told.stderr


def test_a_request_that_ends_within_a_call_makes_its_parent_uncertain(workload: Workload, otel_usdt: Commands, obi: Obi) -> None:
    """OBI names another trace, or none, when the call returns: the span says so."""
    obi.start()
    session = attached(otel_usdt, workload, obi, REQUEST, LEAF)
    says(session, JOIN)
    for after in (None, OTHER):
        obi.serves(workload.pid, TRACE, SERVER)
        workload.run("request")
        if after:
            obi.serves(workload.pid, after, SERVER)
        else:
            obi.done(workload.pid)
        workload.run("\n")
    told = session.stop()
    check_closed(told.ledger)
    assert [(span["trace_id"], span["attributes"]["otel_usdt.parent"]) for span in told.named("request")] == [(TRACE, "uncertain")] * 2
    assert not any("otel_usdt.parent" in span["attributes"] for span in told.named("leaf"))


def test_the_first_span_of_a_request_stays_the_parent(workload: Workload, otel_usdt: Commands, obi: Obi) -> None:
    """After an outgoing call OBI's entry names the client span until the request ends: calls link to that one, under the server's."""
    obi.start()
    session = attached(otel_usdt, workload, obi, REQUEST, LEAF)
    says(session, JOIN)
    obi.serves(workload.pid, TRACE, SERVER)
    workload.run("request")
    obi.serves(workload.pid, TRACE, CLIENT)
    workload.run("\n")
    workload.run("leaf 1")
    obi.serves(workload.pid, OTHER, CLIENT)
    workload.run("leaf 1")
    told = session.stop()
    check_closed(told.ledger)
    during, after = told.named("request")[0], [span for span in told.named("leaf") if span["parent_span_id"] in (SERVER, CLIENT)]
    link = [{"trace_id": TRACE, "span_id": CLIENT}]
    assert (during["parent_span_id"], during["links"]) == (SERVER, link)
    assert "otel_usdt.parent" not in during["attributes"]
    assert [(span["trace_id"], span["parent_span_id"], span["links"]) for span in after] == [(TRACE, SERVER, link), (OTHER, CLIENT, [])]


def test_obis_sampler_of_the_same_ratio_keeps_the_same_traces(workload: Workload, otel_usdt: Commands, obi: Obi) -> None:
    """By the trace id alone, as the SDKs' TraceIdRatioBased does: each of 64 requests has all its calls or none."""
    obi.start()
    session = attached(otel_usdt, workload, obi, LEAF, sample="30%")
    says(session, JOIN)
    requests = [f"{TRACE[:16]}{i << 58 | i << 26:016x}" for i in range(64)]
    for trace in requests:
        obi.serves(workload.pid, trace, SERVER)
        workload.run("leaf 3")
    told = session.stop()
    check_closed(told.ledger)
    sampler = TraceIdRatioBased(0.3)
    kept = [trace for trace in requests if sampler.should_sample(None, int(trace, 16), "leaf").decision is not Decision.DROP]
    assert 0 < len(kept) < 64
    assert sorted(span["trace_id"] for span in told.spans) == sorted(3 * kept)


def test_without_obi_in_join_its_map_is_not_looked_at(workload: Workload, otel_usdt: Commands, obi: Obi) -> None:
    """`join: [enclosing, new]` leaves OBI out."""
    obi.start()
    obi.serves(workload.pid, TRACE, SERVER)
    session = attached(otel_usdt, workload, obi, LEAF, join=["enclosing", "new"])
    workload.run("leaf 5")
    told = session.stop()
    assert TRACE not in {span["trace_id"] for span in told.spans}
    assert "OBI" not in told.stderr
