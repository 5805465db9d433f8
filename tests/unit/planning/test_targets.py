"""Which processes and files a plan is for, and who else would pay."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_usdt.elf.binary import open_binary
from otel_usdt.errors import BuildIdMismatch, ProbeNotFound, ProbeRefused, TargetNotFound, UsageError
from otel_usdt.planning import FEW
from tests.unit.planning.configured import compiled, fault, of, planned, running, sites
from tests.unit.planning.sources import Programs


def test_a_process_is_planned_for_by_its_pid(programs: Programs) -> None:
    """Its program opens through /proc, its resource is its own, and it alone is in scope."""
    with running(programs.c, "wait") as pid:
        plan = planned({"select": {"pid": pid}, "spans": [{"function": "work"}]})
        [target] = plan.targets
        assert (target.name, target.scope, target.pids, target.in_scope, target.outsiders) == ("orders", "pid", (pid,), 1, 0)
        assert (target.resource["service.name"], target.resource["process.pid"]) == ("orders", pid)
        assert plan.binaries[0].path == f"/proc/{pid}/exe"
        assert plan.binaries[0].name == str(programs.c)


def test_a_library_is_found_by_name_or_by_what_only_it_has(programs: Programs) -> None:
    """libc.so.6: in front, or a function that the program has not; the file is the one that the process maps."""
    with running(programs.c, "wait") as pid:
        for probe in ("libc.so.6:func:getpid", "getpid"):
            plan = planned({"select": {"pid": pid}, "spans": [{"function": probe}]})
            [binary] = plan.binaries
            assert binary.name.endswith("/libc.so.6")
            assert binary.inode == Path(binary.path).stat().st_ino
        assert planned({"select": {"pid": pid}, "spans": [{"function": "libc.so:func:getpid"}]}).binaries == plan.binaries  # libc.so.6
        error = fault(ProbeNotFound, {"select": {"pid": pid}, "spans": [{"function": "libx.so.6:func:getpid"}]})
        assert "does not map libx.so.6; near: libc.so.6" in str(error)
        error = fault(ProbeNotFound, {"select": {"pid": pid}, "spans": [{"function": "getpidd"}]})
        assert "and neither has any of the" in str(error)


def test_a_name_that_several_libraries_have_is_ambiguous(tmp_path: Path) -> None:
    """Both are told, and how to say which."""
    for name in ("one", "two"):
        compiled(
            "gcc",
            tmp_path,
            f"lib{name}.so",
            f"int shared_name(int n) {{ return n + {len(name)}; }} int {name}(void) {{ return 0; }}",
            "-shared",
            "-fPIC",
        )
    main = "#include <unistd.h>\nint one(void), two(void); int main(void) { char c; return one() + two() + read(0, &c, 1); }"
    program = compiled("gcc", tmp_path, "main", main, f"-L{tmp_path}", "-lone", "-ltwo", f"-Wl,-rpath,{tmp_path}")
    with running(program) as pid:
        error = fault(UsageError, {"select": {"pid": pid}, "spans": [{"function": "shared_name"}]})
        assert str(error) in ("func:shared_name is in libone.so, libtwo.so", "func:shared_name is in libtwo.so, libone.so")
        assert ":func:shared_name" in error.hint
        plan = planned({"select": {"pid": pid}, "spans": [{"function": "libtwo.so:func:shared_name"}]})
        assert [binary.name for binary in plan.binaries] == [str(tmp_path / "libtwo.so")]


def test_another_build_than_the_pinned_one_is_refused(programs: Programs) -> None:
    """A prefix of the build id fits; another says both."""
    with open_binary(str(programs.c)) as binary:
        build_id = binary.build_id
    assert planned(of(programs.c, {"function": "work"}, build_id=build_id[:8])).binaries[0].build_id == build_id
    error = fault(BuildIdMismatch, of(programs.c, {"function": "work"}, build_id="0123456789"))
    assert str(error) == f"{programs.c} has build id {build_id}, not 0123456789"


def test_a_tree_on_a_library_of_everyone_needs_a_word(programs: Programs) -> None:
    """libc is mapped by many outside the tree, who would all pay: refused, unless outsiders are allowed; pid is narrow anyway."""
    with ExitStack() as stack:
        for _ in range(FEW + 1):
            stack.enter_context(running(Path("/bin/sleep"), "60"))
        pid = stack.enter_context(running(programs.c, "wait"))
        target = {"select": {"pid": pid}, "scope": "tree", "spans": [{"function": "libc.so.6:func:getpid"}]}
        error = fault(ProbeRefused, target)
        assert "libc.so.6 is mapped by" in str(error)
        assert "processes outside the scope of orders" in str(error)
        assert "outsiders: allow" in error.hint
        plan = planned(target | {"outsiders": "allow"})
        assert plan.targets[0].outsiders > FEW
        assert plan.targets[0].in_scope == 1
        assert any("processes outside the scope map the same file" in note for note in plan.notes)
        assert planned(target | {"scope": "pid"}).targets[0].outsiders == 0
        assert planned({**target, "spans": [{"function": "work"}]}).targets[0].outsiders == 0


def test_two_targets_keep_their_own_span_probes(programs: Programs) -> None:
    """Indices of targets, spans and binaries fit together, and one file in both is one binary."""
    with running(programs.c, "wait") as pid:
        plan = planned(
            of(programs.cxx, {"name": "a", "function": "risky"}),
            {"select": {"pid": pid}, "sample": 0.5, "spans": [{"name": "b", "function": "work"}, {"name": "c", "function": "query"}]},
            of(programs.c, {"name": "d", "function": "leaf"}, name="leaves"),
        )
    assert [made.target for made in plan.spans] == [0, 1, 1, 2]
    assert [(target.name, target.sample) for target in plan.targets] == [("risky", 1.0), ("orders", 0.5), ("leaves", 1.0)]
    assert len(plan.binaries) == 2
    names = [plan.binaries[sites(plan, name)[0].binary].name for name in "abcd"]
    assert names == [str(programs.cxx), *[str(programs.c)] * 3]


def test_a_process_that_ends_while_we_look_does_not_end_the_plan(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many that an exe_path selects some end: those left are planned for; if none is left, that is said."""
    with running(programs.c, "wait") as pid, subprocess.Popen(["/bin/true"]) as gone:
        gone.wait()
        target = {"select": {"exe_path": str(programs.c)}, "spans": [{"function": "work"}]}
        for found in ([gone.pid, pid], [pid, gone.pid]):
            monkeypatch.setattr("otel_usdt.planning.select", lambda _, found=found: found)
            assert planned(target).targets[0].pids == (pid,)
        monkeypatch.setattr("otel_usdt.planning.select", lambda _: [gone.pid, gone.pid])
        assert "no process" in str(fault(TargetNotFound, target))


