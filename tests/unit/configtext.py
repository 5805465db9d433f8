"""Configurations as text: a whole one, one of any span probe, and what loading them gives or tells."""

from __future__ import annotations

import pytest

from otel_usdt.config import Config, load_config
from otel_usdt.errors import ConfigError

WHOLE = """\
targets:
  - name: orders-db
    select: {exe_path: /usr/lib/postgresql/*/bin/postgres}
    scope: tree
    build_id: 01234567
    capture: {text: true}
    sample: 10%
    spans:
      - name: query
        enter: usdt:postgresql:query__start
        return: [usdt:postgresql:query__done, usdt:postgresql:query__gone]
        min_duration: 500us
        attributes:
          db.query.text: {arg: 1, as: string, max: 128}
          n: {arg: 2, at: return}
      - function: func:XLogFlush
        error: {return: "< 0", type: io}
      - probe: libpq.so.5:usdt:a:b
lease: {owner: team-orders, reason: 1234, ttl: 30m, renew: never}
budget: {records_per_second: 20000}
limits: {ring: 1MiB}
"""


def load(text: str, **environ: str) -> Config:
    return load_config(text, "a.yaml", environ)


def faults(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, **environ)
    return str(caught.value).splitlines()


def span(body: str) -> str:
    return f"targets:\n- select: {{pid: 1}}\n  spans:\n  - {body}\n"
