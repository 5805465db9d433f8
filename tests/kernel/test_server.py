"""Sessions of one server: attached in milliseconds, each on its own, listed, detached; and what goes wrong is said to who asks."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.kernel.commands import Commands
from tests.kernel.program import Workload
from tests.kernel.session import COMMAND, MARK, PATIENCE_S, Session, wait_until

pytestmark = pytest.mark.kernel

Told = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Server:
    """A running `otel-usdt serve`, and the commands that speak to it."""

    commands: Commands
    socket: Path
    process: Session

    def tell(self, *arguments: str | Path, environment: dict[str, str] | None = None, **how: Any) -> Told:
        """What a command says, which finds the server by the environment."""
        own = {**os.environ, **MARK, "OTEL_USDT_SOCKET": str(self.socket), **(environment or {})}
        return subprocess.run([*COMMAND, *map(str, arguments)], env=own, capture_output=True, text=True, timeout=PATIENCE_S, **how)

    def attach(self, *spans: dict[str, Any], pid: int, **document: Any) -> Told:
        """A session with one target."""
        target = {"select": {"pid": pid}, "scope": "pid", "spans": list(spans)}
        return self.tell("attach", self.commands.write({"targets": [target], **document}))

    def sessions(self) -> list[dict[str, Any]]:
        told = self.tell("sessions", "--json")
        assert told.returncode == 0, told.stderr
        return [json.loads(line) for line in told.stdout.splitlines()]

    def detach(self, name: str) -> Told:
        return self.tell("detach", name)

    def supervisors(self) -> set[int]:
        """The processes of its sessions, and of what stands by."""
        return {one.pid for one in psutil.Process(self.process.pid).children()}

    def standby(self) -> int:
        """The process that waits for an order."""
        wait_until(lambda: len(self.supervisors()) == 1, "a process that stands by")
        return self.supervisors().pop()


Serve = Callable[..., Server]


@pytest.fixture
def serve(otel_usdt: Commands, tmp_path: Path) -> Serve:
    """Starts a server of the test's own."""

    def serve(**how: Any) -> Server:
        path = tmp_path / "run" / "server.sock"
        process = otel_usdt.start("serve", "--socket", path, **how)
        wait_until(lambda: any("serving at" in line for line in list(process.err)), f"the server; so far: {''.join(process.err)}")
        return Server(otel_usdt, path, process)

    return serve


def spans_in(path: Path) -> list[dict[str, Any]]:
    """The spans in a file of OTLP/JSON lines."""
    requests = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        span
        for request in requests
        for resource in request.get("resourceSpans", [])
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def test_a_session_begins_and_ends_by_commands(workload: Workload, serve: Serve, tmp_path: Path) -> None:
    """It is listed with its owner and its lease, has every call in its file when `detach` returns, and another one may follow."""
    server = serve()
    out = tmp_path / "spans.jsonl"
    lease = {"owner": "team-orders", "reason": "INC-1", "ttl": "1h"}
    told = server.attach({"function": "leaf"}, pid=workload.pid, lease=lease, export={"file": {"path": str(out)}})
    assert told.returncode == 0, told.stderr
    assert "attached\n" in told.stderr
    workload.run("leaf 211")
    (session,) = server.sessions()
    assert (session["session"], session["owner"], session["reason"], session["sites"]) == ("1", "team-orders", "INC-1", 2)
    assert 3500 < session["ends_unix_s"] - time.time() < 3600 < session["ends_unix_s"] - session["attached_unix_s"] + 1
    assert server.tell("sessions").stdout.splitlines()[1].split()[2:5] == ["team-orders", "INC-1", "2"]
    assert workload.breakpoints("leaf") == 1
    told = server.detach("1")
    assert told.returncode == 0, told.stderr
    assert workload.breakpoints("leaf") == 0
    assert len(spans_in(out)) == 211
    assert server.sessions() == []
    assert server.tell("sessions").stdout == "no sessions\n"
    wait_until(lambda: "otel-usdt[1]: detached: SIGTERM\n" in server.process.err, "what the session says at its end")
    again = server.attach({"function": "leaf"}, pid=workload.pid, export={"file": {"path": str(tmp_path / "again.jsonl")}})
    assert again.returncode == 0
    assert [session["session"] for session in server.sessions()] == ["2"]
    assert server.detach("1").returncode == 4
    assert server.process.stop(signal.SIGTERM).exit_code == 0
    assert workload.breakpoints("leaf") == 0
    assert not server.socket.exists()


def test_two_sessions_at_once_have_every_call_each(workload: Workload, serve: Serve, tmp_path: Path) -> None:
    """On one function, and the end of one is nothing to the other; a relative path is the client's."""
    server = serve()
    for name in ("one", "two"):
        told = server.attach({"name": name, "function": "leaf"}, pid=workload.pid, export={"file": {"path": str(tmp_path / name)}})
        assert told.returncode == 0, told.stderr
    workload.run("leaf 101")
    assert server.detach("1").returncode == 0
    workload.run("leaf 53")
    assert server.detach("2").returncode == 0
    assert [len(spans_in(tmp_path / name)) for name in ("one", "two")] == [101, 154]


