"""For any sequence of records, outages, full disks and kills, at whichever store they fall, the ledger closes and no span is told twice."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from otel_usdt.metrics.ledger import Ledger, check
from otel_usdt.plan import Export, Key, OtlpExport, Plan, Span, SpoolFolder, Target
from otel_usdt.stream.records import ENTER, RETURN
from tests.samples import PARSE, QUERY, call
from tests.unit.kernelside import Kernel
from tests.unit.killable import Killed, World

JOB = Span("job", 0, "spans", "pair", "func:put ~~ func:got", key=Key(pending=5))
TARGET = Target("orders", "tree", (100,), {"service.name": "orders", "process.pid": 100})
OTLP = OtlpExport("http://unused", queue_bytes=2_000)  # about ten spans
WAYS = {
    "otlp": Export(otlp=OTLP, temporality="delta"),
    "spool": Export(otlp=OTLP, spool=SpoolFolder("unused", max_bytes=1 << 20, max_age_s=300.0)),
    "file": Export(file="unused"),
}
# Stores until the kill; it may come in what is done next, or in what is done after that.
DIES_AFTER = st.one_of(st.none(), st.integers(0, 40), st.none())
NEVER_LESS = ("exported", "dropped", "expired", "orphaned", "calls", "returns", "unwound", "map_full")


class Machine(RuleBasedStateMachine):
    """One session, and as many pipelines as it takes."""

    way: str

    @initialize()
    def begin(self) -> None:
        self.stack, self.world, way = ExitStack(), World(), self.way
        self.place = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.stack.enter_context(self.world.around())
        self.kernel = Kernel(Plan((TARGET,), (), (QUERY, PARSE, JOB), (), export=WAYS[way]))
        self.stack.callback(self.kernel.close)
        self.spool = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY) if way == "spool" else None
        self.file = os.open(self.place / "out", os.O_RDWR | os.O_CREAT | os.O_APPEND) if way == "file" else None
        for descriptor in (self.spool, self.file):
            if descriptor is not None:
                self.stack.callback(os.close, descriptor)
        self.spans, self.kills, self.now_ns = 0, 0, 10_000
        self.before: dict[str, Ledger] = {}
        self.world.receiver.mood = "away"
        self.start()

    def start(self) -> None:
        """A pipeline; it may be killed while it takes over, and so may the next."""
        while True:
            self.world.threads.targets.clear()
            try:
                self.session = self.world.mortal(self.kernel.session(self.file, self.spool))
                return
            except Killed:
                self.killed()

    def killed(self) -> None:
        self.kills += 1
        self.world.receiver.unsure.update(self.world.receiver.last)
        self.world.fuse.left = None

    def do(self, action: Callable[[], object]) -> None:
        """What the pipeline does; should it be killed over it, another takes over."""
        try:
            action()
        except Killed:
            self.killed()
            self.start()
        self.world.receiver.last = []  # all answers are counted, or never will be

    # What happens to it

    @rule(
        mood=st.sampled_from(("there", "away", "away", "away", "refuses", "small", "partial", "mute")),
        full=st.sampled_from((False, False, False, True)),
        seconds=st.sampled_from((0.1, 6.0, 40.0)),
    )
    def weather(self, mood: str, full: bool, seconds: float) -> None:
        """The receiver's and the disk's, and how long the last one lasted."""
        self.world.now_s += seconds
        self.now_ns += int(seconds * 1e9)
        self.world.receiver.mood, self.world.disk.full = mood, full

    # What it does

    @rule(
        probes=st.lists(st.sampled_from((0, 0, 1, 2, 3)), min_size=1, max_size=9),
        steps=st.sampled_from((2, 3, 1, 0)),
        dies_after=DIES_AFTER,
    )
    def work(self, probes: list[int], steps: int, dies_after: int | None) -> None:
        """Calls of two span probes, one of them with texts; keyed ends: 2 begins, and 3 may be the end of nothing."""
        self.world.fuse.left = dies_after
        for probe in probes:
            self.spans += 1
            if probe < 2:
                self.kernel.call(call(probe=probe, span=self.spans, flags=1 - probe), None if probe else {0: b"text"})
            else:
                self.kernel.count(2, entries=int(probe == 2))
                self.now_ns += 1_000
                flag, key = ENTER if probe == 2 else RETURN, self.spans % 3
                self.kernel.record(call(probe=2, span=self.spans, flags=flag, duration_ns=key, start_ktime_ns=self.now_ns))
        self.do(lambda: self.session.drain())
        for _ in range(steps):
            self.do(self.world.threads.step)

    @rule(dies_after=DIES_AFTER)
    def look_round(self, dies_after: int | None) -> None:
        """What it does now and then."""
        self.world.fuse.left = dies_after
        self.do(lambda: self.session.expire(self.now_ns))
        self.do(lambda: self.session.send_metrics())

    @rule(flushed=st.booleans())
    def ends(self, flushed: bool) -> None:
        """At rest: killed, or in good order, as at a detach, and the next takes over from one that ended by itself."""
        if flushed:
            self.do(lambda: self.session.outlets.close())
        else:
            self.killed()
        self.start()

    # What holds

    @invariant()
    def the_ledger_closes(self) -> None:
        now = self.session.snapshot()
        assert {name: faults for name, ledger in now.items() if (faults := check(ledger))} == {}
        for name, ledger in now.items():
            less = {term for term in NEVER_LESS if ledger[term] < self.before.get(name, ledger)[term]}
            assert not less, f"{name}: less than before: {less}"
        self.before = now

    @invariant()
    def no_span_is_told_twice(self) -> None:
        """But for those whose answer was not heard, which may be: as many as are exported have arrived, and no more than were read."""
        arrived, receiver = self.arrived(), self.world.receiver
        assert not {one for one, times in arrived.items() if times > 1} - receiver.unsure
        total = Counter[str]()
        for ledger in self.session.snapshot().values():
            total.update(ledger)
        assert total["exported"] <= len(arrived) <= total["recorded"]
        if self.way == "file":  # where what a kill leaves unsure is not known
            assert len(arrived) <= total["exported"] + total["dropped"]
        else:
            assert len(arrived.keys() - receiver.unsure) <= total["exported"]

    def arrived(self) -> Counter[bytes]:
        if self.file is None:
            return Counter(self.world.receiver.arrived)
        whole = (self.place / "out").read_bytes().rpartition(b"\n")[0].split(b"\n")
        requests = [made for line in whole if "resourceSpans" in (made := _parsed(line))]
        spans = [span for one in requests for of in one["resourceSpans"] for scope in of["scopeSpans"] for span in scope["spans"]]
        return Counter(bytes.fromhex(span["spanId"]) for span in spans)

    def teardown(self) -> None:
        """All is well again: what waits arrives, and every record is exported or dropped."""
        if not hasattr(self, "session"):
            return
        try:
            self.world.fuse.left, self.world.disk.full, self.world.receiver.mood = None, False, "there"
            self.session.drain()
            for _ in range(100):
                self.world.threads.step()
                self.world.now_s += 40.0
            self.the_ledger_closes()
            self.no_span_is_told_twice()
            assert all(ledger["queued"] == ledger["spooled"] == 0 for ledger in self.before.values())
        finally:
            self.stack.close()


def _parsed(line: bytes) -> dict[str, Any]:
    """A line that a kill has torn is none."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


class Otlp(Machine):
    """Over OTLP, from memory."""

    way = "otlp"


class Spooled(Machine):
    """Over OTLP, and on disk meanwhile."""

    way = "spool"


class Written(Machine):
    """Into a file."""

    way = "file"


TestOtlp, TestSpooled, TestWritten = Otlp.TestCase, Spooled.TestCase, Written.TestCase
TestOtlp.settings = TestSpooled.settings = TestWritten.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
