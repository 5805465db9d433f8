"""The machine that figures were measured on: what matters of it, and nothing that names it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def machine() -> dict[str, str]:
    """For the page: processor, kernel, hypervisor, versions of what was measured beside us."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    hypervisor = _first(["lscpu"], "Hypervisor vendor:").partition(":")[2].strip()
    total_kib = int(Path("/proc/meminfo").read_text().split(maxsplit=2)[1])
    return {
        "processor": f"{os.cpu_count()} cores, {model}",
        "memory": f"{total_kib / (1 << 20):.1f} GiB",
        "hypervisor": hypervisor or "none",
        "kernel": ".".join(platform.release().split("-", 1)[0].split(".")),
        "Python": platform.python_version(),
        "bpftrace": _first(["bpftrace", "--version"], "bpftrace").removeprefix("bpftrace ").removeprefix("v"),
    }


def _first(command: list[str], start: str) -> str:
    """The first line of a command's output that begins so."""
    told = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}).stdout
    return next((line for line in told.splitlines() if line.startswith(start)), "")
