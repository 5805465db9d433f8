"""Sessions from the command line: probes -> a configuration document -> the supervisor, in our place or as our child.

With --json (and for `run`) this process becomes the supervisor; where something is drawn, the supervisor is a child whose lines we show.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from otel_usdt import units
from otel_usdt.errors import UsageError
from otel_usdt.probespec import parse_pair, parse_probe

DIE_WITH_PARENT = "--die-with-parent"  # as otel_usdt.supervisor knows it, which is not imported here: start-up time
SUPERVISOR = [sys.executable, "-P", "-m", "otel_usdt.supervisor"]
Document = dict[str, Any]


def document(
    probes: tuple[str, ...],
    *,
    pid: int | None,
    binary: str | None,
    scope: str | None,
    mode: str,
    view: str,
    seconds: str | None,
    interval: str | None,
    most: int,
) -> Document:
    """A configuration for these probes; the planner checks it as it does a file."""
    if (pid is None) == (binary is None):
        raise UsageError("one of -p PID and --binary PATH is wanted", hint="otel-usdt trace -p PID func:NAME")
    if binary is not None and scope not in (None, "binary"):
        raise UsageError(f"--binary names no process, so --scope {scope} has nothing to go by", hint="use -p PID, or leave --scope out")
    for option, duration in (("--for", seconds), ("--interval", interval)):
        _check_duration(option, duration)
    target = {
        "select": {"pid": pid} if binary is None else {"binary": str(Path(binary).absolute())},
        "scope": scope or ("pid" if binary is None else "binary"),
        "spans": [_span(probe, mode) for probe in dict.fromkeys(probes)],
    }
    return {
        "targets": [target],
        "export": {"console": {"view": view, **({"interval": interval} if interval else {})}},
        "lease": {
            "owner": os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.getuid()}",
            **({"ttl": seconds} if seconds else {}),
        },
        "limits": {"max_probes": most},
    }


def _check_duration(option: str, text: str | None) -> None:
    """The planner would name a place in a document that nobody has seen."""
    try:
        units.seconds(text or "0")
    except ValueError as error:
        raise UsageError(f"{option}: {error}", hint=f"{option} 30s") from error


def _span(text: str, mode: str) -> dict[str, Any]:
    if "~~" in text:
        enter, leave = parse_pair(text)
        return {"enter": str(enter), "return": str(leave), "mode": mode}
    spec = parse_probe(text)
    return {"function": str(spec), "mode": mode} if spec.kind == "func" else {"probe": str(spec)}


def _as_text(made: Document) -> str:
    """As the planner reads it: what the command line was given is not expanded again."""
    return json.dumps(made).replace("${", "$${")


def become_supervisor(*arguments: str) -> NoReturn:
    """This process is the supervisor from here on: nothing that was imported so far stays in its memory."""
    sys.stdout.flush()
    os.execv(SUPERVISOR[0], [*SUPERVISOR, *arguments])


def run_document(made: Document, output: str | None) -> NoReturn:
    """The session of `made`, its JSON lines on standard output or in a file."""
    descriptor = os.memfd_create("otel-usdt", 0)
    os.write(descriptor, _as_text(made).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.dup2(descriptor, 0)
    if output is not None:
        try:
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)
        except OSError as error:
            raise UsageError(f"{output}: {error.strerror}", hint="choose another file for -o") from error
    become_supervisor("-")


class Session:
    """A running session whose lines are to be shown."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def lines(self) -> Iterator[dict[str, Any]]:
        """Its JSON objects (docs/json.md), until it has ended."""
        assert self._child.stdout is not None
        for line in self._child.stdout:
            yield json.loads(line)

    def stop(self) -> None:
        """Detach and flush; `lines` ends after the last line."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        """Once `lines` has ended."""
        return self._child.wait()


@contextmanager
def session(made: Document) -> Iterator[Session]:
    """Start a session as a child; on leaving it is stopped, and dies with us if we are killed."""
    child = subprocess.Popen(
        [*SUPERVISOR, "-", DIE_WITH_PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Beside a view that redraws the terminal it would be overdrawn: it is told when the view is done.
        stderr=subprocess.PIPE if sys.stdout.isatty() else None,
        text=True,
        start_new_session=True,  # a terminal's ^C comes to us, and we stop it once
    )
    told: list[str] = []
    listener = threading.Thread(target=lambda: told.extend(child.stderr or ()), daemon=True)
    listener.start()
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdout:
        try:
            with child.stdin as pipe:
                pipe.write(_as_text(made))
            yield Session(child)
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                child.stdout.read()  # what it still says must not block it
            child.wait()
            listener.join()
            sys.stderr.write("".join(line for line in told if line != "attached\n"))


def show_document(made: Document) -> None:
    """Show a session until it ends or ^C stops it; exits with its code."""
    from otel_usdt.cli.views.show import show

    with session(made) as running:
        show(running.lines(), on_interrupt=running.stop)
        code = running.exit_code()
    click.get_current_context().exit(code)


def start(made: Document, as_json: bool, output: str | None) -> None:
    """What trace, count and hist do with their document."""
    if as_json or output is not None:
        run_document(made, output)
    console = made["export"]["console"]
    if sys.stdout.isatty() and console["view"] != "spans":
        console.setdefault("interval", "1s")  # a terminal shows the figures grow
    show_document(made)


def options(command: Any) -> Any:
    """The options that trace, count and hist share."""
    for decorate in reversed(
        (
            click.argument("probes", nargs=-1, required=True, metavar="PROBE..."),
            click.option("-p", "--pid", type=int, help="Probe this process (all its threads)."),
            click.option("--binary", metavar="PATH", help="Probe every process that maps this file, now or later."),
            click.option(
                "--scope",
                type=click.Choice(["pid", "tree", "binary"]),
                help="pid (default), tree: its children too, binary: all that map it.",
            ),
            click.option("--for", "seconds", metavar="DURATION", help="Stop by itself after this long: 30s, 5m."),
            click.option("--max", "most", type=int, default=50, show_default=True, help="How many probes a glob may stand for."),
            click.option("--json", "as_json", is_flag=True, help="JSON lines (docs/json.md)."),
            click.option("-o", "output", metavar="FILE", help="JSON lines into this file."),
        )
    ):
        command = decorate(command)
    return command
