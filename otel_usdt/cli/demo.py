"""otel-usdt demo: the whole way on a throw-away PostgreSQL, in about 20 seconds."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from otel_usdt.errors import NotPermitted, UsageError

_CLIENTS = 4
_RATE = 40.0  # transactions a second: a tree a moment for the eye, no load test
_PATIENCE_S = 60.0  # until the first span: the very first start compiles the BPF program
_PLAIN_TRACES = 5  # a pipe has no screen to redraw: some trees are enough


@click.command(
    "demo",
    epilog="""\b
Examples:
  otel-usdt demo
  otel-usdt demo --seconds 60 --output spans.jsonl
""",
)
@click.option("--seconds", type=click.IntRange(1, 3600), default=15, show_default=True, help="How long to trace.")
@click.option("--output", metavar="FILE", help="OTLP/JSON lines go here; by default into a new file in /tmp.")
def command(seconds: int, output: str | None) -> None:
    """Start a throw-away PostgreSQL with some load, trace the inside of its queries, show trees, histograms and the ledger.

    Ctrl-C ends it early. Nothing is left but the file of spans, whose path it prints.
    """
    if os.geteuid() != 0:
        raise NotPermitted("the demo attaches probes, which needs root", hint="sudo otel-usdt demo")
    path = _output(output)
    try:
        code = run(path, seconds)
    finally:
        if output is None and path.stat().st_size == 0:
            path.unlink()
    if code == 0:
        say(f"the same spans and histograms as OTLP/JSON lines: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    click.get_current_context().exit(code)


def run(path: Path, seconds: float) -> int:
    """The demo itself, its spans into `path`; the exit code of its session."""
    from otel_usdt.cli.session import session
    from otel_usdt.cli.views.show import show
    from otel_usdt.demo.cluster import installed, postgres_cluster
    from otel_usdt.demo.load import pgbench, prepare

    say(f"starting PostgreSQL {installed()[0]} in a temporary folder ...")
    with postgres_cluster() as cluster:
        say(f"filling its tables; it is pid {cluster.pid} ...")
        prepare(cluster)
        made = document(cluster.pid, path)
        say(f"attaching {len(made['targets'][0]['spans'])} span probes of examples/postgresql.yaml; the server knows nothing of it ...")
        with session(made) as running:
            with pgbench(cluster, seconds + _PATIENCE_S, _CLIENTS, rate=_RATE):
                timed = Timed(running.lines(), seconds, running.stop)
                show(timed, on_tick=timed.tick, on_interrupt=running.stop, traces=_PLAIN_TRACES)
            code = running.exit_code()
        say(f"detached; stopping PostgreSQL {cluster.version} and removing {cluster.folder} ...")
    return code


class Timed:
    """Lines of a session that is stopped `seconds` after the first one, or when none comes at all."""

    def __init__(self, lines: Iterator[dict[str, Any]], seconds: float, stop: Callable[[], None]) -> None:
        self._lines, self._seconds, self._stop = lines, seconds, stop
        self._due = time.monotonic() + _PATIENCE_S
        self._begun = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self._lines:
            if not self._begun:
                self._begun, self._due = True, time.monotonic() + self._seconds
            yield line

    def tick(self) -> None:
        """To be called now and then."""
        if time.monotonic() >= self._due:
            self._due = float("inf")
            self._stop()


def document(pid: int, output: Path) -> dict[str, Any]:
    """The shipped example as it is, but for one process and its children, with the text of queries, to a file and to us."""
    import yaml

    from otel_usdt.probes.sources import examples_folder

    made: dict[str, Any] = yaml.safe_load((examples_folder() / "postgresql.yaml").read_text(encoding="utf-8"))
    for target in made["targets"]:
        target["select"] = {"pid": pid}
        target["capture"] = {"text": True}  # pgbench has no secrets
    made["export"] = {"file": {"path": str(output)}, "console": {"view": "all"}}
    made["lease"] = {"owner": "demo", "reason": "otel-usdt demo"}
    return made


def say(text: str) -> None:
    """A line of progress, beside the output."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


def _output(chosen: str | None) -> Path:
    if chosen is None:
        descriptor, made = tempfile.mkstemp(prefix="otel-usdt-demo-", suffix=".jsonl")
        os.close(descriptor)
        return Path(made)
    path = Path(chosen).absolute()
    try:
        path.touch()
    except OSError as error:
        raise UsageError(f"{chosen}: {error.strerror}", hint="choose another file for --output") from error
    return path
