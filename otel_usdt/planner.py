"""The planner: a child for as long as one plan takes. It parses what may be hostile (YAML, ELF, /proc) and may attach nothing.

Configuration text on standard input; the plan, or an error, as JSON on standard output. Arguments: the configuration's name for messages,
and the folder where relative paths start; then --disassembled, where the plan is for people.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from otel_usdt.errors import OtelUsdtError

if TYPE_CHECKING:
    from otel_usdt.plan import Plan

DISASSEMBLED = "--disassembled"


def plan_of(text: str, source: str, folder: Path, *, disassembled: bool = False) -> Plan:
    """The plan for a configuration's text, with this process's environment."""
    from otel_usdt.config import load_config  # heavy, and so after the collector of garbage is off
    from otel_usdt.planning import make_plan

    return make_plan(load_config(text, source, os.environ), os.environ, folder, disassembled=disassembled)


def main(arguments: list[str]) -> int:
    """Answer with a plan or an error."""
    source, folder, *options = arguments
    try:
        told = plan_of(sys.stdin.read(), source, Path(folder), disassembled=DISASSEMBLED in options).to_dict()
    except OtelUsdtError as error:
        told = error.to_dict()
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(sys.stdout.fileno()), "w") as answer:
        json.dump(told, answer)  # to nobody, when the supervisor has failed meanwhile and said why
    return 0


if __name__ == "__main__":
    gc.disable()  # a twentieth of what the imports take, and this process is gone before its garbage matters
    status = main(sys.argv[1:])
    os._exit(status)  # taking numpy and pydantic apart in order takes 80 ms, for which the supervisor would wait