def test_a_configuration_is_read_as_who_attaches_it_would(workload: Workload, serve: Serve, tmp_path: Path) -> None:
    """With the command's environment and from its folder, not the server's; from standard input too."""
    server = serve()
    document = {
        "targets": [{"select": {"pid": workload.pid}, "scope": "pid", "spans": [{"function": "${FUNCTION}"}]}],
        "export": {"file": {"path": "relative.jsonl"}},
    }
    environment = {"FUNCTION": "leaf", "PYTHONPATH": str(Path.cwd())}
    told = server.tell("attach", "--json", "-", environment=environment, input=json.dumps(document), cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["sites"] == 2
    workload.run("leaf 7")
    assert server.detach("1").returncode == 0
    assert len(spans_in(tmp_path / "relative.jsonl")) == 7


def test_who_asks_is_told_what_is_wrong(workload: Workload, serve: Serve, tmp_path: Path) -> None:
    """With the exit code of `run`, at the client; the server goes on."""
    server = serve()
    told = server.attach({"function": "laef"}, pid=workload.pid)
    assert (told.returncode, "has no function laef" in told.stderr) == (4, True)
    bad = tmp_path / "bad.yaml"
    bad.write_text("targets: 7\n")
    told = server.tell("attach", bad)
    assert told.returncode == 2
    assert f"{bad}:1:10: targets" in told.stderr
    told = server.tell("attach", tmp_path / "absent.yaml")
    assert (told.returncode, "No such file" in told.stderr) == (2, True)
    assert not any("leaf" in line or "bad.yaml" in line for line in server.process.err)
    assert server.sessions() == []
    told = server.detach("3")
    assert (told.returncode, "otel-usdt sessions lists them" in told.stderr) == (4, True)
    assert server.attach({"function": "leaf"}, pid=workload.pid).returncode == 0


def test_without_a_server(otel_usdt: Commands, serve: Serve, tmp_path: Path) -> None:
    """None listens; one that was killed has left its socket; one that lives keeps another from its place."""
    config = otel_usdt.write({"targets": []})
    for command in (("attach", config), ("sessions",), ("detach", "1")):
        told = otel_usdt.start(*command, "--socket", tmp_path / "none").wait()
        assert (told.exit_code, "start one: otel-usdt serve" in told.stderr) == (4, True)
    first = serve()
    told = otel_usdt.start("serve", "--socket", first.socket).wait()
    assert (told.exit_code, "listens" in told.stderr) == (2, True)
    assert first.process.stop(signal.SIGKILL).exit_code == -signal.SIGKILL
    assert first.socket.exists()
    assert serve().sessions() == []


def test_a_server_is_for_its_user_alone(otel_usdt: Commands, serve: Serve) -> None:
    """Whoever may write to its socket may attach, so nobody else may."""
    server = serve()
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600
    # Another user, who may read our code wherever it lies.
    nobody = ("setpriv", "--reuid=nobody", "--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    told = otel_usdt.start("sessions", "--socket", server.socket, through=nobody).wait()
    assert (told.exit_code, "the server is for root" in told.stderr) == (3, True), told.stderr


def test_sessions_end_with_a_server_that_is_killed(workload: Workload, serve: Serve) -> None:
    """By SIGKILL too, every probe is detached."""
    server = serve()
    assert server.attach({"function": "leaf"}, pid=workload.pid).returncode == 0
    assert workload.breakpoints("leaf") == 1
    server.process.process.kill()
    wait_until(lambda: workload.breakpoints("leaf") == 0, "the detach")


def test_a_session_that_ends_by_itself_is_listed_no_more(workload: Workload, serve: Serve) -> None:
    """By its lease, and by its own death."""
    server = serve()
    assert server.attach({"function": "leaf"}, pid=workload.pid, lease={"ttl": "0.2s"}).returncode == 0
    wait_until(lambda: server.sessions() == [], "the end of the lease")
    assert server.attach({"function": "leaf"}, pid=workload.pid).returncode == 0
    os.kill(server.sessions()[0]["pid"], signal.SIGKILL)
    wait_until(lambda: server.sessions() == [], "its end")
    assert workload.breakpoints("leaf") == 0


def test_what_stands_by_may_be_killed(workload: Workload, serve: Serve) -> None:
    """Then the next attach starts another, and waits for it."""
    server = serve()
    os.kill(server.standby(), signal.SIGKILL)
    told = server.attach({"function": "leaf"}, pid=workload.pid)
    assert told.returncode == 0, told.stderr


def test_who_no_longer_waits_for_an_attach_gets_none(workload: Workload, serve: Serve) -> None:
    """The command is interrupted while the session is on its way: that is detached again."""
    server = serve()
    standby = server.standby()
    wait_until(lambda: len(psutil.Process(standby).children()) == 2, "planner and pipeline, which it starts once it catches signals")
    target = {"select": {"pid": workload.pid}, "scope": "pid", "spans": [{"function": "leaf"}]}
    config = server.commands.write({"targets": [target]})
    own = {**os.environ, **MARK, "OTEL_USDT_SOCKET": str(server.socket)}
    by_hand = ["env", "--default-signal=INT"]  # these tests may run in a shell's background, where SIGINT is ignored
    os.kill(standby, signal.SIGSTOP)
    try:
        with subprocess.Popen([*by_hand, *COMMAND, "attach", str(config)], env=own, stderr=subprocess.DEVNULL) as command:
            wait_until(lambda: len(server.supervisors()) == 2, "the next to stand by, for this one has its order")
            command.send_signal(signal.SIGINT)
        assert command.returncode == 130
    finally:
        os.kill(standby, signal.SIGCONT)
    wait_until(lambda: standby not in server.supervisors(), "its end")
    wait_until(lambda: "otel-usdt[1]: detached: SIGTERM\n" in server.process.err, "what the session says at its end")
    assert server.sessions() == []
    assert workload.breakpoints("leaf") == 0


def test_without_rights_each_attach_says_so(workload: Workload, serve: Serve) -> None:
    """The server itself needs none; what it lacks is told to who attaches."""
    server = serve(through=("setpriv", "--bounding-set=-bpf,-sys_admin,-perfmon"))
    for _ in range(2):
        told = server.attach({"function": "leaf"}, pid=workload.pid)
        assert (told.returncode, "BPF maps" in told.stderr) == (3, True), told.stderr
