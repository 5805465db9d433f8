"""otel-usdt demo: the whole way in a pipe, and nothing left behind, whoever ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_usdt.cli.demo import document
from tests.kernel.session import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.postgres]

COMMAND = [sys.executable, "-m", "otel_usdt.cli.main", "demo"]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The demo's temporary folder, of this test alone; short enough for a socket's name, and open to the server's user."""
    with tempfile.TemporaryDirectory(prefix="demo-", dir="/tmp") as made:
        Path(made).chmod(0o711)
        monkeypatch.setenv("TMPDIR", made)
        yield Path(made)


def test_demo_shows_trees_histograms_and_a_closed_ledger(place: Path) -> None:
    """In a pipe: some trees, the figures of the steps inside a query, the ledger, the file; PostgreSQL is gone afterwards."""
    done = subprocess.run([*COMMAND, "--seconds", "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{6}Z +\S+ .s  query .*db\.query\.text=", done.stdout, re.MULTILINE)
    assert re.search(r"^ +\+\S+ .s +\S+ .s {4,}parse", done.stdout, re.MULTILINE)
    assert re.search(r"more traces, not shown here$", done.stdout, re.MULTILINE)
    assert {"query", "parse", "rewrite", "plan", "execute", "transaction"} <= set(
        re.findall(r"^(\w+): [\d,]+ calls?$", done.stdout, re.MULTILINE)
    )
    assert done.stdout.splitlines()[-1].startswith("closed: every call is accounted for")
    (output,) = place.iterdir()
    assert str(output) in done.stderr.splitlines()[-1]
    assert {key for line in output.read_text().splitlines() for key in json.loads(line)} >= {"resourceSpans", "resourceMetrics"}


def test_demo_that_is_terminated_leaves_nothing(place: Path) -> None:
    """SIGTERM in the middle: the session detaches, the cluster's folder and processes go."""
    with subprocess.Popen([*COMMAND, "--output", str(place / "spans.jsonl")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert [path.name for path in place.iterdir()] == ["spans.jsonl"]
    wait_until(lambda: not _mentioning(place), "the end of the cluster's processes")


def _mentioning(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_demo_traces_the_shipped_example(tmp_path: Path) -> None:
    """Its document is examples/postgresql.yaml with another target and other exports: no probe is left out or added."""
    made = document(os.getpid(), tmp_path / "out")
    (target,) = made["targets"]
    assert target["select"] == {"pid": os.getpid()}
    assert target["capture"] == {"text": True}
    assert target["scope"] == "tree"
    assert {"query", "parse", "rewrite", "plan", "execute", "sort", "transaction", "lock wait"} <= {s["name"] for s in target["spans"]}
