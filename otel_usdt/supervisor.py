"""The supervisor: root, small, standard library only. Its death, by whatever cause, detaches everything.

It has no network and never reads what was captured; a planner (unprivileged but for reading other processes) makes the plan, a pipeline
(no rights at all) reads the ring and exports. Both are started first and warm up while the rest (session.py) is imported.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from otel_usdt.children import UNPRIVILEGED, Planner, say
from otel_usdt.errors import NotPermitted, OtelUsdtError
from otel_usdt.probes import syscalls
from otel_usdt.request import read_configuration, request_for
from otel_usdt.succession import Pipeline

DIE_WITH_PARENT = "--die-with-parent"


def require_root() -> None:
    """For whoever attaches, or starts those who do."""
    if os.geteuid() != 0:
        raise NotPermitted("attaching needs root (CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH)")


def catch_signals() -> socket.socket:
    """SIGTERM, SIGINT and SIGHUP as bytes to select on."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    _KEPT.append(writer)
    return reader


_KEPT: list[socket.socket] = []  # the wakeup descriptor must outlive the function that made it


def main(arguments: list[str] | None = None) -> int:
    """Run one session: CONFIGURATION [--die-with-parent]. Errors are told on standard error with their remedy.

    The configuration is a file, or - for standard input; with the flag, all is detached when the command that started this is gone.
    """
    told = sys.argv[1:] if arguments is None else arguments
    source = told[0]
    try:
        if DIE_WITH_PARENT in told:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
        require_root()
        config = read_configuration(source)
        signals = catch_signals()
        planner = Planner()
        planner.ask(request_for(config, source, str(Path.cwd())))
        pipeline = Pipeline(UNPRIVILEGED)
        try:
            from otel_usdt.session import prepared, run_session  # now: its imports take as long as theirs

            with prepared(config) as ready:
                return run_session(ready, planner, pipeline, signals)
        finally:
            pipeline.finish()
    except OtelUsdtError as error:
        say(error.told())
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
