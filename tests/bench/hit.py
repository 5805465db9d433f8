"""What a hit costs the target: a probed call in each mode, next to an empty program at the same places and to bpftrace doing the same.

The target measures itself: the CPU time of its fastest batch of calls, so that whoever else runs on the machine hardly matters. Our
program is attached as a session attaches it, by the same code, with the ring emptied between runs: what the pipeline does beside the target
is not in it.
"""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from otel_usdt import session
from otel_usdt.elf.build_id import build_id
from otel_usdt.elf.locations import Location
from otel_usdt.layout import layout_of
from otel_usdt.plan import Argument, Attribute, Binary, Limits, Mode, Plan, Site, Span, Target
from otel_usdt.probes import attach, image, syscalls
from otel_usdt.stream.records import CALL
from otel_usdt.stream.ring import Ring
from tests.bench.bench import Bench
from tests.bench.results import Row, at_most
from tests.kernel.bpftrace import interrupt
from tests.kernel.program import symbols
from tests.kernel.session import wait_until

SOURCE = Path(__file__).with_suffix(".c")
CALLS = {"emulated": 2000, "nested": 1000, "stepped": 200}  # a batch
ROUNDS = 5
ATTACH_S = 0.3  # bpftrace says nothing when its return probes are on, too
RING_BYTES = 8 << 20  # more than a run's records
EMPTY = {"kind": "kprobe", "code": base64.b64encode(syscalls.RETURN_0).decode(), "uses": [], "wanted": []}  # a program that only returns
REGISTERS = {"x86_64": ("di", "si", "dx", "cx"), "aarch64": ("x0", "x1", "x2", "x3")}[os.uname().machine]


@dataclass(frozen=True, slots=True)
class Case:
    """What is called, and what is made of it. `nested` calls `emulated`: both are probed, and a figure is of the two calls."""

    function: str
    mode: Mode
    arguments: int = 0

    @property
    def probed(self) -> tuple[str, ...]:
        return ("nested", "emulated") if self.function == "nested" else (self.function,)

    def __str__(self) -> str:
        what = {"nested": "two nested calls"}.get(self.function, f"a call ({self.function} site)")
        return f"{what}, {self.mode}" + (f", {self.arguments} arguments" if self.arguments else "")


CASES = (
    Case("emulated", "count"),
    Case("emulated", "histogram"),
    Case("emulated", "spans"),
    Case("emulated", "spans", arguments=3),
    Case("nested", "histogram"),
    Case("nested", "spans"),
    Case("stepped", "count"),
    Case("stepped", "histogram"),
    Case("stepped", "spans"),
)
QUICK = CASES[:3]
# At most so many times bpftrace's cost.
CEILINGS: dict[Mode, float] = {"count": 1.05, "histogram": 1.1, "spans": 1.3}


@dataclass(frozen=True, slots=True)
class HitTarget:
    """The running program that is probed."""

    path: Path
    process: subprocess.Popen[str]

    def call_ns(self, function: str) -> float:
        """CPU nanoseconds of a call, now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{function} {CALLS[function]}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()) / 1000

    def is_probed(self, function: str) -> bool:
        """Is there a breakpoint on its first instruction?"""
        address = symbols(self.path)[function][0]
        maps = Path(f"/proc/{self.process.pid}/maps").read_text()
        base = int(maps.partition("-")[0], 16)
        with Path(f"/proc/{self.process.pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(base + address)
            return memory.read(1) != self.path.read_bytes()[address : address + 1]


@contextmanager
def hit_target(folder: Path) -> Iterator[HitTarget]:
    """Compiled and started, on the last CPU alone."""
    program = folder / "hit"
    subprocess.run(["gcc", "-O1", "-g", "-o", str(program), str(SOURCE)], check=True)
    cpu = max(os.sched_getaffinity(0))
    with subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, {cpu})
        try:
            yield HitTarget(program, process)
        finally:
            process.kill()


def build_id_of(path: Path) -> str:
    """What the session will find in the file."""
    with path.open("rb") as file:
        return build_id(file.fileno())


def plan_of(target: HitTarget, case: Case) -> Plan:
    """As the planner makes it, by hand."""
    told, machine = target.path.stat(), os.uname().machine
    binary = Binary(str(target.path), "hit", build_id_of(target.path), told.st_dev, told.st_ino, machine)
    reads = tuple(Argument(Location("register", 8, True, REGISTERS[slot]), slot) for slot in range(case.arguments))
    attributes = tuple(Attribute(f"n{slot}", slot) for slot in range(case.arguments))
    counted = case.mode == "count"
    spans, sites = [], []
    for number, name in enumerate(case.probed):
        address = symbols(target.path)[name][0]
        site = Site(number, 0, "point" if counted else "enter", name, address, address, binding="activation", arguments=reads)
        spans.append(Span(name, 0, case.mode, "point" if counted else "function", f"func:{name}", attributes=attributes))
        sites += [site] if counted else [site, replace(site, role="return", uretprobe=True, arguments=())]
    return Plan(
        (Target("hit", "pid", (target.process.pid,), {}),), (binary,), tuple(spans), tuple(sites), limits=Limits(ring_bytes=RING_BYTES)
    )


class Probed:
    """Our probes on the target; `emptied` makes room in the ring, as the pipeline does all the time."""

    def __init__(self, loaded: image.Loaded) -> None:
        self._ring = Ring(loaded.maps["records"], RING_BYTES, CALL)

    def emptied(self) -> int:
        """How many records there were."""
        return len(self._ring.batch())


@contextmanager
def ours(target: HitTarget, case: Case, made: image.Image, by: attach.Way, scope: Target | None = None) -> Iterator[Probed]:
    """Attached as a session does it; `scope` is another than the target's process."""
    plan = plan_of(target, case)
    plan = replace(plan, targets=(scope,)) if scope else plan
    layout = layout_of(plan.spans)
    loaded = image.load(made, session.map_sizes(layout, plan.limits, session.possible_cpus(), len(plan.sites)))
    try:
        with ExitStack() as stack:
            session.attach_all(plan, loaded, by, layout, stack)
            yield Probed(loaded)
    finally:
        loaded.close()


