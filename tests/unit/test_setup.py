"""Set-up: the scripts, the habits and the pins."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SCRIPTS = [*(ROOT / "scripts").glob("*.sh"), ROOT / "tests" / "peers" / "build.sh", ROOT / ".ci" / "run"]


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    found = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in found}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses_and_may_be_run(script: Path) -> None:
    """Every script is executable and free of syntax errors, for dash and for bash."""
    assert script.stat().st_mode & 0o111
    for shell in ("sh", "bash"):
        assert subprocess.run([shell, "-n", script], capture_output=True, text=True).stderr == ""


@pytest.mark.kernel  # root, to become somebody else
def test_set_up_without_root_says_what_to_do() -> None:
    """Anyone else gets one line that says why, one that says how, and nothing is touched."""
    script = ["setpriv", "--reuid=nobody", "--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "sh"]
    told = subprocess.run([*script, ROOT / "scripts" / "setup.sh", "test"], capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("set-up: this needs root")
    assert "remedy: sudo make test" in told.stderr


def test_set_up_of_nothing_known_is_refused() -> None:
    """An argument that it does not know ends before anything is installed."""
    told = subprocess.run([ROOT / "scripts" / "setup.sh", "everything"], capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (1, "")
    assert "'everything' is neither" in told.stderr


def test_make_lists_the_habits() -> None:
    """`make` alone shows what there is."""
    told = subprocess.run(["make", "-s", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    for habit in ("demo", "test", "peers", "lint", "bench", "doctor", "schema", "clean"):
        assert re.search(rf"^make {habit} +\w", told, re.MULTILINE)


def test_pins_satisfy_the_declared_dependencies() -> None:
    """What set-up installs is within the bounds that the package declares, and nothing declared is left unpinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins()[wanted.name.lower()]), text


def test_pins_are_complete() -> None:
    """pip installs the pins without their dependencies, so each one's own must be pinned too."""
    installed = {found.name.lower().replace("_", "-"): found for found in distributions()}
    for name in pins().keys() & installed.keys():
        for text in installed[name].requires or []:
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                assert wanted.name.lower().replace("_", "-") in pins(), f"{name} needs {wanted}"
