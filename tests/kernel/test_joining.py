"""Which trace a call belongs to: a traceparent among its arguments, the call around it, OBI's request, or a new one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed
from tests.kernel.program import Workload
from tests.kernel.session import Told

pytestmark = pytest.mark.kernel

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALUE = f"00-{TRACE}-{SPAN}-01"
LEAF: dict[str, Any] = {"name": "leaf", "function": "leaf"}


def executing(where: str, **more: Any) -> dict[str, Any]:
    return {"name": "execute", "function": "execute", "traceparent": {"arg": 1, "in": where}, **more}


def run(workload: Workload, otel_usdt: Commands, spans: list[dict[str, Any]], statements: list[str], **target: Any) -> Told:
    """What is told of these statements, each of which calls leaf twice."""
    session = otel_usdt.spans(workload.pid, *spans, target=target)
    workload.run("\n".join([f"statements {len(statements)}", *statements]))
    told = session.stop()
    check_closed(told.ledger)
    return told


def parents(told: Told) -> list[tuple[str, str]]:
    """Trace and parent of each execute, in their order."""
    calls = sorted(told.named("execute"), key=lambda span: int(span["start_time_unix_nano"]))
    return [(span["trace_id"], span["parent_span_id"]) for span in calls]


@pytest.mark.parametrize(
    "statement",
    [
        f"SELECT 1 /*traceparent='{VALUE}'*/",
        f"SELECT 1 /*action='show',traceparent='{VALUE}',tracestate='congo%3Dt61rcWkgMzE'*/",
        f"SELECT 1 /* traceparent={VALUE} */;",
        f'SELECT 1 /*traceparent="{VALUE}"*/',
        f"SELECT 1 /*traceparent=\\'{VALUE}\\'*/",
        f"SELECT 1 /*traceparent=%27{VALUE.replace('-', '%2D')}%27*/",
        f"SELECT 1 /*traceparent='{VALUE.replace('-', '%2d')}'*/",
        f"SELECT 1 /*traceparent='cc{VALUE[2:]}-what-may-come'*/",
        f"/*traceparent='{VALUE}'*/ SELECT {'x' * 5000}",
        f"SELECT '{'x' * 300}' /*a='b',traceparent='{VALUE}'*/",
        f"SELECT '{'x' * 5000}' /*traceparent='{VALUE}'*/",
        f"SELECT '{'x' * 15800}' /*traceparent='{VALUE}'*/",
        f"/* a hint */ SELECT /*traceparent='00-{'9' * 32}-{'9' * 16}-01'*/ 1 /*traceparent='{VALUE}'*/",
    ],
)
def test_a_statement_hangs_under_the_span_that_its_comment_names(workload: Workload, otel_usdt: Commands, statement: str) -> None:
    """Alone or among other keys, quoted and encoded in any way, short or long: the last comment's traceparent is the parent."""
    told = run(workload, otel_usdt, [executing("sqlcommenter"), LEAF], [statement])
    assert parents(told) == [(TRACE, SPAN)]
    (call,) = told.named("execute")
    assert {(span["trace_id"], span["parent_span_id"]) for span in told.named("leaf")} == {(TRACE, call["span_id"])}
    assert told.ledger["execute"]["joined_argument"] == 1
    assert told.ledger["execute"]["bad_traceparent"] == 0


@pytest.mark.parametrize(
    ("statement", "malformed"),
    [
        ("SELECT 1", 0),
        ("SELECT 1 /* no such key */", 0),
        (f"SELECT 'traceparent={VALUE}'", 0),
        (f"SELECT 1 /*xtraceparent='{VALUE}'*/", 0),
        (f"SELECT /*traceparent='{VALUE}'*/ '{'x' * 600}'", 0),
        ("", 0),
        (f"SELECT 1 /*traceparent='{VALUE.upper()}'*/", 1),
        (f"SELECT 1 /*traceparent='ff{VALUE[2:]}'*/", 1),
        (f"SELECT 1 /*traceparent='00-{'0' * 32}-{SPAN}-01'*/", 1),
        (f"SELECT 1 /*traceparent='00-{TRACE}-{'0' * 16}-01'*/", 1),
        (f"SELECT 1 /*traceparent='{VALUE}-more'*/", 1),
        (f"SELECT 1 /*traceparent='{VALUE[:-1]}'*/", 1),
        (f"SELECT 1 /*traceparent='{VALUE[:40]}", 1),
        ("SELECT 1 /*traceparent=", 1),
    ],
)
def test_a_statement_without_a_valid_traceparent_begins_a_trace(
    workload: Workload, otel_usdt: Commands, statement: str, malformed: int
) -> None:
    """Absent is no fault; malformed is counted. Either way the call is a root, with its own calls under it."""
    told = run(workload, otel_usdt, [executing("sqlcommenter"), LEAF], [statement])
    ((trace, parent),) = parents(told)
    assert (trace != TRACE, parent) == (True, "")
    assert {span["trace_id"] for span in told.named("leaf")} == {trace}
    assert told.ledger["execute"]["joined_argument"] == 0
    assert told.ledger["execute"]["bad_traceparent"] == malformed


