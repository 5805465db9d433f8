"""The supervisor's children: how they start, and with which rights. Standard library only, quick to import."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from otel_usdt import channel, errors, rights
from otel_usdt.errors import OtelUsdtError

if TYPE_CHECKING:
    from otel_usdt.plan import Plan

UNPRIVILEGED = "nobody"
SESSION = "OTEL_USDT_SESSION"  # in the environment of a session's processes: its name among those of one server


def say(line: str) -> None:
    """For the operator, on standard error; of a server's sessions each line says whose it is."""
    session = os.environ.get(SESSION)
    print(f"otel-usdt[{session}]: {line}" if session else f"otel-usdt: {line}", file=sys.stderr, flush=True)


def start_with_channel(module: str, **how: Any) -> tuple[subprocess.Popen[bytes], channel.Channel]:
    """A Python that runs `module`, whose argument is its end of a channel; `how` is subprocess.Popen's. Our end is returned."""
    ours, theirs = channel.pair()
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # a terminal's ^C is for us, who end in good order
            **how,
        )
    return child, ours


def start_pipeline(user: str) -> tuple[subprocess.Popen[bytes], channel.Channel]:
    """The pipeline, warming up while the plan is made; it inherits standard output, where lines for the console go."""
    return start_with_channel(
        "otel_usdt.pipeline",
        cwd="/",
        # numpy's own threads would start before the rights are dropped, and keep them; malloc's arenas are a megabyte a thread.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        preexec_fn=rights.as_user(user, rights.PIPELINE_START),
    )


class Planner:
    """The planner child. It is asked once, ends with its answer, which `dismiss` awaits, and may attach nothing."""

    def __init__(self, *options: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "otel_usdt.planner", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            # Start-up time: no look for pydantic's plugins among all installed packages, no threads for numpy's algebra.
            env={**os.environ, "PYDANTIC_DISABLE_PLUGINS": "__all__", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # a terminal's ^C is for the supervisor, which ends in good order
            # Not as root, it has no rights to give up, and sees what its user sees.
            preexec_fn=rights.as_user(UNPRIVILEGED, rights.PLANNER) if os.geteuid() == 0 else None,
        )

    def ask(self, request: bytes) -> None:
        """Hand it its request; it plans while we go on."""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._child.stdin as pipe:
            pipe.write(request)

    def plan(self) -> Plan:
        """Wait for its plan, or raise the error that it has found."""
        import otel_usdt.plan_check  # noqa: F401  here, so that the planner starts before this process has imported it
        from otel_usdt.plan import Plan

        assert self._child.stdout is not None
        with self._child.stdout as answer:
            made = answer.read()
        try:
            told = json.loads(made)
        except ValueError as error:
            raise OtelUsdtError(
                f"the planner ended without a plan (status {self._child.wait()})", hint="report this, with the configuration"
            ) from error
        if "error" in told:
            raise errors.from_dict(told)
        return Plan.from_dict(told)

    def dismiss(self) -> None:
        """It has no more to do, or never had: wait for its end, which takes some milliseconds."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()
