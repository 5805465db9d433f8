"""What a planner is asked: a configuration, and who asks. JSON that is handed on as it is: only the planner reads it."""

from __future__ import annotations

import json
import os


def request_for(text: str, source: str, folder: str) -> bytes:
    """Plan this configuration, of that name in messages, with our environment, and with relative paths from that folder."""
    return json.dumps({"text": text, "source": source, "folder": folder, "environment": dict(os.environ)}).encode()
