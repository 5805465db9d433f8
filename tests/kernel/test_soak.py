"""A soak: programs call, fork, exec, longjmp, are signalled and killed, sessions come and go, the receiver stalls, the pipeline is killed;
every call counts once.

OTEL_USDT_SOAK_S is how long (120 s), OTEL_USDT_SOAK_SEED what chance begins with: a failure says it, and with it again the same is done in
the same order. How the scheduler runs it is beyond a seed.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kernel.chaos import KINDS, SPANS, Account, Truth
from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed
from tests.kernel.pages import address, addresses, ledger_of, samples
from tests.kernel.processes import pipeline
from tests.kernel.program import Workload
from tests.kernel.session import Ledgers, Session, wait_until
from tests.kernel.sink import Sink, running_sink

SECONDS = float(os.environ.get("OTEL_USDT_SOAK_S", "120"))
SEED = int(os.environ.get("OTEL_USDT_SOAK_SEED") or random.SystemRandom().randrange(1 << 32))
MOST_GUESTS, PROGRAMS, THREADS = 2, 2, 4  # sessions that come and go; chaos programs at a time, and the threads of each
FLUSH_S = 180.0  # half a minute until the receiver is asked again, and then all that a full queue holds
BETWEEN_KILLS_S = 25.0  # of the pipeline: the supervisor takes many within a minute for a fault of ours
ONLY_GROW = ("entries", "returns", "calls", "orphaned", "unwound", "recorded", "exported", "dropped", "sampled_out", "ring_full")

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(SECONDS + 420)]

Start = Callable[..., Workload]


def check_follows(before: Ledgers, now: Ledgers) -> None:
    """What counts events never goes back."""
    for name, counts in before.items():
        for count in ONLY_GROW:
            assert now[name][count] >= counts[count], f"{name}: {count} went from {counts[count]} to {now[name][count]}"


@dataclass(slots=True)
class Guest:
    """A session that stays for a while."""

    session: Session
    scope: str
    mode: str
    ends_at: float
    before: Account
    attached: Account


@dataclass(slots=True)
class Soak:
    """What is going on. `host` is the session that sees everything, from before the first call until after the last."""

    dice: random.Random
    otel_usdt: Commands
    program: Path
    start: Start
    truth: Truth
    sink: Sink
    host: Session
    programs: list[Workload] = field(default_factory=list)
    guests: list[Guest] = field(default_factory=list)
    last: Ledgers = field(default_factory=dict)
    killed_at: list[float] = field(default_factory=list)  # when the host's pipelines were

    def look(self) -> None:
        """The ledger that the host tells of at this moment: closed, and nothing went back."""
        told = ledger_of(samples(self.host))
        check_closed(told)
        check_follows(self.last, told)
        self.last = told

    def program_starts(self) -> None:
        one = self.start(environment={"CHAOS_TRUTH": str(self.truth.path)})
        assert one.run(f"chaos {THREADS} {self.dice.randrange(1, 1 << 40)}")["started"] == THREADS + 1
        self.programs.append(one)

    def program_ends(self, killed: bool) -> None:
        if not self.programs:
            return
        one = self.programs.pop(self.dice.randrange(len(self.programs)))
        if killed:
            one.kill()
            return
        one.run("chaos_stop")
        assert one.process.stdin is not None
        one.process.stdin.close()
        assert one.process.wait(60) == 0, "the probes harmed a program"

    def guest_comes(self) -> None:
        if len(self.guests) >= MOST_GUESTS or not self.programs:
            return
        mode, scope = self.dice.choice(("count", "hist", "trace")), self.dice.choice(("pid", "tree", "binary"))
        kinds = self.dice.sample(KINDS[:-1], self.dice.randint(1, 3))
        who = ["-p", str(self.dice.choice(self.programs).pid)] if scope != "binary" else ["--binary", str(self.program)]
        before = self.truth.read()
        often = ["--interval", "50ms"] if mode == "trace" else []
        session = self.otel_usdt.start(mode, *who, "--scope", scope, "--json", *often, *(f"func:{kind}" for kind in kinds))
        session.wait_attached()
        self.guests.append(Guest(session, scope, mode, time.monotonic() + self.dice.uniform(0, 4), before, self.truth.read()))

    def guest_goes(self, guest: Guest) -> None:
        """By a signal, SIGKILL too; its ledger was closed whenever it told of it, and counts what the programs did meanwhile."""
        self.guests.remove(guest)
        until = self.truth.read()
        how = self.dice.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
        told, after = guest.session.stop(how), self.truth.read()
        ends = {-how} if how == signal.SIGKILL else {0}
        if "every target process has ended" in told.stderr:  # so it was about to end by itself
            ends |= {0}
        assert told.exit_code in ends, told.stderr
        if guest.mode == "count":
            seen = {line["probe"]: line["entries"] for line in told.lines if "elapsed_s" in line}
        else:
            looks = told.ledgers
            for earlier, later in zip([{}, *looks], looks, strict=False):
                check_closed(later, mode="spans" if guest.mode == "trace" else "histogram")
                check_follows(earlier, later)
            seen = {name: counts["entries"] for name, counts in looks[-1].items()} if looks else {}
        for name, entries in seen.items():
            assert entries <= after.begun[name] - guest.before.begun[name]
            if guest.scope == "binary":
                assert entries >= until.begun[name] - guest.attached.begun[name] - until.uncertain

    def pipeline_is_killed(self) -> None:
        """The host's; its successor is awaited, for only that tells of the ledger again."""
        if self.killed_at and time.monotonic() < self.killed_at[-1] + BETWEEN_KILLS_S:
            return
        self.killed_at.append(time.monotonic())
        os.kill(pipeline(self.host).pid, signal.SIGKILL)
        wait_until(lambda: len(addresses(self.host)) > len(self.killed_at), "the pipeline that takes over")

    def step(self) -> None:
        """One thing that happens, and a look."""
        for guest in [one for one in self.guests if time.monotonic() >= one.ends_at]:
            self.guest_goes(guest)
        while len(self.programs) < PROGRAMS:
            self.program_starts()
        action = self.dice.choices(("guest", "kill", "stop", "stall", "go on", "pipeline", "nothing"), (8, 2, 2, 2, 4, 1, 6))[0]
        match action:
            case "guest":
                self.guest_comes()
            case "kill" | "stop":
                self.program_ends(killed=action == "kill")
            case "stall":
                self.sink.going.clear()
            case "go on":
                self.sink.going.set()
            case "pipeline":
                self.pipeline_is_killed()
        self.look()
        time.sleep(self.dice.uniform(0, 0.3))

    def end(self) -> None:
        """Everything but the host ends in good order."""
        for guest in list(self.guests):
            self.guest_goes(guest)
        while self.programs:
            self.program_ends(killed=False)
        wait_until(lambda: not running_from(self.program), "the end of the programs' children")
        self.sink.going.set()
        wait_until(self.all_sent, "what waited for the receiver", FLUSH_S)

    def all_sent(self) -> bool:
        self.look()
        return not any(counts["queued"] for counts in self.last.values())


