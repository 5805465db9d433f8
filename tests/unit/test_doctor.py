"""doctor: on this machine with and without rights, and on hosts that are only described."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from otel_usdt.cli.doctor import MARKS, PLAIN_MARKS, lines
from otel_usdt.doctor import child, host, kernel, probed, rights, tried
from otel_usdt.doctor.check import NEEDS_ROOT, Check
from otel_usdt.doctor.examine import examine

ALL = sum(1 << bit for bit in rights.BITS.values())
CALL = "from otel_usdt.cli.main import main; main(['doctor', '--json'], prog_name='otel-usdt')"
# Imported as root, for nobody may not be able to read this folder.
AS_NOBODY = f"import os, otel_usdt.cli.doctor; os.setgroups([]); os.setgid(65534); os.setuid(65534); {CALL}"
TRIED = ["bpf(2)", "BPF program", "perf_event_open(2)", "uprobe", "attach cookie", "uprobe_multi", "uprobe session"]
TRIED += ["ring buffer", "map in map", "tracefs"]
SERVICE = Path(__file__).parents[2] / "deploy" / "otel-usdt.service"


def held(*without: str, root: bool = True, seccomp: int = 0, host_pids: bool = True) -> rights.Rights:
    """Rights with all capabilities but some."""
    return rights.Rights(ALL & ~sum(1 << rights.BITS[name] for name in without), seccomp, root, host_pids)


def tree(root: Path, files: dict[str, str]) -> Path:
    """A file system to look at."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def doctor(*command: str, code: str = CALL) -> tuple[int, dict[str, Check], dict[str, Any]]:
    """Runs `doctor --json`; exit code, checks by name, profile."""
    told = subprocess.run([*command, sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stderr == ""
    report = json.loads(told.stdout)
    assert report.keys() == {"checks", "profile"}
    return told.returncode, {check["name"]: Check(**check) for check in report["checks"]}, report["profile"]


@pytest.mark.kernel
def test_this_machine_passes_as_root() -> None:
    """Root on a machine that the tests can run on: nothing fails, and all that is tried was done."""
    code, checks, profile = doctor()
    assert code == 0
    assert {name: check.found for name, check in checks.items() if check.status == "fail"} == {}
    for name in (*TRIED, "capabilities"):
        assert checks[name].status == "ok"
    for name in ("fault: 5-byte nop", "fault: seccomp", "return trampoline"):
        assert "could not be tried" not in checks[name].found
    assert set(profile["capabilities_needed"]) <= set(profile["capabilities_held"])


@pytest.mark.kernel
def test_without_root_it_says_what_it_could_not_try() -> None:
    """As nobody the privileged checks are not tried, and say so; nothing is called broken that was not tried."""
    code, checks, profile = doctor(code=AS_NOBODY)
    assert code == 0
    for name in TRIED:
        assert (checks[name].status, checks[name].found) == ("warn", NEEDS_ROOT)
    assert checks["capabilities"].status == "warn"
    assert profile["capabilities_held"] == []


@pytest.mark.kernel
def test_root_without_cap_bpf_fails_and_names_it() -> None:
    """A container's root without CAP_BPF: what it cannot do was tried and failed, and the remedy grants the capability."""
    code, checks, profile = doctor("setpriv", "--bounding-set", "-bpf,-sys_admin")
    assert code == 1
    assert (checks["bpf(2)"].status, checks["capabilities"].status) == ("fail", "fail")
    assert "CAP_BPF (load programs and maps)" in checks["capabilities"].found
    assert profile["systemd"] in checks["capabilities"].remedy
    assert profile["kubernetes"] in checks["capabilities"].remedy


@pytest.mark.kernel
def test_nothing_is_left_open() -> None:
    """Every map, program, event and link that was tried is closed again."""
    examine()  # what imports open and keep
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    examine()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_entry_offset_agrees_with_pyelftools() -> None:
    """The place that is probed is the entry point of the running Python, as a file offset."""
    with tried.SELF.open("rb") as file:
        elf = ELFFile(file)
        (expected,) = elf.address_offsets(elf["e_entry"])
        file.seek(0)
        assert tried.entry_offset(file.read(4096)) == expected


@pytest.mark.parametrize(
    ("release", "status"),
    [
        ("5.14.21", "fail"),
        ("5.15.0-25-generic", "ok"),
        ("6.1.0-28-amd64", "ok"),
        ("6.18.44-fc-v669", "ok"),
        ("4.18.0-553.el8", "fail"),
        ("x", "fail"),
    ],
)
def test_kernel_floor_is_5_15(release: str, status: str) -> None:
    """Versions compare as numbers, whatever the distribution appends."""
    assert kernel.kernel_version(release).status == status


@pytest.mark.parametrize(
    ("check", "look", "seen", "status", "told"),
    [
        ("nop5", "nop5_becomes", "cc", "ok", "not in this kernel"),
        ("nop5", "nop5_becomes", "e8", "ok", "such places are refused"),
        ("nop5", "nop5_becomes", "90", "warn", "something unknown: 90"),
        ("trampoline", "trampoline_code", "cc", "ok", "with a breakpoint"),
        ("trampoline", "trampoline_code", "50514153", "ok", "with the uretprobe system call"),
        ("trampoline", "trampoline_code", "f30f1efa", "warn", "unknown code (f30f1efa)"),
    ],
)
def test_what_a_probed_child_shows_is_told(
    monkeypatch: pytest.MonkeyPatch, check: str, look: str, seen: str, status: str, told: str
) -> None:
    """What each kernel makes of a nop and of a return, and what no kernel that we know of makes of them."""
    monkeypatch.setattr(child, look, lambda: seen)
    answer = getattr(probed, check)(held(), "x86_64")
    assert (answer.status, told in answer.found) == (status, True), answer
    assert getattr(probed, check)(held(), "aarch64").found == "x86_64 only"
    assert getattr(probed, check)(held("CAP_BPF", "CAP_SYS_ADMIN", root=False), "x86_64").found == NEEDS_ROOT


@pytest.mark.kernel
def test_a_kernel_that_kills_for_a_return_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that a seccomp filter ends is what such a kernel shows; a child that returns is none."""

    def killed() -> str:
        os.kill(os.getpid(), signal.SIGSYS)
        return child.RETURNED

    monkeypatch.setattr(child, "returns_under_seccomp", lambda: child.in_child(killed))
    told = probed.uretprobe_seccomp(held(), "x86_64", 7)
    assert told.status == "warn"
    assert "there are 7" in told.found
    assert "SIGSYS" in told.found
    monkeypatch.setattr(child, "returns_under_seccomp", lambda: child.in_child(lambda: child.RETURNED))
    assert probed.uretprobe_seccomp(held(), "x86_64", 7).status == "ok"


def test_what_a_child_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the child is no finding: it says that it could not be tried, and why."""

    def refused() -> str:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(child, "nop5_becomes", lambda: child.in_child(refused))
    told = probed.nop5(held(), "x86_64")
    assert (told.status, told.found) == ("warn", "could not be tried: Operation not permitted")


def test_the_pid_filters_fault_is_told_by_version() -> None:
    """A fault that is handled is told where it is, and absent elsewhere."""
    assert "handled" in kernel.uretprobe_pid_filter("6.12.117").found
    assert kernel.uretprobe_pid_filter("6.18.1").found == "not in this kernel"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("[none] integrity confidentiality\n", "ok"),
        ("none [integrity] confidentiality\n", "ok"),
        ("none integrity [confidentiality]\n", "fail"),
    ],
)
def test_lockdown_confidentiality_fails(tmp_path: Path, text: str, status: str) -> None:
    """Only confidentiality takes from BPF what it needs."""
    assert kernel.lockdown(tree(tmp_path, {"sys/kernel/security/lockdown": text})).status == status


