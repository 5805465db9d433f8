"""The session's pipeline, whichever process that is: when one is killed another takes over. Standard library only.

Probes stay attached meanwhile, and the rings hold what comes. What one pipeline leaves to the next is carried.py's business.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from otel_usdt.channel import Channel
from otel_usdt.children import say, start_pipeline

FLUSH_GRACE_S = 15.0  # for the pipeline to drain, export and exit once all is detached
CLOSING_S = 1.0  # between the end of its channel and of itself; one that lives on would read the rings beside its successor
WINDOW_S = 60.0
DELAYS_S = (0.0, 0.25, 0.5, 1.0, 2.0)  # before each successor within the window; there is no sixth: it would end as those did
OWN_ENDS = range(6)  # the exit codes of a pipeline that has ended by itself, with an error that another would meet too; 1 is Python's


def delay_s(ends: Sequence[float], now: float) -> float | None:
    """How long to wait with a successor after pipelines have ended at these times, the last one now; None: there is to be none."""
    recent = sum(at > now - WINDOW_S for at in ends)
    return DELAYS_S[recent - 1] if recent <= len(DELAYS_S) else None


def told(status: int) -> str:
    """How a process ended, by its return code: a signal's name, or the exit status."""
    try:
        return f"status {status}" if status >= 0 else signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


class Pipeline:
    """One process and our end of its channel, at a time."""

    def __init__(self, user: str) -> None:
        self._user = user
        self._process, self._pipe = start_pipeline(user)
        self._hand_over: Callable[[Channel], None] | None = None
        self._attached: dict[str, Any] = {}
        self._ends: list[float] = []
        self.starts_at: float | None = None  # monotonic: there is none now, and the next one is to start then

    @property
    def pipe(self) -> Channel:
        """To the process that there is, or was."""
        return self._pipe

    @property
    def exit_code(self) -> int:
        """Of the last one; its errors have the same codes as ours."""
        return self._process.returncode if self._process.returncode in OWN_ENDS else 1

    def hand(self, hand_over: Callable[[Channel], None]) -> None:
        """Give it what it works with: to this one by `hand_over`, and to each that follows."""
        self._hand_over = hand_over
        hand_over(self._pipe)

    def attached(self, sites: int) -> None:
        """All probes are on."""
        self._attached = {"attached": sites, "at_s": time.monotonic()}
        self._pipe.send(self._attached)

    def ended(self) -> bool:
        """It has closed its end of the channel; is another to follow?"""
        self._pipe.close()
        try:
            self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._follows(told(self._process.wait()))

    def start_when_due(self) -> bool:
        """The next one, when it is time. False when it cannot be, and there is to be none."""
        if self.starts_at is None or time.monotonic() < self.starts_at or self._hand_over is None:
            return True
        self.starts_at = None
        try:
            self._process, self._pipe = start_pipeline(self._user)
        except (OSError, subprocess.SubprocessError) as error:  # no memory, no process to be had
            return self._follows(str(error))
        self._hand_over(self._pipe)
        if self._attached:
            self._pipe.send(self._attached)
        return True

    def finish(self, reason: str | None = None) -> None:
        """All is detached, for this reason: let it flush and exit, for which this end closes. One killed meanwhile has a successor too."""
        until = time.monotonic() + FLUSH_GRACE_S
        while self.starts_at is not None or self._process.returncode is None:
            if self.starts_at is not None:
                self.starts_at = 0.0  # the rings are full enough
                self.start_when_due()
                continue
            if reason:
                self._pipe.send({"detached": reason})
            self._pipe.close()
            try:
                self._process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                say(f"the pipeline did not finish within {FLUSH_GRACE_S:g} s of the detach and is killed; what it still held is lost")
                self._process.kill()
                self._process.wait()
                return
            self._follows(told(self._process.returncode))

    def _follows(self, how: str) -> bool:
        status = self._process.returncode
        if self._hand_over is None or (status in OWN_ENDS and status != 1):
            return False
        now = time.monotonic()
        self._ends.append(now)
        delay = delay_s(self._ends, now)
        if delay is None:
            say(f"the pipeline ended ({how}), as {len(DELAYS_S)} before it within {WINDOW_S:g} s: there is no other")
            return False
        say(f"the pipeline ended ({how}); another takes over" + (f" in {delay:g} s" if delay else ""))
        self.starts_at = now + delay
        return True