@contextmanager
def empty(target: HitTarget, case: Case) -> Iterator[None]:
    """A program that only returns, at the same places."""
    places = [
        attach.Place(str(target.path), site.file_offset, site.uretprobe, 0, 0, target.process.pid, site.span, 0, site.probe)
        for site in plan_of(target, case).sites
    ]
    with ExitStack() as stack:
        loaded = image.Loaded({"programs": {"on_site": EMPTY, "on_session": EMPTY}}, {})
        stack.callback(loaded.close)
        links: list[int] = []
        stack.callback(attach.close_links, links)
        links.extend(attach.attach_uprobes(loaded, attach.way(), places))
        yield


def bpftrace_program(target: HitTarget, case: Case) -> str:
    """The same by bpftrace: a count, a histogram of durations, or a line a call with its start, its duration and its arguments."""
    if case.mode == "count":
        return "\n".join(f"uprobe:{target.path}:{name} {{ @[0] = count(); }}".replace("[0]", f"_{name}") for name in case.probed)
    clauses = []
    for name in case.probed:
        kept = "".join(f" @arg{i}_{name}[tid] = arg{i};" for i in range(case.arguments))
        shown = "".join(f", @arg{i}_{name}[tid]" for i in range(case.arguments))
        dropped = "".join(f" delete(@arg{i}_{name}[tid]);" for i in range(case.arguments))
        spoken = f'printf("%d %d{" %d" * case.arguments}\\n", @start_{name}[tid], nsecs - @start_{name}[tid]{shown});'
        action = spoken if case.mode == "spans" else f"@ns_{name} = hist(nsecs - @start_{name}[tid]);"
        clauses.append(f"uprobe:{target.path}:{name} {{ @start_{name}[tid] = nsecs;{kept} }}")
        clauses.append(f"uretprobe:{target.path}:{name} /@start_{name}[tid]/ {{ {action} delete(@start_{name}[tid]);{dropped} }}")
    return "\n".join(clauses)


@contextmanager
def bpftrace(target: HitTarget, case: Case) -> Iterator[None]:
    """Attached; what it prints goes nowhere."""
    arguments = ["bpftrace", "-p", str(target.process.pid), "-e", bpftrace_program(target, case)]
    with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            wait_until(lambda: all(map(target.is_probed, case.probed)), "bpftrace's attach")
            time.sleep(ATTACH_S)
            yield
        finally:
            interrupt(process)


def bare_ns(target: HitTarget, case: Case) -> float:
    """A call that nobody looks at."""
    return target.call_ns(case.function)


def empty_ns(target: HitTarget, case: Case) -> float:
    """With a program that only returns."""
    with empty(target, case):
        return target.call_ns(case.function)


def ours_ns(target: HitTarget, case: Case, made: image.Image) -> float:
    """With ours."""
    with ours(target, case, made, attach.way()) as probed:
        took = target.call_ns(case.function)
        assert (probed.emptied() > 0) == (case.mode == "spans")
        return took


def bpftrace_ns(target: HitTarget, case: Case) -> float:
    """With bpftrace."""
    with bpftrace(target, case):
        return target.call_ns(case.function)


def measure(bench: Bench) -> Iterator[Row]:
    """Two rows a case: beside bpftrace, and beside a program that only returns."""
    made, _ = image.find_image(bench.say)
    with hit_target(bench.folder) as target:
        for case in QUICK if bench.quick else CASES:
            by_us, by_none, by_bpftrace, bare = bench.interleaved(
                str(case),
                bench.rounds(ROUNDS),
                partial(ours_ns, target, case, made),
                partial(empty_ns, target, case),
                partial(bpftrace_ns, target, case),
                partial(bare_ns, target, case),
            )
            yield Row(str(case), "ns", by_us, by_bpftrace, "bpftrace", bare, at_most(CEILINGS[case.mode]))
            yield Row(str(case), "ns", by_us, by_none, "an empty program", bare)
