"""What a planner is asked: a configuration, and who asks. JSON that is handed on as it is: only the planner reads it.

Quick to import, for the command line: without pathlib, which takes a sixth of what `otel-usdt attach` does to start.
"""

from __future__ import annotations

import json
import os
import sys

from otel_usdt.errors import ConfigError


def read_configuration(source: str) -> str:
    """The text of that file, or of standard input when it is -."""
    try:
        if source == "-":
            return sys.stdin.read()
        with open(source, encoding="utf-8") as file:  # noqa: PTH123  see above
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: {getattr(error, 'strerror', None) or error}") from error


def request_for(text: str, source: str, folder: str) -> bytes:
    """Plan this configuration, of that name in messages, with our environment, and with relative paths from that folder."""
    return json.dumps({"text": text, "source": source, "folder": folder, "environment": dict(os.environ)}).encode()
