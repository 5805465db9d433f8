"""A session's supervisor that waits for its order. The server keeps one, with its children warm and its programs verified, so that
attaching takes milliseconds. Standard library only, root.

server -> standby   {"attach": SOURCE, "folder": PATH} with descriptors: the request for the planner, and the standard error of who asks
standby -> server   {"attached": {...}}, what `otel-usdt sessions` tells of it; how it ends is its exit code
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from otel_usdt.channel import Channel
from otel_usdt.children import UNPRIVILEGED, Planner, say
from otel_usdt.errors import ConfigError, OtelUsdtError
from otel_usdt.planner import WARM
from otel_usdt.probes import syscalls
from otel_usdt.succession import Pipeline
from otel_usdt.supervisor import catch_signals

if TYPE_CHECKING:
    from otel_usdt.plan import Plan

# Words of configurations, for each of which programs are verified: one that can do all costs more a hit, and is for those that want it.
LIKELY = ("function, enter, error", "enter, string", "enter, string, traceparent, key, dimensions")


def session_object(plan: Plan, source: str, sites: int, now_s: float) -> dict[str, Any]:
    """What there is to say of a session that was attached at that Unix time; the server adds its name."""
    return {
        "source": source,
        "owner": plan.lease.owner,
        "reason": plan.lease.reason,
        "targets": [target.name for target in plan.targets],
        "spans": len(plan.spans),
        "sites": sites,
        "pid": os.getpid(),
        "attached_unix_s": now_s,
        "ends_unix_s": now_s + plan.lease.ttl_s if plan.lease.ttl_s else None,
    }


def stand_by(server: Channel, signals: socket.socket) -> int:
    """Prepare, wait, and be the session that is asked for. Returns its exit code, 0 when there is none to be."""
    planner, pipeline = Planner(WARM), Pipeline(UNPRIVILEGED)
    with ExitStack() as stack:
        stack.callback(pipeline.finish)
        from otel_usdt.session import prepared, run_session  # now: its imports take as long as theirs

        failure = None
        try:
            ready = stack.enter_context(prepared(*LIKELY))
        except OtelUsdtError as error:
            failure = error  # for who asks: nobody reads it now
        order = server.receive()
        if order is None:
            planner.dismiss()
            return 0
        told, (request, errors) = order
        own = os.dup(2)
        os.dup2(errors, 2)
        os.close(errors)
        try:
            os.chdir(told["folder"])  # relative paths of files are opened from there, as by `run`
        except OSError as error:
            raise ConfigError(
                f"the server does not reach the folder {told['folder']}: {error.strerror}", hint="attach from another"
            ) from error
        with os.fdopen(request, "rb") as file:
            planner.ask(file.read())

        def attached(plan: Plan, sites: int) -> None:
            server.send({"attached": session_object(plan, told["attach"], sites, time.time())})
            os.dup2(own, 2)  # who asked need not stay
            os.close(own)

        if failure:
            raise failure
        return run_session(ready, planner, pipeline, signals, attached)


def main(arguments: list[str]) -> int:
    """Argument: the descriptor of our end of the channel to the server. All is detached when the server is gone."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        return stand_by(Channel(socket.socket(fileno=int(arguments[0]))), catch_signals())
    except OtelUsdtError as error:
        say(error.told())
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
