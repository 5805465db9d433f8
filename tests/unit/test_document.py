"""What trace, count and hist make of their command line: a configuration that the planner reads like any other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from otel_usdt.cli.session import document
from otel_usdt.config import load_config
from otel_usdt.errors import UsageError


def made(*probes: str, **how: Any) -> dict[str, Any]:
    """The document of `trace -p 7 PROBES`."""
    options = {"pid": 7, "binary": None, "scope": None, "seconds": None, "interval": None, "most": 50}
    return document(probes, mode="spans", view="spans", **{**options, **how})


def test_probe_that_is_named_twice_is_one() -> None:
    """The same probe again asks for nothing more."""
    assert [span["function"] for span in made("func:a", "func:b", "func:a")["targets"][0]["spans"]] == ["func:a", "func:b"]


@pytest.mark.parametrize(("option", "argument"), [("--for", "seconds"), ("--interval", "interval")])
def test_fault_of_a_duration_names_its_option(option: str, argument: str) -> None:
    """Not a place in a document that the user has never seen."""
    with pytest.raises(UsageError, match=f"{option}: '1x' is no duration") as caught:
        made("func:a", **{argument: "1x"})
    assert option in caught.value.hint


def test_document_is_a_configuration() -> None:
    """Every kind of probe, with all options, passes the configuration's own checks."""
    probes = ("func:a", "usdt:p:b", "usdt:p:c__start ~~ usdt:p:c__done", "libx.so:addr:0x10")
    config = load_config(json.dumps(made(*probes, scope="tree", seconds="30s", interval="1s", most=9)), "-", {})
    (target,) = config.targets
    assert (target.select.pid, target.scope, len(target.spans)) == (7, "tree", 4)
    assert (config.lease.ttl_s, config.limits.max_probes) == (30.0, 9)


def test_process_or_file_is_wanted() -> None:
    """Neither, both, or a file with a scope that it cannot have: said at once."""
    for how in ({"pid": None}, {"binary": "/bin/true"}, {"pid": None, "binary": "/bin/true", "scope": "pid"}):
        with pytest.raises(UsageError):
            made("func:a", **how)
