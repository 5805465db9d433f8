"""`python -m otel_usdt.config`: the JSON Schema of a configuration."""

from __future__ import annotations

import sys

from otel_usdt.config.schema import json_schema

if __name__ == "__main__":
    sys.stdout.write(json_schema())
