"""Whole sessions with a spool: what the collector missed is on disk, and arrives once, whoever was killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed, nonzero
from tests.kernel.processes import pipeline, supervisor
from tests.kernel.program import Workload
from tests.kernel.session import COMMAND, Session, wait_until
from tests.pipeline.receivers import grpc_receiver

pytestmark = pytest.mark.kernel

LEAF = {"name": "leaf", "function": "leaf"}


@pytest.fixture
def port() -> int:
    """One where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free: int = server.getsockname()[1]
        return free


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Not there yet. Its parents let the pipeline's user through only by the descriptor that it is handed."""
    return tmp_path / "spool"


def traced(otel_usdt: Commands, workload: Workload, port: int, spool: Path, **more: Any) -> Session:
    export = {"otlp": {"endpoint": f"http://127.0.0.1:{port}"}, "spool": {"path": str(spool), **more}, "console": {"view": "all"}}
    return otel_usdt.spans(workload.pid, LEAF, export=export)


def status(spool: Path) -> dict[str, Any]:
    """What `otel-usdt spool status --json` says."""
    told: dict[str, Any] = json.loads(
        subprocess.run([*COMMAND, "spool", "status", "--json", spool], capture_output=True, check=True).stdout
    )
    return told


def says(session: Session, what: str) -> None:
    wait_until(lambda: what in "".join(session.err), what)


def test_spans_wait_on_disk_for_the_next_session(workload: Workload, otel_usdt: Commands, stack: ExitStack, port: int, spool: Path) -> None:
    """A session without a collector spools all; the next delivers them, each once, beside its own."""
    session = traced(otel_usdt, workload, port, spool)
    workload.run("leaf 1009")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"]) == {"entries": 1009, "returns": 1009, "calls": 1009, "recorded": 1009, "spooled": 1009}
    assert (status(spool)["spans"], status(spool)["torn"]) == ({"leaf": 1009}, 0)
    assert (spool.stat().st_mode & 0o777, spool.owner()) == (0o700, "nobody")
    _, received = stack.enter_context(grpc_receiver(port=port))
    again = traced(otel_usdt, workload, port, spool)
    workload.run("leaf 11")
    wait_until(lambda: len(received.span_ids()) == 1020, "all spans")
    told = again.stop()
    assert nonzero(told.ledger["leaf"])["exported"] == 11
    assert len(set(received.span_ids())) == len(received.span_ids()) == 1020
    assert status(spool)["requests"] == 0


def test_what_was_spooled_survives_a_killed_session(
    workload: Workload, otel_usdt: Commands, stack: ExitStack, port: int, spool: Path
) -> None:
    """SIGKILL of both in the midst of an outage: what was on disk arrives with the next session."""
    session = traced(otel_usdt, workload, port, spool)
    workload.run("leaf 503")
    wait_until(lambda: spool.exists() and status(spool)["spans"] == {"leaf": 503}, "the spans on disk")
    for one in (supervisor(session), pipeline(session)):
        os.kill(one.pid, signal.SIGKILL)
    session.wait()
    _, received = stack.enter_context(grpc_receiver(port=port))
    again = traced(otel_usdt, workload, port, spool)
    wait_until(lambda: len(received.span_ids()) == 503, "all spans")
    assert again.stop().exit_code == 0
    assert len(set(received.span_ids())) == len(received.span_ids()) == 503


def test_a_collector_that_is_back_gets_all_within_the_session(
    workload: Workload, otel_usdt: Commands, stack: ExitStack, port: int, spool: Path
) -> None:
    """The disk is only a way: at the end nothing is left on it, and the ledger says exported."""
    session = traced(otel_usdt, workload, port, spool)
    workload.run("leaf 307")
    says(session, "the OTLP receiver is away; spans wait on disk")
    _, received = stack.enter_context(grpc_receiver(port=port))
    wait_until(lambda: len(received.span_ids()) == 307, "the spans from the disk")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"])["exported"] == 307
    assert status(spool)["requests"] == 0


def test_a_full_disk_is_said_and_loses_nothing(workload: Workload, otel_usdt: Commands, stack: ExitStack, port: int, spool: Path) -> None:
    """A file system of 64 KiB: what does not fit waits in memory, and all arrives when the collector does."""
    spool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(spool)], check=True)
    stack.callback(subprocess.run, ["umount", "-l", str(spool)], check=True)
    spool.chmod(0o700)
    session = traced(otel_usdt, workload, port, spool)
    for _ in range(8):
        workload.run("leaf 211")
    says(session, "spool: No space left on device; spans wait in memory")
    _, received = stack.enter_context(grpc_receiver(port=port))
    wait_until(lambda: len(set(received.span_ids())) == 8 * 211, "all spans")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["leaf"])["exported"] == len(received.span_ids()) == 8 * 211


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.mkdir(mode=0o777) or path.chmod(0o777), "is not nobody's alone"),
        (lambda path: path.symlink_to("/tmp"), "Not a directory"),
        (lambda path: path.write_text(""), "Not a directory"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_a_folder_that_is_not_ours_is_refused(
    workload: Workload, otel_usdt: Commands, port: int, spool: Path, make: Any, told: str
) -> None:
    """Where others could write, or that is no folder: said, with what to do; nothing is attached."""
    place = spool if told != "No such file or directory" else spool / "deeper"
    make(place)
    export = {"otlp": {"endpoint": f"http://127.0.0.1:{port}"}, "spool": {"path": str(place)}}
    session = otel_usdt.start("run", otel_usdt.write({"targets": [{"select": {"pid": workload.pid}, "spans": [LEAF]}], "export": export}))
    ended = session.wait()
    assert (ended.exit_code, told in ended.stderr, "choose another export.spool.path" in ended.stderr) == (2, True, True)
    assert workload.breakpoints("leaf") == 0


def test_one_folder_is_one_sessions(workload: Workload, otel_usdt: Commands, port: int, spool: Path) -> None:
    """A second session on it is refused while the first has it."""
    traced(otel_usdt, workload, port, spool)
    export = {"otlp": {"endpoint": f"http://127.0.0.1:{port}"}, "spool": {"path": str(spool)}}
    second = otel_usdt.start("run", otel_usdt.write({"targets": [{"select": {"pid": workload.pid}, "spans": [LEAF]}], "export": export}))
    ended = second.wait()
    assert (ended.exit_code, "is another session's" in ended.stderr) == (2, True)
