#!/bin/sh
# Writes requirements.lock: what pip chooses today for pyproject.toml's dependencies and its `dev` extra, in a venv of its own.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
/usr/bin/python3 -m venv "$folder/venv"
/usr/bin/python3 - pyproject.toml >"$folder/wanted" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
print("\n".join(project["dependencies"] + project["optional-dependencies"]["dev"]))
PYTHON
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --root-user-action=ignore -r "$folder/wanted"
{
    sed -n '/^#/p' requirements.lock
    "$folder/venv/bin/pip" --disable-pip-version-check freeze
} >"$folder/lock"
mv "$folder/lock" requirements.lock
