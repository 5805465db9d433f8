"""Instructions a span, by callgrind: a count that no load of the machine changes. `python -m tests.bench.instructions PATH TURNS` is what
it runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from otel_usdt.pipeline import AT_ONCE
from tests.bench import encode
from tests.bench.bench import Bench
from tests.bench.results import Row, Spread, at_most

# What is counted: each makes ready, and returns a turn, which returns how many spans it has encoded.
PATHS: dict[str, Callable[[], Callable[[], int]]] = {
    "numbers": lambda: partial(encode.ring_to_bytes, encode.FullRing(encode.calls(AT_ONCE)), encode.NUMBERS),
    "text": lambda: partial(encode.ring_to_bytes, encode.FullRing(encode.with_texts(AT_ONCE)), encode.TEXTS),
    "sdk": lambda: encode.sdk,
}
TURNS = 1, 3  # what comes with the first one besides, such as late imports, is in both


def counted(path: str, turns: int) -> tuple[int, int]:
    """Instructions of a process that does so many turns, its start and end included; and the spans of one turn."""
    told = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-m", __name__, path, str(turns)],
        env={**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    (collected,) = re.findall(r"Collected : (\d+)", told.stderr)
    return int(collected), int(told.stdout)


def measure(bench: Bench) -> Iterator[Row]:
    """Of each path, the difference between a process that encodes three times and one that does once."""
    paths = ["numbers"] if bench.quick else [*PATHS]
    bench.say("counting instructions (a minute)")
    runs = [(path, turns) for path in paths for turns in TURNS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # beside each other: it is no matter of time
        found = dict(zip(runs, pool.map(lambda run: counted(*run), runs), strict=True))
    few, many = TURNS
    a_span = {path: Spread(((found[path, many][0] - found[path, few][0]) / (many - few) / found[path, few][1],)) for path in paths}
    peer = a_span.get("sdk")
    floor = at_most(1 / 50) if peer else None
    yield Row("a span with three numbers, ring to OTLP", "instructions", a_span["numbers"], peer, "the OpenTelemetry SDK", floor=floor)
    if "text" in paths:
        yield Row(f"a span with a text of {encode.TEXT} bytes, ring to OTLP", "instructions", a_span["text"])


if __name__ == "__main__":
    turn = PATHS[sys.argv[1]]()
    spans = [turn() for _ in range(int(sys.argv[2]))]
    print(spans[0])
