"""otel-usdt doctor: what this host can and cannot do, and the fix for each."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator

import click

from otel_usdt.doctor.check import Check
from otel_usdt.doctor.examine import Report, examine

MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}
PLAIN_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def lines(checks: tuple[Check, ...], marks: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """(status, mark, text): a line a check, the names aligned, and its remedy under it where it is not ok."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        yield check.status, marks[check.status], f"{check.name:{width}}  {check.found}"
        if check.remedy and check.status != "ok":
            blank = " " * len(marks[check.status])
            first, *more = check.remedy.splitlines()
            yield "remedy", blank, f"{'':{width}}  remedy: {first}"
            for line in more:
                yield "remedy", blank, f"{'':{width}}    {line}"


def summary(report: Report) -> str:
    """The last line."""
    count = {status: sum(check.status == status for check in report.checks) for status in MARKS}
    return f"{count['ok']} ok, {count['warn']} to look at, {count['fail']} failed"


def show(report: Report) -> None:
    """Colours on a terminal, plain text in a pipe."""
    if not sys.stdout.isatty():
        for _, mark, text in lines(report.checks, PLAIN_MARKS):
            click.echo(f"{mark} {text}")
        click.echo(summary(report))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for status, mark, text in lines(report.checks, MARKS):
        console.print(Text(mark, style=STYLES.get(status, "")), Text(text, style="dim" if status == "remedy" else ""), soft_wrap=True)
    console.print(summary(report), style="bold red" if report.failed else "green")


@click.command(epilog="Example: sudo otel-usdt doctor; sudo otel-usdt doctor --json | jq '.checks[] | select(.status != \"ok\")'")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, described in docs/json.md.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what this host can and cannot do, and the fix for each. Exits with 1 when a check failed."""
    report = examine()
    if as_json:
        click.echo(json.dumps({"checks": [dataclasses.asdict(check) for check in report.checks], "profile": report.profile}, indent=2))
    else:
        show(report)
    ctx.exit(1 if report.failed else 0)
