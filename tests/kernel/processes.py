"""What otel-usdt's own processes may do and hold, read from /proc."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.kernel.session import Session


@dataclass(frozen=True, slots=True)
class Process:
    """One of otel-usdt's own processes."""

    pid: int

    def status(self, key: str) -> str:
        """A line of /proc/PID/status."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return line.partition(":")[2].strip()
        raise KeyError(key)

    def files(self) -> set[str]:
        """Names of the files it maps."""
        return {line.split(maxsplit=5)[5] for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines() if "/" in line}

    def descriptors(self) -> list[str]:
        """What its descriptors are."""
        found = []
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(str(entry.readlink()))
        return found

    def resident(self) -> Counter[str]:
        """Bytes in memory by what is mapped: file, [heap], "" for anonymous. A ring's pages, which are mapped twice, are there once."""
        found: Counter[str] = Counter()
        mapping = ""
        for line in Path(f"/proc/{self.pid}/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                mapping = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
            elif line.startswith("Pss:" if mapping.startswith("anon_inode:") else "Rss:"):
                found[mapping] += int(line.split()[1]) * 1024
        return found

    def alive(self) -> bool:
        try:
            return self.status("State")[0] not in "ZX"
        except FileNotFoundError:
            return False


def resident_together(one: Process, other: Process) -> int:
    """Bytes that both have in memory; a file's pages that both map are there once."""
    first, second = one.resident(), other.resident()
    return sum(max(first[name], second[name]) if name.startswith("/") else first[name] + second[name] for name in first | second)


def family(session: Session) -> list[Process]:
    """The command and all that it has started."""
    root = psutil.Process(session.pid)
    return [Process(one.pid) for one in (root, *root.children(recursive=True))]


def supervisor(session: Session) -> Process:
    """The one that holds the links: its death is the detach."""
    (one,) = [p for p in family(session) if any("bpf_link" in d or "bpf-link" in d or "perf_event" in d for d in p.descriptors())]
    return one


def pipeline(session: Session) -> Process:
    """The one that is not root."""
    (one,) = [p for p in family(session) if p.status("Uid").split()[0] != "0"]
    return one