def test_every_process_of_an_executable_is_a_target(programs: Programs) -> None:
    """exe_path selects them all; the files are opened once."""
    with running(programs.c, "wait") as one, running(programs.c, "wait") as other:
        plan = planned({"select": {"exe_path": str(programs.c)}, "spans": [{"function": "work"}]})
    assert plan.targets[0].pids == tuple(sorted((one, other)))
    assert (len(plan.binaries), len(plan.sites)) == (1, 2)


def test_the_rest_of_the_configuration_is_in_the_plan(programs: Programs) -> None:
    """Lease, limits, ways out and the pipeline's user."""
    plan = planned(
        of(programs.c, {"function": "work", "min_duration": "1ms"}, name="mine", sample="10%"),
        lease={"owner": "me", "reason": "INC-1", "ttl": "5m"},
        budget={"records_per_second": 77},
        limits={"ring": "64KiB", "text_ring": "128KiB"},
        export={"console": {"view": "all"}, "file": {"path": "/tmp/x"}},
        pipeline={"user": "daemon"},
    )
    assert (plan.lease.owner, plan.lease.reason, plan.lease.ttl_s) == ("me", "INC-1", 300.0)
    assert (plan.limits.records_per_second, plan.limits.ring_bytes, plan.limits.text_ring_bytes) == (77, 1 << 16, 1 << 17)
    assert plan.export.console is not None
    assert (plan.export.console.view, plan.export.file, plan.pipeline_user) == ("all", "/tmp/x", "daemon")
    assert (plan.targets[0].name, plan.targets[0].sample, plan.spans[0].min_duration_ns) == ("mine", 0.1, 1_000_000)


def test_a_tree_may_probe_a_program_that_only_its_children_run(programs: Programs) -> None:
    """Named by its path in the target's file system; a single process, which never runs it, may not."""
    with running(programs.c, "wait") as pid:
        target = {"select": {"pid": pid}, "spans": [{"function": f"{programs.cxx}:func:risky"}]}
        plan = planned(target | {"scope": "tree"})
        assert [(binary.name, binary.path) for binary in plan.binaries] == [(str(programs.cxx), f"/proc/{pid}/root{programs.cxx}")]
        assert plan.binaries[0].inode == programs.cxx.stat().st_ino
        assert f"does not map {programs.cxx}" in str(fault(ProbeNotFound, target))
        missing = {**target, "scope": "tree", "spans": [{"function": "/no/such:func:f"}]}
        assert "does not map /no/such" in str(fault(ProbeNotFound, missing))
