"""A session on another kernel: planned here, attached there, and what that kernel wrote read here by the real pipeline.

The supervisor there is the real one, with all that it does to the kernel; its planner and pipeline are stand-ins, since Python alone takes
seconds to start in an emulated machine (guest.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otel_usdt.channel import Channel
from otel_usdt.planner import plan_of
from otel_usdt.probes.image import find_image, image_key
from tests.kernel.program import compile_workload, running
from tests.kernel.session import Told

ROOT = Path(__file__).parents[2]
PATIENCE_S = 800.0  # with a machine that shares its processors with others
NOT_HERE = 77  # of machine.sh: there is no such machine to be had
# A ring that is a file cannot be waited for; nothing more will come, so it goes on to the draining at the end.
OF_FILES = "import sys; from otel_usdt import pipeline; pipeline.follow = lambda *_: None; sys.exit(pipeline.main(sys.argv[1:]))"
Command = tuple[str, str]  # of which program ("obi": OBI's map), what to do


@dataclass(frozen=True, slots=True)
class Machine:
    """One that is running. `folder` is its own."""

    process: subprocess.Popen[str]
    folder: Path

    def wait(self) -> str:
        """All that it said, once it has come to its end."""
        return self.process.communicate(timeout=PATIENCE_S)[0]


def prepare(folder: Path, targets: dict[str, dict[str, Any]], commands: Sequence[Command]) -> None:
    """Everything that the session needs, in `folder`: `targets` by the program's name, `commands` for them in their order."""
    for part in ("otel_usdt", "bpf"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for stand_in in (ROOT / "tests/vm/stand_in").glob("*.py"):
        shutil.copy(stand_in, folder / "otel_usdt")
    for part in ("tests/vm/guest.py", "tests/kernel/obi.py"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, folder / part)
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", folder / "otel_usdt", folder / "tests"], check=True)
    (folder / "python/bin").mkdir(parents=True)  # a venv of nothing: what the distribution's Python has installed is not looked through
    (folder / "python/bin/python3").symlink_to("/usr/bin/python3")
    (folder / "python/pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (folder / "out").mkdir()
    (folder / "out").chmod(0o777)  # the pipeline there has no rights
    (folder / "image").mkdir()
    (folder / "image" / f"{image_key()}.json").write_text(json.dumps(find_image()[0]))
    program = compile_workload(folder)
    with ExitStack() as stack:
        planned = {name: stack.enter_context(running(program)) for name in targets}
        document = {
            "targets": [{**target, "select": {"pid": planned[name].pid}} for name, target in targets.items()],
            "export": {"console": {"view": "all"}},
        }
        plan = plan_of(json.dumps(document), "other kernel", str(folder), os.environ)
        pids = {name: str(one.pid) for name, one in planned.items()}
    (folder / "plan").write_text(json.dumps(plan.to_dict()))
    script = {"pids": list(pids.values()), "commands": [(pids.get(who, who), line) for who, line in commands]}
    (folder / "script").write_text(json.dumps(script))
    environment = f"PYTHONPATH={folder} PYTHONDONTWRITEBYTECODE=1 OTEL_USDT_CACHE={folder}/image"
    (folder / "inside").write_text(f"cd {folder} && {environment} python/bin/python3 -P -m tests.vm.guest {folder}\n")


@contextmanager
def running_machine(kernel: str, folder: Path, *parameters: str) -> Iterator[Machine]:
    """The machine with that kernel, or with none ("") this one; ended on the way out."""
    command = [str(ROOT / "tests/vm/machine.sh"), kernel, str(folder), *parameters] if kernel else ["sh", str(folder / "inside")]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield Machine(process, folder)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # with its terminal gone, the machine goes too


def read_back(folder: Path) -> Told:
    """What the real pipeline makes of what the kernel there has written."""
    out = folder / "out"
    message = json.loads((out / "message").read_text())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipe = Channel(ours)
    with theirs:
        pipeline = subprocess.Popen(
            [sys.executable, "-c", OF_FILES, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # it gives up its rights before it has a second thread
            text=True,
        )
    descriptors = []
    for number, size in enumerate(message.pop("sizes")):
        descriptors.append(os.open(out / str(number), os.O_RDWR))
        os.ftruncate(descriptors[-1], size)  # a ring's unused end
    pipe.send(message, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    printed, said = pipeline.communicate(timeout=100)
    pipe.close()
    return Told(pipeline.returncode, [json.loads(line) for line in printed.splitlines()], said)
