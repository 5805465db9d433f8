"""A receiver whose name is not known, and then is: in a mount namespace with an /etc/hosts of its own, so that nobody else sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from otel_usdt.otlp.client import Accepted, Exporter, Retry
from otel_usdt.otlp.queue import Delivery
from otel_usdt.plan import OtlpExport
from tests.delivery.load import QUICK
from tests.delivery.receivers import How
from tests.delivery.truth import Sink, Witness, reconcile
from tests.kernel.session import wait_until
from tests.pipeline.receivers import grpc_receiver, http_receiver
from tests.pipeline.scripted import NAMES, spans

UNKNOWN_S = 3.0  # long enough for gRPC's own patience between its questions to be longer than ours


@pytest.mark.kernel
@pytest.mark.parametrize("how", ["grpc", "http/protobuf"])
def test_a_name_that_is_known_only_later_costs_nothing(how: How, tmp_path: Path) -> None:
    """Every attempt until then says that the name is unknown; the first that begins afterwards is taken, and each span is there once."""
    hosts = tmp_path / "hosts"
    hosts.write_bytes(Path("/etc/hosts").read_bytes())
    inside = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", inside, "sh", sys.executable, "-m", "tests.delivery.test_name", how]
    told = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=100, check=False)
    assert told.returncode == 0, told.stderr
    attempts = json.loads(told.stdout)
    assert attempts["before"] > 5
    assert attempts["failed after"] == 0


def main(how: How) -> None:
    """Within the namespace: a delivery to a name, whose address comes later."""
    sink = Sink()
    receiver = grpc_receiver(into=sink) if how == "grpc" else http_receiver(into=sink)
    with receiver as (port, _), closing(Witness(Exporter(OtlpExport(f"http://collector.invalid:{port}", how)))) as witness:
        queue = Delivery(witness, 1 << 20, NAMES, lambda line: None, QUICK, concurrency=4)
        for n in range(10):
            encoded = spans(10, first=1 + 10 * n)
            queue.put("traces", encoded.body, encoded.counts)
        time.sleep(UNKNOWN_S)
        wait_until(lambda: len(witness.attempts) > 5, "some attempts")
        before = len(witness.attempts)
        with Path("/etc/hosts").open("a") as hosts:
            hosts.write("127.0.0.1 collector.invalid\n")
        known = len(witness.attempts)
        wait_until(lambda: not queue.totals().queued, "all spans")
        queue.close(1)
    reconcile(100, sink, witness, queue.totals(), unknown_requests=0)
    outcomes = [outcome for _, outcome in witness.attempts]
    assert all(isinstance(outcome, Retry) for outcome in outcomes[:before])
    after = outcomes[known + 1 :]  # but for one that was under way
    print(json.dumps({"before": before, "failed after": sum(not isinstance(outcome, Accepted) for outcome in after)}))


if __name__ == "__main__":
    main("grpc" if sys.argv[1] == "grpc" else "http/protobuf")
