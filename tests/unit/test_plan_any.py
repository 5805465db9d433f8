"""Any JSON in place of a plan, or of a value in one: wrong types are refused by their place, and nothing else fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_usdt.errors import UsageError
from otel_usdt.layout import layout_of
from otel_usdt.plan import Plan
from otel_usdt.probes.rows import SITE_BYTES, site_row
from tests.unit.goodplan import BASE, changed, refused


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("targets", {}, "plan.targets: a list is wanted"),
        ("targets.0", [], "plan.targets[0]: an object is wanted"),
        ("targets.0.name", 7, "plan.targets[0].name: 7 is no str"),
        ("targets.0.scope", "cgroup", "plan.targets[0].scope: 'cgroup' is none of pid, tree, binary"),
        ("targets.0.scope", [], "plan.targets[0].scope: [] is none of"),
        ("targets.0.pids", [True], "plan.targets[0].pids[0]: True is no int"),
        ("targets.0.pids", ["7"], "plan.targets[0].pids[0]: '7' is no int"),
        ("targets.0.sample", "1", "plan.targets[0].sample: '1' is no float"),
        ("targets.0.sample", True, "plan.targets[0].sample: True is no float"),
        ("targets.0.resource", [], "plan.targets[0].resource: an object is wanted"),
        ("targets.0.resource", {"a": 1.5}, "plan.targets[0].resource.a: 1.5 does not fit"),
        ("spans.0.error", "x", "plan.spans[0].error: 'x' does not fit"),
        ("spans.0.attributes.0.string", 1, "plan.spans[0].attributes[0].string: 1 is no bool"),
        ("sites.0.uretprobe", None, "plan.sites[0].uretprobe: None is no bool"),
        ("sites.0.file_offset", 1.0, "plan.sites[0].file_offset: 1.0 is no int"),
        ("sites.0.role", None, "plan.sites[0].role: None is none of"),
        ("sites.0.colour", 1, "plan.sites[0]: unknown 'colour'"),
        ("more", 1, "plan: unknown 'more'"),
        ("export.otlp", {"endpoint": 1}, "plan.export.otlp: {'endpoint': 1} does not fit"),
    ],
)
def test_wrong_types_and_unknown_keys_are_refused_by_their_place(path: str, value: Any, message: str) -> None:
    """The message has the path to the fault, and the value."""
    assert message in refused(changed(path, value))


@pytest.mark.parametrize("key", ["targets", "binaries", "spans", "sites"])
def test_a_missing_key_is_refused(key: str) -> None:
    """What has no default must be there; the message names it."""
    told = BASE.to_dict()
    del told[key]
    assert key in refused(told)


def test_a_huge_value_makes_no_huge_message() -> None:
    """What a hostile planner sends does not fill the operator's terminal, nor does a number that Python will not print raise."""
    for value in ("x" * 100_000, 10**5000, list(range(100_000))):
        assert len(refused(changed("targets.0.scope", value))) < 500
        assert len(refused(changed("sites.0.uretprobe", value))) < 500
        assert len(refused(changed("spans.0.error", value))) < 500


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**400) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(anything)
def test_any_json_is_a_plan_or_a_usage_error(told: Any) -> None:
    """Nothing that JSON can say makes the supervisor fail in another way."""
    try:
        Plan.from_dict(told)
    except UsageError:
        return


def paths(told: Any, here: str = "") -> list[str]:
    """Every place in a JSON value."""
    steps = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    return (
        [here, *(path for step, inner in steps for path in paths(inner, f"{here}.{step}".lstrip(".")))]
        if here
        else [path for step, inner in steps for path in paths(inner, str(step))]
    )


PLACES = [path for path in paths(json.loads(json.dumps(BASE.to_dict()))) if "service.name" not in path and "process.pid" not in path]


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(PLACES), anything)
def test_any_json_in_any_place_is_refused_or_can_be_attached(path: str, value: Any) -> None:
    """A plan with one value replaced by anything is refused as a whole, or every row of it can be made."""
    try:
        made = Plan.from_dict(changed(path, value))
    except UsageError:
        return
    for site in made.sites:
        assert len(site_row(made, site, layout_of(made.spans), 1)) == SITE_BYTES
