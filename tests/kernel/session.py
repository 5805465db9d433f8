"""A running otel-usdt command as the tests see it: started, attached, stopped, and all that it said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

COMMAND = [sys.executable, "-m", "otel_usdt.cli.entry"]
Ledgers = dict[str, dict[str, int]]  # by span probe
PATIENCE_S = 60.0  # the first start compiles the kernel image; nothing here is a statement about speed
MARK = {"OTEL_USDT_TEST": str(os.getpid())}  # in the environment of everything that this run of the tests starts


def wait_until(true: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    """Returns when `true()` is; fails the test after `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Told:
    """What a command said until it ended."""

    exit_code: int
    lines: list[dict[str, Any]]
    stderr: str

    @property
    def spans(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "span_id" in line]

    @property
    def counts(self) -> dict[str, dict[str, Any]]:
        """The last count line of each probe."""
        return {line["probe"]: line for line in self.lines if "elapsed_s" in line}

    @property
    def histograms(self) -> dict[str, dict[str, Any]]:
        """The last histogram line of each probe."""
        return {line["probe"]: line for line in self.lines if "buckets" in line}

    @property
    def ledgers(self) -> list[Ledgers]:
        """Each that was told of, in order."""
        return [line["ledger"] for line in self.lines if "ledger" in line]

    @property
    def ledger(self) -> Ledgers:
        """Of the last line; a command without one has broken its contract."""
        if not self.lines or "ledger" not in self.lines[-1]:
            pytest.fail(f"the last line is no ledger: {self.lines[-1:]}\n{self.stderr}")
        ledger: Ledgers = self.lines[-1]["ledger"]
        return ledger

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"] == name]


@dataclass(slots=True)
class Session:
    """A command that is running. Its output is read all the time, so that it never waits for the test."""

    process: subprocess.Popen[str]
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    readers: tuple[threading.Thread, ...] = ()

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self) -> list[dict[str, Any]]:
        """What it has said so far."""
        return [json.loads(line) for line in list(self.out) if line.endswith("\n")]

    def ledgers(self) -> list[Ledgers]:
        """Those among them: the other lines, which may be many, are not parsed."""
        return [json.loads(line)["ledger"] for line in list(self.out) if line.startswith('{"ledger"') and line.endswith("\n")]

    def wait_attached(self) -> None:
        """Returns when every probe is on."""

        def on() -> bool:
            if "attached\n" in self.err:
                return True
            if self.process.poll() is not None:
                for reader in self.readers:
                    reader.join()
                pytest.fail(f"ended with {self.process.returncode} before it was attached:\n{''.join(self.err)}")
            return False

        wait_until(on, f"the line 'attached'; so far: {''.join(self.err)}")

    def wait(self) -> Told:
        """Waits for its end."""
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"did not end; it said:\n{''.join(self.err)}")
        for reader in self.readers:
            reader.join(PATIENCE_S)
        return Told(self.process.returncode, self.lines(), "".join(self.err))

    def stop(self, number: int = signal.SIGINT) -> Told:
        """Asks it to stop, and waits."""
        self.process.send_signal(number)
        return self.wait()


def read_into(pipe: IO[str], lines: list[str]) -> threading.Thread:
    """A thread that appends every line of `pipe` to `lines` until its end."""

    def read() -> None:
        for line in pipe:
            lines.append(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


@contextmanager
def start(*arguments: str | int | Path, environment: dict[str, str] | None = None, through: tuple[str, ...] = ()) -> Iterator[Session]:
    """Starts `otel-usdt ARGUMENTS`, by `through` (a command that execs its arguments); on the way out it is asked to stop, then killed."""
    process = subprocess.Popen(
        [*through, *COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **MARK, **(environment or {})},
    )
    session = Session(process)
    assert process.stdout is not None
    assert process.stderr is not None
    session.readers = (read_into(process.stdout, session.out), read_into(process.stderr, session.err))
    try:
        yield session
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for reader in session.readers:
            reader.join(PATIENCE_S)
        process.stdout.close()
        process.stderr.close()