def test_missing_uprobe_pmu_fails_with_a_remedy(tmp_path: Path) -> None:
    """Without the uprobe PMU nothing can be attached; with it, its number is told."""
    assert (kernel.uprobe_pmu(tmp_path).status, bool(kernel.uprobe_pmu(tmp_path).remedy)) == ("fail", True)
    assert kernel.uprobe_pmu(tree(tmp_path, {"sys/bus/event_source/devices/uprobe/type": "8\n"})).found == "perf event type 8"


def test_switches_are_read(tmp_path: Path) -> None:
    """The two sysctls are told with what they mean, and their absence is no fault."""
    files = {"proc/sys/kernel/unprivileged_bpf_disabled": "0\n", "proc/sys/kernel/perf_event_paranoid": "4\n"}
    assert kernel.unprivileged_bpf(tmp_path).status == "ok"
    tree(tmp_path, files)
    assert kernel.unprivileged_bpf(tmp_path).found == "0: any user may load some BPF programs"
    assert kernel.perf_event_paranoid(tmp_path).found.startswith("4: ")


def test_bpffs_and_obi_are_seen(tmp_path: Path) -> None:
    """OBI's map and the file system that it lies in are reported, present or not."""
    assert host.obi(tmp_path).found == "no trace context of OBI here"
    assert "not mounted" in host.bpffs(tmp_path).found
    tree(tmp_path, {"sys/fs/bpf/otel/traces_ctx_v1": "", "proc/self/mounts": "none /sys/fs/bpf bpf rw 0 0\n"})
    assert "traces_ctx_v1" in host.obi(tmp_path).found
    assert host.bpffs(tmp_path).found == "mounted at /sys/fs/bpf"


