"""When the next request of one signal may go: as many at a time as wanted while the receiver takes them, one while it is away.

No threads, no clock: otlp/queue.py has those.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from otel_usdt.otlp.outcome import Outcome, Retry

_ASKED_LIMIT_S = 300.0  # a receiver may ask for more patience than our own backoff has, but not for silence


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds between attempts: doubled from `first_s` up to `most_s`, each shortened at random by up to half.

    The randomness spreads the sidecars of a cluster, which all lose the same collector at the same moment.
    """

    first_s: float = 1.0
    most_s: float = 30.0

    def delay_s(self, failures: int, asked_s: float | None) -> float:
        """How long to wait after the `failures`th failure in a row, counted from 1; not less than the receiver asked for, up to 300 s."""
        if asked_s is not None:
            return max(min(asked_s, _ASKED_LIMIT_S), self.first_s) * random.uniform(1.0, 1.1)
        return float(min(self.most_s, self.first_s * 2 ** min(failures - 1, 32)) * random.uniform(0.5, 1.0))


@dataclass(slots=True)
class Lane:
    """Attempts of one signal, told apart by the turn in which they began.

    A turn ends when the receiver goes away, fails again or comes back. What was under way then has its outcome of an earlier time: of
    several requests that one outage fails, the first is the failure and the others are none.
    """

    backoff: Backoff
    away: bool = False
    failures: int = 0  # in a row
    not_before: float = 0.0  # monotonic time of the next attempt
    turn: int = 0
    under_way: int = 0  # attempts of this turn

    def opens_at(self) -> float | None:
        """When the next attempt may begin; None while the receiver is away and one attempt is under way to find out."""
        return None if self.away and self.under_way else self.not_before

    def begin(self) -> int:
        """An attempt begins; its turn, for `end`."""
        self.under_way += 1
        return self.turn

    def end(self, turn: int, outcome: Outcome | None, now: float) -> None:
        """An attempt of that turn has ended; None: there was nothing to send after all."""
        asked_s = outcome.after_s if isinstance(outcome, Retry) else None
        if turn != self.turn:
            if asked_s is not None:  # that wish holds all the same
                self.not_before = max(self.not_before, now + self.backoff.delay_s(1, asked_s))
        elif isinstance(outcome, Retry):
            self.failures += 1
            self.not_before = now + self.backoff.delay_s(self.failures, asked_s)
            self._next_turn(away=True)
        elif self.away and outcome is not None:
            self.failures, self.not_before = 0, 0.0
            self._next_turn(away=False)
        else:
            self.under_way -= 1

    def hurry(self) -> None:
        """No time is left to be patient."""
        self.failures, self.not_before = 0, 0.0

    def _next_turn(self, away: bool) -> None:
        self.away, self.under_way = away, 0
        self.turn += 1
