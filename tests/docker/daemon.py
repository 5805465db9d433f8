"""A dockerd of the tests' own, in a mount namespace and folders of its own: no bridge, no firewall rules, nothing of it stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kernel.program import Workload
from tests.kernel.session import MARK, wait_until

# What dockerd and containerd make outside of the folders that they are given.
OUTSIDE = (
    *("sys/fs/cgroup/*/docker", "sys/fs/cgroup/docker"),
    *(f"{folder}{inside}" for folder in ("etc/docker", "run/docker", "run/containerd") for inside in ("", "/*")),
)
IMAGE = "workload:test"


@dataclass(frozen=True, slots=True)
class Docker:
    """A running daemon that has one image: the workload, statically linked, and nothing else."""

    folder: Path

    def command(self, *words: str) -> list[str]:
        return ["docker", "--config", str(self.folder / "client"), "--host", f"unix://{self.folder / 'socket'}", *words]

    def run(self, *words: str) -> str:
        """A docker command that must do; what it says."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True)
        assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    @contextmanager
    def container(self, name: str, *options: str) -> Iterator[Workload]:
        """A container that runs the workload; the pid of what is yielded is docker's own, `pid(name)` is the workload's."""
        words = self.command("run", "--interactive", "--rm", "--network", "none", "--name", name, *options, IMAGE, "/workload")
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **MARK})
        try:
            wait_until(lambda: self.pid(name) > 0, f"container {name}")
            workload = Workload(Path("/workload"), process)
            assert "ready" in workload.answer()
            yield workload
        finally:
            self.run("rm", "--force", name)
            process.communicate(timeout=60)

    def pid(self, name: str) -> int:
        """The host's number of the container's first process; 0 before it runs the workload."""
        done = subprocess.run(self.command("inspect", "--format", "{{.State.Pid}}", name), capture_output=True, text=True)
        pid = int(done.stdout) if done.returncode == 0 else 0
        try:
            return pid if pid and Path(f"/proc/{pid}/exe").readlink().name == "workload" else 0  # runc's own start comes before
        except OSError:
            return 0


def outside() -> set[Path]:
    """All of OUTSIDE that there is."""
    return {found for pattern in OUTSIDE for found in Path("/").glob(pattern)}


@contextmanager
def dockerd(program: Path, folder: Path) -> Iterator[Docker]:
    """The daemon, with `program` as its image's /workload."""
    docker = Docker(folder)
    before = outside()
    (folder / "config.json").write_text("{}")
    options = {
        "config-file": folder / "config.json", "data-root": folder / "data", "exec-root": folder / "exec", "pidfile": folder / "pid",
        "host": f"unix://{folder / 'socket'}", "bridge": "none", "iptables": "false", "ip-forward": "false", "ip-masq": "false",
    }  # fmt: skip
    words = ["unshare", "--mount", "dockerd", *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **MARK})

    def answers() -> bool:
        if process.poll() is not None:
            pytest.fail(f"dockerd ended with {process.returncode}:\n{(folder / 'log').read_text()[-2000:]}")
        return subprocess.run(docker.command("version"), capture_output=True).returncode == 0

    try:
        wait_until(answers, "dockerd")
        image = folder / "image.tar"
        subprocess.run(["tar", "--create", "--file", image, "--directory", program.parent, program.name], check=True)
        docker.run("import", str(image), IMAGE)
        yield docker
    finally:
        process.terminate()
        process.wait(60)
        for left in sorted(outside() - before, reverse=True):  # what is in a folder before the folder
            left.rmdir() if left.is_dir() else left.unlink()