@pytest.mark.parametrize(
    ("image", "bcc", "status"),
    [(None, None, "fail"), (Path("/var/cache/x.json"), None, "ok"), (None, ("/usr/bin/python3", "0.26.0"), "ok")],
)
def test_image_or_bcc_is_enough(image: Path | None, bcc: tuple[str, str] | None, status: str) -> None:
    """A host with a fitting image needs no BCC; one with BCC makes the image; one with neither fails."""
    assert host.compiler(image, bcc).status == status


def test_sys_admin_stands_for_bpf_and_perfmon() -> None:
    """As the kernel has it: CAP_SYS_ADMIN implies the two, and only those."""
    assert rights.capabilities(held("CAP_BPF", "CAP_PERFMON"), "").status == "ok"
    told = rights.capabilities(held("CAP_SYS_ADMIN", "CAP_BPF"), "")
    assert (told.status, told.found) == ("fail", "missing: CAP_BPF (load programs and maps)")
    assert rights.capabilities(held("CAP_SYS_PTRACE"), "").status == "fail"


def test_sys_admin_is_asked_for_only_with_a_reason() -> None:
    """The profile has CAP_SYS_ADMIN where this kernel needs it, and says what for."""
    assert rights.capabilities(held("CAP_SYS_ADMIN"), "").status == "ok"
    assert rights.capabilities(held("CAP_SYS_ADMIN"), "mount it").found == "missing: CAP_SYS_ADMIN (mount it)"
    assert "SYS_ADMIN" not in rights.kubernetes_lines("")
    assert rights.kubernetes_lines("mount it").endswith("KILL, SYS_ADMIN]}}")


def test_rights_are_read_from_proc() -> None:
    """The fields of /proc/self/status and the namespace's inode become rights."""
    status = "Name:\tx\nCapEff:\t000000c000000000\nSeccomp:\t2\nSeccomp_filters:\t1\n"
    told = rights.parse_rights(status, uid=1000, pid_namespace=4026532000)
    assert told == rights.Rights(1 << 38 | 1 << 39, 2, False, False)
    assert told.can_try
    assert rights.parse_rights(status, uid=0, pid_namespace=4026531836).initial_pid_namespace


def test_container_without_host_pids_fails() -> None:
    """In a pid namespace of its own the tool would wait for pids that never come."""
    told = rights.pid_namespace(held(host_pids=False))
    assert told.status == "fail"
    assert "hostPID: true" in told.remedy


def test_seccomp_filter_matters_only_when_calls_fail() -> None:
    """A filter that lets the needed calls through is no matter."""
    assert rights.seccomp(held(), False).status == "ok"
    assert rights.seccomp(held(seccomp=2), True).status == "ok"
    assert rights.seccomp(held(seccomp=2), False).status == "warn"


def test_refusal_of_the_kernel_becomes_a_failed_check() -> None:
    """The kernel's errno is shown by name, with the remedy; a lack of rights points at the capabilities."""

    def refuse(number: int) -> Check:
        def act() -> str:
            raise OSError(number, os.strerror(number))

        return tried.attempt("x", held(), act, "another kernel")

    assert refuse(38) == Check("x", "fail", "Function not implemented (ENOSYS)", "another kernel")
    assert refuse(1).remedy.startswith("see capabilities")


def test_text_aligns_names_and_indents_remedies() -> None:
    """One line a check, names aligned, remedies only where something is to be done."""
    checks = (Check("a", "ok", "fine", "nothing"), Check("long name", "fail", "broken", "mend:\nit"))
    told = [mark + " " + text for _, mark, text in lines(checks, PLAIN_MARKS)]
    assert told == [
        "ok   a          fine",
        "FAIL long name  broken",
        "                remedy: mend:",
        "                  it",
    ]
    assert MARKS.keys() == PLAIN_MARKS.keys()


def test_systemd_unit_grants_what_doctor_asks_for() -> None:
    """The unit's bounding set is the profile's, with CAP_SYS_ADMIN."""
    (line,) = (line for line in SERVICE.read_text().splitlines() if line.startswith("CapabilityBoundingSet="))
    assert line in rights.systemd_lines("any reason").splitlines()
