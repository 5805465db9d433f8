"""An installation that only root may read, such as a checkout in /root: once the pipeline has no rights, it imports nothing any more."""

from __future__ import annotations

import re
import signal
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest

from tests.kernel.commands import Commands
from tests.kernel.program import Workload
from tests.kernel.session import wait_until
from tests.pipeline.certificates import make_all, receiver
from tests.pipeline.receivers import Abort, Answer, accept, grpc_receiver, http_receiver

pytestmark = pytest.mark.kernel

# Python and our code, mounted in a folder that is root's alone, where nobody else sees them; then the command by that Python.
ENTER = """
mount -t tmpfs -o mode=0700 private "$0" && mkdir "$0/venv" "$0/code" &&
    mount --bind "$1" "$0/venv" && mount --bind "$2" "$0/code" || exit 1
shift 3
exec "$0/venv/bin/python" "$@"
"""
STEP = {"operation": {"arg": 1, "as": "string"}, "tenant": {"arg": 2}}
SPANS: list[dict[str, Any]] = [
    {"name": "step", "function": "step", "attributes": STEP, "histogram": {"dimensions": ["operation"]}, "error": {"return": "< 0"}},
    {"name": "job", "enter": "func:put", "return": "func:got", "key": {"arg": 1}, "attributes": {"put": {"arg": 2}}},
    {"name": "leaf", "function": "leaf", "mode": "count"},
    {"name": "outer", "function": "outer"},
]


def away_once(number: int) -> Any:
    """The first request is to come again."""
    return Abort(grpc.StatusCode.UNAVAILABLE, "not yet") if number == 0 else accept(number)


def away_once_by_http(number: int) -> Answer:
    """The same."""
    return Answer(503) if number == 0 else Answer()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_it_needs_to_read_nothing(
    workload: Workload, otel_usdt: Commands, stack: ExitStack, tmp_path: Path, protocol: str, secure: bool
) -> None:
    """With all that a pipeline does: texts, series, keyed calls, OTLP, a file, a spool, metrics, its own page."""
    folder = Path(stack.enter_context(TemporaryDirectory()))
    folder.chmod(0o755)  # certificates are the one thing that it reads without rights
    make_all(folder)
    plain = grpc_receiver(away_once) if protocol == "grpc" else http_receiver(away_once_by_http)
    port, received = stack.enter_context(receiver(protocol, folder) if secure else plain)
    otlp = {"endpoint": f"https://localhost:{port}", "certificate": str(folder / "authority.pem")}
    if not secure:
        otlp = {"endpoint": f"http://127.0.0.1:{port}"}
    configuration = {
        "targets": [{"select": {"pid": workload.pid}, "capture": {"text": True}, "spans": SPANS}],
        "export": {
            "otlp": {**otlp, "protocol": protocol, "compression": "gzip"},
            "file": {"path": str(tmp_path / "spans.jsonl")},
            "spool": {"path": str(tmp_path / "spool")},
            "interval": 0.2,
        },
        "telemetry": {"listen": "127.0.0.1:0"},
    }
    code = Path(__file__).parents[2]
    private = tmp_path / "private"
    private.mkdir()
    through = ("unshare", "--mount", "sh", "-c", ENTER, str(private), sys.prefix, str(code))
    session = otel_usdt.run(configuration, through=through, environment={"PYTHONPATH": str(private / "code")})
    for command in ("steps 2 503", "pool 211 3", "outer 101"):
        workload.run(command)
    calls = 2 * 503 + 211 + 101
    wait_until(lambda: len(set(received.span_ids())) == calls and len(received.metrics) > 1, "every span, and metrics twice")
    (page,) = re.findall(r"telemetry: (\S+)", "".join(session.err))
    with urllib.request.urlopen(page) as answer:
        assert b"otel_usdt" in answer.read()
    told = session.stop(signal.SIGTERM)
    assert told.exit_code == 0, told.stderr
    assert "the pipeline ended" not in told.stderr, told.stderr
    assert not any(private.iterdir()), "it is mounted where others see it"
