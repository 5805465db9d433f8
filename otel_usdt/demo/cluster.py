"""A PostgreSQL cluster in a temporary folder, reachable by its Unix socket alone, and gone afterwards. Standard library only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from otel_usdt.errors import OtelUsdtError, TargetNotFound

_INSTALLED = Path("/usr/lib/postgresql")  # Debian's and Ubuntu's place: one folder a version
_USER = "postgres"  # both the system's user, for the server refuses to run as root, and the cluster's superuser
_PORT = 5432  # of no interface: only the socket's name has it
_START_S, _STOP_S = 60.0, 20.0
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # nothing here outlives the run
    "shared_buffers": "32MB",
    "max_connections": "40",
}


class DemoFailed(OtelUsdtError):
    """A program of PostgreSQL's did not do what it was started for; the message has what it said."""

    hint = "apt-get install postgresql; then see whether it runs at all: systemctl status postgresql"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running PostgreSQL. `pid` is the postmaster's; every connection is one child process of it."""

    pid: int
    folder: Path  # removed at the end; the server owns data/ and socket/ in it, we the rest
    socket_folder: Path
    bin: Path
    version: str  # the major one, "15"
    user: str  # the superuser; root and the server's own user may connect as it without a password
    port: int = _PORT

    @property
    def log(self) -> Path:
        """The server's messages, its log of statements too where that is set."""
        return self.folder / "log"

    def command(self, program: str, *arguments: str, database: str = "postgres") -> list[str]:
        """The command line of a client program of this version, connected to this cluster."""
        where = ["-h", str(self.socket_folder), "-p", str(self.port), "-U", self.user]
        return [str(self.bin / program), *where, *arguments, database]

    def psql(self, sql: str, database: str = "postgres") -> str:
        """What `sql` returns: unaligned, no header, a row a line. Each call is a connection; statements run one by one.

        DemoFailed has the server's message when one fails.
        """
        return run(self.command("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-", database=database), text=sql).rstrip("\n")


def installed() -> tuple[str, Path]:
    """The newest installed version and its folder of programs. TargetNotFound when there is none."""
    found = [path.parent for path in _INSTALLED.glob("*/bin/postgres") if path.parent.parent.name.isdigit()]
    if not found:
        raise TargetNotFound(f"no PostgreSQL server in {_INSTALLED}", hint="apt-get install postgresql")
    newest = max(found, key=lambda folder: int(folder.parent.name))
    return newest.parent.name, newest


@contextmanager
def postgres_cluster(folder: Path | None = None, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A new cluster that accepts connections; stopped by its pid and removed on the way out, whatever the way.

    `folder` is where its own folder is made (default: the system's temporary one). It must be short, for the socket's name has 107
    characters at most (unix(7)), and the user `postgres` must be able to reach it. `settings` are the server's, as in postgresql.conf.
    While it runs, SIGTERM becomes SystemExit, so that cleaning up is done then too (in the main thread, and unless it is handled already).
    """
    version, programs = installed()
    who = _as_user()
    with _termination_unwinds():
        home = Path(tempfile.mkdtemp(prefix="otel-usdt-pg-", dir=folder))
        try:
            home.chmod(0o711)
            for inner in (home / "data", home / "socket"):
                inner.mkdir(0o700)  # trusts whoever can reach the socket: the server's user and root
                if who:
                    os.chown(inner, who["user"], who["group"])
            options = ["-U", _USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]
            run([str(programs / "initdb"), "-D", str(home / "data"), *options], cwd=home, **who)
            with _postmaster(programs, home, {**_SETTINGS, **(settings or {})}, who) as pid:
                yield Cluster(pid, home, home / "socket", programs, version, _USER)
        finally:
            shutil.rmtree(home)


@contextmanager
def _postmaster(programs: Path, home: Path, settings: Mapping[str, str], who: dict[str, Any]) -> Iterator[int]:
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [str(programs / "postgres"), "-D", str(home / "data"), "-k", str(home / "socket"), "-p", str(_PORT), *options]
    with (home / "log").open("wb") as log:
        # A session of its own: Ctrl-C is for us, and we stop it when everything else is done.
        server = subprocess.Popen(command, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **who)
    try:
        _wait_ready(server, home)
        yield server.pid
    finally:
        _stop(server)


def _wait_ready(server: subprocess.Popen[bytes], home: Path) -> None:
    """Returns when the cluster accepts connections: the eighth line of postmaster.pid says so (pg_ctl waits for the same)."""
    end = time.monotonic() + _START_S
    while server.poll() is None and time.monotonic() < end:
        with suppress(OSError):
            state = (home / "data" / "postmaster.pid").read_text(errors="replace").splitlines()
            if len(state) >= 8 and state[7].strip() == "ready":
                return
        time.sleep(0.02)
    said = (home / "log").read_text(errors="replace").strip()[-2000:]
    what = f"ended with {server.returncode}" if server.poll() is not None else f"is not ready after {_START_S:.0f} s"
    raise DemoFailed(f"PostgreSQL {what}: {said or 'it said nothing'}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Fast shutdown, then immediate, then by force (postgres(1)). Returns when the process is gone."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if server.poll() is None:
            server.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_S)
            return


def _as_user() -> dict[str, Any]:
    """What makes subprocess start a program as `postgres` when we are root; as ourselves otherwise."""
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam(_USER)
    except KeyError:
        raise TargetNotFound(f"this system has no user {_USER!r}", hint="apt-get install postgresql") from None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def run(command: list[str], *, text: str = "", **options: Any) -> str:
    """Standard output of a program that succeeds."""
    environment = {**os.environ, "PGAPPNAME": "otel-usdt", "LC_ALL": "C"}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, input=text, capture_output=True, encoding="utf-8", env=environment, check=False, **options
    )
    if done.returncode != 0:
        raise DemoFailed(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    def leave(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the cleaning up
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
