"""The front door: names the commands, imports one only when it is called, and turns errors into messages and exit codes.

Exit codes: 0 done, 1 found a fault that was asked for, 2 wrong use, 3 not permitted, 4 target or probe not found,
5 the kernel refused (errors.py has each error's), 130 stopped by Ctrl-C, 141 the reader of our output went away.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from otel_usdt import __version__
from otel_usdt.cli.entry import INTERRUPTED
from otel_usdt.errors import OtelUsdtError
from otel_usdt.near import nearest

PIPE_CLOSED = 128 + 13  # as a shell reports SIGPIPE

# Name -> what --help says of it. The module is otel_usdt.cli.NAME, its click command is `command`.
COMMANDS = {
    "list": "USDT probes and functions of a process or a file.",
    "count": "Count calls of probes.",
    "hist": "Histograms of call durations.",
    "trace": "Show calls as spans, live.",
    "plan": "Resolve a configuration and print it; attach nothing.",
    "run": "Run the sidecar with a configuration.",
    "serve": "Keep a session ready: attach takes milliseconds.",
    "attach": "Start a session in a running server.",
    "sessions": "The sessions of a running server.",
    "detach": "End a session of a running server.",
    "spool": "What waits on disk for a collector that is away.",
    "doctor": "What this host can and cannot do, and the fix for each.",
    "demo": "Trace a throw-away PostgreSQL, in about 20 s.",
    "completion": "Print the completion script of a shell.",
}


class Commands(click.Group):
    """Sub-commands by name; nothing of one is imported for --help, --version or completing a name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"otel_usdt.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = nearest(name, COMMANDS, 1, cutoff=0.6)
            ctx.fail(f"no such command: {name}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            super().invoke(ctx)
            sys.stdout.flush()  # here, so that a closed pipe is met while it can still be handled
        except OtelUsdtError as error:
            print(f"otel-usdt: {error.told()}", file=sys.stderr)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader
            ctx.exit(PIPE_CLOSED)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Example: otel-usdt trace -p 4242 func:pg_parse_query 'usdt:postgresql:query__start ~~ usdt:postgresql:query__done'",
)
@click.version_option(__version__, prog_name="otel-usdt")
def main() -> None:
    """Attach USDT probes and uprobes to running programs; show and export their calls as OpenTelemetry spans and histograms."""


if __name__ == "__main__":
    main()
