"""otel-usdt completion: prints a shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog='Example: eval "$(otel-usdt completion bash)", or for all users: otel-usdt completion bash > /etc/bash_completion.d/otel-usdt'
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL."""
    from otel_usdt.cli.main import main

    script = get_completion_class(shell)
    assert script is not None  # these three are click's own
    click.echo(script(main, {}, "otel-usdt", "_OTEL_USDT_COMPLETE").source())