def test_an_argument_may_be_the_traceparent_itself(workload: Workload, otel_usdt: Commands) -> None:
    """`in: value`, the default: the whole text is the header's value; anything else is malformed, but for nothing at all."""
    told = run(workload, otel_usdt, [executing("value")], [VALUE, "", f" {VALUE}", "nonsense"])
    assert [parent for _, parent in parents(told)] == [SPAN, "", "", ""]
    assert (told.ledger["execute"]["joined_argument"], told.ledger["execute"]["bad_traceparent"]) == (1, 2)


def test_an_unsampled_traceparent_is_honoured_by_all_within(workload: Workload, otel_usdt: Commands) -> None:
    """The caller records nothing of that trace, so neither do we: counted as sampled out, and in the histogram."""
    unsampled = f"00-{TRACE}-{SPAN}-00"
    told = run(workload, otel_usdt, [executing("value"), LEAF], [unsampled, VALUE, unsampled], sample=0)
    assert parents(told) == [(TRACE, SPAN)]
    assert {name: c["sampled_out"] for name, c in told.ledger.items()} == {"execute": 2, "leaf": 4}
    assert told.histograms["execute"]["count"] == 3


def test_a_call_within_another_may_belong_to_another_trace(workload: Workload, otel_usdt: Commands) -> None:
    """An argument goes before the enclosing call; when that call has returned, the outer trace goes on."""
    outer = {"name": "all", "function": "run_statements"}
    told = run(workload, otel_usdt, [outer, executing("value"), LEAF], ["none", VALUE, "none"])
    (whole,) = told.named("all")
    own = (whole["trace_id"], whole["span_id"])
    assert parents(told) == [own, (TRACE, SPAN), own]
    assert sorted(span["trace_id"] == TRACE for span in told.named("leaf")) == [False] * 4 + [True] * 2


def test_what_is_not_in_join_is_not_looked_for(workload: Workload, otel_usdt: Commands) -> None:
    """Without `argument` the comment means nothing, without `enclosing` each call is a root, without `new` a root is no span."""
    told = run(workload, otel_usdt, [executing("value"), LEAF], [VALUE], join=["new"])
    assert {span["parent_span_id"] for span in told.spans} == {""}
    assert len({span["trace_id"] for span in told.spans}) == 3


def test_without_new_only_what_joins_a_trace_is_recorded(workload: Workload, otel_usdt: Commands) -> None:
    """Calls that belong nowhere are counted, and make no spans."""
    told = run(workload, otel_usdt, [executing("value"), LEAF], ["none", VALUE], join=["enclosing", "argument"])
    assert {span["trace_id"] for span in told.spans} == {TRACE}
    assert {name: (c["recorded"], c["sampled_out"]) for name, c in told.ledger.items()} == {"execute": (1, 1), "leaf": (2, 2)}


def test_a_call_that_makes_no_span_is_nobodys_parent(workload: Workload, otel_usdt: Commands) -> None:
    """Within a call that is only measured, spans hang under the next call around it that makes some, or begin a trace."""
    spans = [{"name": "outer", "function": "outer"}, {"name": "middle", "function": "middle", "mode": "histogram"}, LEAF]
    session = otel_usdt.spans(workload.pid, *spans)
    workload.run("outer 7")
    told = session.stop()
    check_closed({name: c for name, c in told.ledger.items() if name != "middle"})
    roots = {span["span_id"]: span["trace_id"] for span in told.named("outer")}
    assert len(told.named("leaf")) == 28
    assert all(roots[span["parent_span_id"]] == span["trace_id"] for span in told.named("leaf"))
