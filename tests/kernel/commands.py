"""otel-usdt commands as the tests start them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kernel import session as sessions
from tests.kernel.session import Session


@dataclass(frozen=True, slots=True)
class Commands:
    """Starts otel-usdt commands; each returns when it is attached."""

    stack: ExitStack
    folder: Path

    def start(self, *arguments: str | int | Path, **how: Any) -> Session:
        """Any command, without waiting for its attach."""
        return self.stack.enter_context(sessions.start(*arguments, **how))

    def attached(self, *arguments: str | int | Path, **how: Any) -> Session:
        session = self.start(*arguments, **how)
        session.wait_attached()
        return session

    def trace(self, pid: int, *probes: str, scope: str = "pid") -> Session:
        return self.attached("trace", "-p", pid, "--scope", scope, "--json", *probes)

    def count(self, pid: int, *probes: str, scope: str = "pid") -> Session:
        return self.attached("count", "-p", pid, "--scope", scope, "--json", *probes)

    def hist(self, pid: int, *probes: str, scope: str = "pid") -> Session:
        return self.attached("hist", "-p", pid, "--scope", scope, "--json", *probes)

    def write(self, document: dict[str, Any]) -> Path:
        """A configuration file (JSON is YAML)."""
        path = self.folder / f"config{len(list(self.folder.glob('config*')))}.yaml"
        path.write_text(json.dumps(document))
        return path

    def run(self, document: dict[str, Any], **how: Any) -> Session:
        """`otel-usdt run` with a configuration whose way out is the console, unless it names another."""
        return self.attached("run", self.write({"export": {"console": {"view": "all"}}, **document}), **how)

    def spans(self, pid: int, *spans: dict[str, Any], scope: str = "pid", **document: Any) -> Session:
        """`run` with one target."""
        return self.run(
            {"targets": [{"select": {"pid": pid}, "scope": scope, "spans": list(spans), **document.pop("target", {})}], **document}
        )
