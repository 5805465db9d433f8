"""otel-usdt spool."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from otel_usdt.config import load_config
from otel_usdt.errors import NotPermitted, TargetNotFound, UsageError
from otel_usdt.otlp.spool import Status, read_segments, status_of


@click.group("spool", epilog="Example: otel-usdt spool status /var/lib/otel-usdt/spool")
def command() -> None:
    """What waits on disk for a collector that is away."""


@command.command(
    "status",
    epilog="""\b
PATH: the folder, or a configuration with export.spool.
\b
Examples:
  otel-usdt spool status /var/lib/otel-usdt/spool
  otel-usdt spool status --json examples/postgresql.yaml
""",
)
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/json.md).")
def status(path: str, as_json: bool) -> None:
    """How many requests and spans are in it, how large and how old. Reads only; a session may be using it."""
    folder = path if Path(path).is_dir() else _folder(path)
    found = _read(folder)
    if as_json:
        click.echo(json.dumps(told(folder, found)))
        return
    for line in lines(folder, found, time.time()):
        click.echo(line)


def told(folder: str, found: Status) -> dict[str, Any]:
    """The object of `spool status --json`."""
    return {
        "path": folder,
        "requests": found.records,
        "spans": found.spans,
        "bytes": found.bytes,
        "oldest_unix_s": found.oldest_s,
        "newest_unix_s": found.newest_s,
        "torn": found.torn,
    }


def lines(folder: str, found: Status, now_s: float) -> list[str]:
    """The same for people."""
    if not found.records:
        return [f"{folder}: nothing waits"]
    assert found.oldest_s is not None
    head = f"{folder}: {sum(found.spans.values()):,} spans in {found.records:,} requests, {found.bytes:,} bytes; the oldest is"
    told_ = [f"{head} {now_s - found.oldest_s:,.0f} s old"]
    told_ += [f"  {name:30} {count:>12,}" for name, count in sorted(found.spans.items(), key=lambda item: -item[1])]
    return told_ + ([f"  {found.torn} segments end in a torn record, as after a kill"] if found.torn else [])


def _folder(path: str) -> str:
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetNotFound(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    spool = load_config(text, path, os.environ).export.spool
    if spool is None:
        raise UsageError(f"{path} has no export.spool", hint="name the folder, or a configuration that has one")
    return spool.path


def _read(folder: str) -> Status:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise NotPermitted(f"{folder}: {error.strerror}", hint="it is its session's alone: look as root") from error
    except OSError as error:
        raise TargetNotFound(f"{folder}: {error.strerror}") from error
    try:
        return status_of(list(read_segments(descriptor)))
    except PermissionError as error:
        raise NotPermitted(f"{folder}: {error.strerror}", hint="it is its session's alone: look as root") from error
    finally:
        os.close(descriptor)
