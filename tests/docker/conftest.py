"""What tests with containers stand on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.daemon import Docker, dockerd
from tests.kernel.fixtures import nothing_left_behind, otel_usdt, stack
from tests.kernel.program import compile_workload

__all__ = ["docker", "nothing_left_behind", "otel_usdt", "stack"]


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A daemon of the tests' own, with the workload as its image."""
    program = compile_workload(tmp_path_factory.mktemp("static"), extra=("-static",))
    # Not pytest's own folder: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="usdt-docker-") as folder, dockerd(program, Path(folder)) as docker:
        yield docker
