"""The planner's process: a configuration in, a plan or an error out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from otel_usdt.errors import ConfigError, ProbeNotFound
from otel_usdt.plan import Plan
from otel_usdt.planner import main as planner
from tests.unit.planning.configured import of
from tests.unit.planning.sources import Programs


def answer(text: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    class Stdin:
        @staticmethod
        def read() -> str:
            return json.dumps({"text": text, "source": "test.yaml", "folder": str(folder), "environment": {}})

    monkeypatch.setattr("sys.stdin", Stdin)
    assert planner([]) == 0
    return json.loads(capfd.readouterr().out)


def test_the_planner_answers_with_a_plan(programs: Programs, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON on standard output that Plan.from_dict takes; a relative path starts at the folder that it was told."""
    told = answer(json.dumps({"targets": [of(Path(programs.c.name), {"function": "work"})]}), programs.c.parent, capfd, monkeypatch)
    plan = Plan.from_dict(told)
    assert plan.binaries[0].path == str(programs.c)


def test_the_planner_answers_with_an_error(programs: Programs, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kind, message, hint and exit code, as the supervisor raises them again."""
    told = answer("targets: 7", Path("/"), capfd, monkeypatch)
    assert (told["error"], told["exit_code"]) == (ConfigError.__name__, 2)
    told = answer(json.dumps({"targets": [of(programs.c, {"function": "works"})]}), Path("/"), capfd, monkeypatch)
    assert (told["error"], told["exit_code"]) == (ProbeNotFound.__name__, 4)
    assert "near: work" in told["message"]
