"""The programs, compiled once a test run by the host's compilers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.planning.configured import compiled
from tests.unit.planning.sources import CXX, GO, C, Programs


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Position-independent programs with symbols, and one without."""
    folder = tmp_path_factory.mktemp("programs")
    c = compiled("gcc", folder, "orders", C, "-fcf-protection=none")
    subprocess.run(["strip", "-o", folder / "stripped", c], check=True)
    return Programs(c, folder / "stripped", compiled("g++", folder, "risky", CXX, "-fcf-protection=none"))


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Go program."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go tool chain: plans for Go programs are not tested")
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(GO)
    environment = {**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    subprocess.run([go, "build", "-o", folder / "work", "main.go"], cwd=folder, env=environment, check=True)
    return folder / "work"