def running_from(program: Path) -> list[str]:
    """Processes that execute this file."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "exe").readlink() == program:
                found.append(folder.name)
        except OSError:
            continue
    return found


def reconcile(truth: Account, ledger: Ledgers, buckets: dict[str, int], spans: dict[str, int], killed: bool) -> None:
    """The published counts against the programs' own, call by call.

    What a pipeline that was `killed` had under way is dropped, and the receiver may have it all the same.

    All threads have ended. What one has counted is exact unless it was killed; then at most `uncertain` counts, of all kinds together, are
    ahead of the probe's (an entry that was counted and not made) or behind it (a return that was made and not counted).
    """
    assert truth.broken == 0
    slack = 0
    for name in KINDS:
        c = ledger[name]
        missing, extra = truth.begun[name] - c["entries"], c["calls"] - truth.ended[name]
        assert missing >= 0, f"{name}: {c} of {truth.begun[name]} begun"
        assert extra >= 0, f"{name}: {c} of {truth.ended[name]} ended"
        slack += missing + extra
        assert c["in_flight"] == c["orphaned"] == c["too_deep"] == c["map_full"] == c["expired"] == c["filtered"] == 0, f"{name}: {c}"
        assert c["unwound"] == c["entries"] - c["calls"]
        assert buckets[name] == c["calls"]
        assert c["exported"] <= spans.get(name, 0) <= c["exported"] + c["dropped"] * killed
        assert c["queued"] == 0
    assert slack <= truth.uncertain, f"{slack} counts differ, and {truth.uncertain} may: {truth}"


def last_ledger(sink: Sink) -> Ledgers:
    """By the metrics that the session sent at its end."""
    values = {}
    for metric in ("otel_usdt.hits", "otel_usdt.calls", "otel_usdt.calls.waiting", "otel_usdt.calls.paired", "otel_usdt.calls.recorded"):
        for attributes, point in sink.points(metric):
            values[metric, tuple(sorted(attributes.items()))] = point.as_int
    return ledger_of(values)


def test_every_call_is_accounted_for_whatever_happens(
    program: Path, start: Start, otel_usdt: Commands, stack: ExitStack, tmp_path: Path
) -> None:
    """At every look of 120 s the ledger closes, no program is harmed, and at the end each count is what the programs did."""
    print(f"OTEL_USDT_SOAK_SEED={SEED} OTEL_USDT_SOAK_S={SECONDS:g}")
    sink = stack.enter_context(running_sink())
    otlp = {"endpoint": f"http://127.0.0.1:{sink.port}", "protocol": "http/protobuf"}
    truth = Truth.make(tmp_path / "truth")
    host = otel_usdt.run(
        {
            "targets": [{"select": {"binary": str(program)}, "scope": "binary", "spans": list(SPANS)}],
            "export": {"otlp": otlp, "interval": "1s"},
            "telemetry": {"listen": "127.0.0.1:0"},
        }
    )
    address(host)
    soak = Soak(random.Random(SEED), otel_usdt, program, start, truth, sink, host)
    ends_at = time.monotonic() + SECONDS
    while time.monotonic() < ends_at:
        soak.step()
    soak.end()
    told = host.stop()
    assert told.exit_code == 0, told.stderr
    ledger = last_ledger(sink)
    check_closed(ledger)
    check_follows(soak.last, ledger)
    buckets = {attributes["otel_usdt.span.name"]: sum(point.bucket_counts) for attributes, point in sink.points("otel_usdt.call.duration")}
    account = truth.read()
    print(account, {name: {key: count for key, count in counts.items() if count} for name, counts in ledger.items()})
    assert [point.as_int for _, point in sink.points("otel_usdt.pipeline.restarts")] == [len(soak.killed_at)]
    reconcile(account, ledger, buckets, sink.spans, bool(soak.killed_at))
