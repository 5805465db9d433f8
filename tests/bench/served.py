"""The same start by a running server: from `otel-usdt attach FILE` to the first span in the session's file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kernel.session import MARK, start, wait_until

OTEL_USDT = str(Path(sys.executable).with_name("otel-usdt"))  # the console script, as it is installed
WARM_S = 4.0  # until the next session stands by, on two cores


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs."""

    folder: Path

    def _tell(self, *arguments: str) -> str:
        environment = {**os.environ, **MARK, "OTEL_USDT_SOCKET": str(self.folder / "socket")}
        return subprocess.run(
            [OTEL_USDT, *arguments], env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ).stdout

    def first_span_s(self, targets: list[dict[str, Any]]) -> float:
        """Seconds, for a session with these targets; it is detached afterwards."""
        time.sleep(WARM_S)
        config, spans = self.folder / "attached.yaml", self.folder / "spans.jsonl"
        spans.unlink(missing_ok=True)
        config.write_text(json.dumps({"targets": targets, "export": {"file": {"path": str(spans)}}}))
        began = time.perf_counter()
        told = self._tell("attach", str(config))
        wait_until(lambda: spans.stat().st_size > 0, "a span in the file")
        took = time.perf_counter() - began
        self._tell("detach", told.split()[1].rstrip(":"))
        return took


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Starts one."""
    with start("serve", "--socket", folder / "socket") as process:
        wait_until(lambda: any("serving" in line for line in list(process.err)), "the server")
        yield Served(folder)
