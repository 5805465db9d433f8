"""The supervisor's children: how they start, and with which rights. Standard library only, quick to import."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from otel_usdt import channel, errors, rights
from otel_usdt.errors import OtelUsdtError

if TYPE_CHECKING:
    from otel_usdt.plan import Plan

UNPRIVILEGED = "nobody"


def say(line: str) -> None:
    """For the operator, on standard error."""
    print(f"otel-usdt: {line}", file=sys.stderr, flush=True)


def start_pipeline(user: str) -> tuple[subprocess.Popen[bytes], channel.Channel]:
    """The pipeline, warming up while the plan is made; it inherits standard output, where lines for the console go."""
    ours, theirs = channel.pair()
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "otel_usdt.pipeline", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            cwd="/",
            # numpy's own threads would start before the rights are dropped, and keep them; malloc's arenas are a megabyte a thread.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
            start_new_session=True,  # a terminal's ^C is for the supervisor, which detaches first
            preexec_fn=rights.as_user(user, rights.PIPELINE_START),
        )
    return child, ours


def start_planner(config: str, source: str, *options: str) -> Callable[[], Plan]:
    """The planner child; call the result to wait for its plan. It gets the configuration as text and may attach nothing."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "otel_usdt.planner", source, str(Path.cwd()), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        # Start-up time: no look for pydantic's plugins among all installed packages, no threads for numpy's algebra.
        env={**os.environ, "PYDANTIC_DISABLE_PLUGINS": "__all__", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,  # a terminal's ^C is for the supervisor, which ends in good order
        # Not as root, it has no rights to give up, and sees what its user sees.
        preexec_fn=rights.as_user(UNPRIVILEGED, rights.PLANNER) if os.geteuid() == 0 else None,
    )

    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError), child.stdin as pipe:  # at once: it plans while we load
        pipe.write(config.encode())

    def wait() -> Plan:
        from otel_usdt.plan import Plan  # here, so that the planner starts before this process has imported it

        assert child.stdout is not None
        with child.stdout as answer:
            made = answer.read()
        child.wait()
        try:
            told = json.loads(made)
        except ValueError as error:
            raise OtelUsdtError(
                f"the planner ended without a plan (status {child.returncode})", hint="report this, with the configuration"
            ) from error
        if "error" in told:
            raise errors.from_dict(told)
        return Plan.from_dict(told)

    return wait
