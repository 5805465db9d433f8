"""What runs on another kernel: two workload programs, the supervisor, and OBI's map. guest.py FOLDER, as root; standard library only.

The supervisor is the real one. Planner and pipeline, which would take a minute to start there, are stand-ins (stand_in/): the plan was
made outside, and what the kernel wrote goes out again as it is, for the real pipeline to read. `told` is what the programs said.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

from otel_usdt.doctor import maps, probed, rights, tried
from tests.kernel.obi import bpffs

PATIENCE_S = 300.0
# The supervisor, which elsewhere ends a pipeline that takes longer than 15 s to flush.
PATIENT_SUPERVISOR = f"""
from otel_usdt import succession, supervisor
succession.FLUSH_GRACE_S = {PATIENCE_S}
raise SystemExit(supervisor.main(["-"]))
"""


class Program:
    """A workload program (tests/kernel/workload)."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told

    def run(self, command: str) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.answer()


class Said:
    """Standard error of the supervisor, line by line."""

    def __init__(self, pipe: IO[str]) -> None:
        self.lines: list[str] = []
        self.changed = threading.Condition()
        threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            print(line, end="", flush=True)
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()

    def wait(self, text: str) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: any(text in line for line in self.lines), PATIENCE_S):
                raise SystemExit(f"it never said {text!r}: {self.lines}")


def doctor() -> dict[str, tuple[str, str]]:
    """What doctor finds of the things in which kernels differ: status and words."""
    ours, machine = rights.our_rights(), platform.machine()
    checks = [tried.uprobe_multi(ours), tried.uprobe_session(ours), maps.ring_buffer(ours), maps.obi_slot(ours)]
    checks += [probed.nop5(ours, machine), probed.uretprobe_seccomp(ours, machine, 0), probed.trampoline(ours, machine)]
    return {check.name: (check.status, check.found) for check in checks}


def main(work: Path) -> None:
    """Read from `work`, write to work/out."""
    script = json.loads((work / "script").read_text())
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        here.chmod(0o755)
        program = here / "workload"
        shutil.copy(work / "workload", program)
        programs = {pid: Program(program) for pid in script["pids"]}
        pids = {pid: each.pid for pid, each in programs.items()}
        (here / "here").write_text(json.dumps({"pids": pids, "program": str(program), "bpf_fs": str(here / "bpf")}))
        one = next(iter(programs.values()))
        with bpffs(here / "bpf") as obi:
            obi.start()
            environment = {**os.environ, "PLAN": str(work / "plan"), "HERE": str(here / "here"), "OUT": str(work / "out")}
            command = [sys.executable, "-P", "-c", PATIENT_SUPERVISOR]
            supervisor = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
            assert supervisor.stderr
            said = Said(supervisor.stderr)
            said.wait("attached")
            said.wait("calls join the requests that OBI sees")
            told: dict[str, Any] = {"release": platform.release(), "answers": []}
            for who, line in script["commands"]:
                if who == "obi":
                    obi.serves(one.pid, *line.split()) if line else obi.done(one.pid)
                else:
                    told["answers"].append(programs[who].run(line))
            held = [str(one.readlink()) for one in Path(f"/proc/{supervisor.pid}/fd").iterdir()]
            told["links"] = sum("bpf_link" in one or "bpf-link" in one for one in held)
            supervisor.send_signal(signal.SIGTERM)
            told["exit_code"] = supervisor.wait(PATIENCE_S)
            told["doctor"] = doctor()
            told["semaphores"] = one.run("semaphores 0 0")
            told["said"] = said.lines
        for each in programs.values():
            each.process.kill()
            each.process.wait()
    (work / "out" / "told").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
