"""The planner: a child for as long as one plan takes. It parses what may be hostile (YAML, ELF, /proc) and may attach nothing.

On standard input a request (request.py): the configuration's text, its name for messages, the folder where relative paths
start, and the environment of who asks. On standard output the plan, or an error. Both are JSON. Arguments: --disassembled, where the
plan is for people; --warm, where the request comes later, and is to find all loaded that a plan may need.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from otel_usdt.errors import OtelUsdtError

if TYPE_CHECKING:
    from otel_usdt.plan import Plan

DISASSEMBLED, WARM = "--disassembled", "--warm"


def plan_of(text: str, source: str, folder: str, environment: Mapping[str, str], *, disassembled: bool = False) -> Plan:
    """The plan for a configuration's text, in that environment."""
    from otel_usdt.config import load_config  # heavy, and so after the collector of garbage is off
    from otel_usdt.planning import make_plan

    return make_plan(load_config(text, source, environment), environment, Path(folder), disassembled=disassembled)


def rehearse() -> None:
    """Plan for a library of Python's own: what a plan loads and prepares where it first needs it is then there."""
    import _ctypes

    target = {"select": {"binary": getattr(_ctypes, "__file__", "")}, "scope": "binary", "spans": [{"function": "PyInit__ctypes"}]}
    with contextlib.suppress(OtelUsdtError):  # where it is built in: then a first plan takes a little longer
        plan_of(json.dumps({"targets": [target]}), "", "/", {}, disassembled=True)


def main(arguments: list[str]) -> int:
    """Answer with a plan or an error; without a request, nothing."""
    import otel_usdt.config
    import otel_usdt.planning  # noqa: F401  before the request, which may come later

    if WARM in arguments:
        rehearse()
    request = sys.stdin.read()
    if not request:
        return 0
    try:
        told = plan_of(**json.loads(request), disassembled=DISASSEMBLED in arguments).to_dict()
    except OtelUsdtError as error:
        told = error.to_dict()
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(sys.stdout.fileno()), "w") as answer:
        answer.write(json.dumps(told))  # to nobody, when the supervisor has failed meanwhile and said why
    return 0


if __name__ == "__main__":
    gc.disable()  # a twentieth of what the imports take, and this process is gone before its garbage matters
    status = main(sys.argv[1:])
    os.close(sys.stdout.fileno())  # the answer's end: nobody need wait for ours
    os._exit(status)  # taking numpy and pydantic apart in order takes 80 ms, for which the supervisor would wait
