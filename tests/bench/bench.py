"""What a suite is given: a workload program, a folder, and how to measure in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.results import Spread


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the benchmark. A suite is a function of this, and yields rows and curves as it has them."""

    quick: bool  # a minute for all suites together: fewer rounds, fewer calls
    folder: Path
    program: Path  # tests/kernel/workload, compiled
    say: Callable[[str], None]  # what is going on

    def rounds(self, whole: int) -> int:
        """How often to measure."""
        return 1 if self.quick else whole

    def calls(self, whole: int) -> int:
        """How many calls to measure."""
        return whole // 10 if self.quick else whole

    def interleaved(self, what: str, rounds: int, *measures: Callable[[], float]) -> list[Spread]:
        """Each measure's values over `rounds` of all of them in turn, so that the machine's moods fall on all alike."""
        taken: list[list[float]] = [[] for _ in measures]
        for turn in range(rounds):
            for measure, values in zip(measures, taken, strict=True):
                self.say(f"{what}, round {turn + 1} of {rounds}")
                values.append(measure())
        return [Spread(tuple(values)) for values in taken]
