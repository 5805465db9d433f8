"""The console script. `otel-usdt attach FILE`, without options, goes without click, whose import is half of what an attach takes."""

from __future__ import annotations

import os
import sys

INTERRUPTED = 128 + 2  # as a shell reports SIGINT


def attach_quickly(config: str) -> int:
    """As cli/attach.py does. Returns the exit code."""
    from otel_usdt.asking import attach, attached, socket_path
    from otel_usdt.errors import OtelUsdtError

    try:
        told = attach(socket_path(), config)
    except OtelUsdtError as error:
        print(f"otel-usdt: {error.told()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    if isinstance(told, int):
        return told
    print(attached(told))
    return 0


def main() -> None:
    """Any command."""
    match sys.argv[1:]:
        case ["attach", config] if not config.startswith("-") or config == "-":
            status = attach_quickly(config)
            sys.stdout.flush()
            os._exit(status)  # taking Python apart in order takes as long as the kernel does to attach
    from otel_usdt.cli.main import main as by_click

    by_click()


if __name__ == "__main__":
    main()
