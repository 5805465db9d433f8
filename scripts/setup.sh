#!/bin/sh
# Sets up this checkout: `setup.sh run` for the tool and its demo, `setup.sh test` for the tests as well.
# Debian packages that are missing are installed, then .venv is made with the exact versions of requirements.lock.
# Running it again changes nothing and takes a second. It touches nothing outside of apt and this folder.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'set-up: %s\n' "$*"; }
stop() { printf 'set-up: %s\n  remedy: %s\n' "$1" "$2" >&2; exit 1; }

# The tool: a venv of the distribution's Python, whose bcc compiles the kernel image once. Kernel headers are not needed.
run_packages="python3 python3-venv python3-bpfcc"
# The demo runs a throw-away PostgreSQL of its own (pgbench is in the same package); a cluster that the package starts is left alone.
demo_packages="postgresql"
# The tests compile workloads with USDT probes (and functions by two compilers), count the same events with bpftrace, and trace into
# containers of a dockerd of their own; the benchmark counts instructions with valgrind.
test_packages="gcc clang libc6-dev binutils systemtap-sdt-dev bpftrace docker.io valgrind"

case "${1:-}" in
run) packages="$run_packages $demo_packages" ;;
test) packages="$run_packages $demo_packages $test_packages" ;;
*) stop "'${1:-}' is neither 'run' nor 'test'" "scripts/setup.sh run, or scripts/setup.sh test" ;;
esac

[ "$(id -u)" = 0 ] || stop "this needs root: it installs packages, and probes are attached as root" "sudo make test, or sudo make demo"

kin=$(sed -n 's/^ID\(_LIKE\)\{0,1\}=//p' /etc/os-release 2>/dev/null | tr -d '"' | tr '\n' ' ')
case " $kin " in
*" debian "* | *" ubuntu "*) ;;
*) stop "this is neither Debian nor Ubuntu (/etc/os-release says: ${kin:-nothing})" \
    "install what these Debian packages hold: $packages; then python3 -m venv .venv && .venv/bin/pip install -r requirements.lock && .venv/bin/pip install --no-build-isolation --no-deps -e ." ;;
esac

missing=
for package in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    say "installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update || stop "apt-get update failed" "see the lines above; behind a proxy set http_proxy"
    # shellcheck disable=SC2086  # a list of words
    apt-get -qq install -y --no-install-recommends $missing >/dev/null ||
        stop "apt-get install$missing failed" "on Ubuntu the universe archive must be enabled: add-apt-repository universe"
fi

# The distribution's Python, whatever else is first in PATH: its minor version is the one that python3-venv is for.
python=/usr/bin/python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    stop "$("$python" --version) is too old" "Python 3.11 or newer: Debian 12, Ubuntu 24.04, or later"

wanted=$({ "$python" --version; pwd; cat requirements.lock pyproject.toml scripts/setup.sh; } | sha256sum | cut -d ' ' -f 1)
if [ "$(cat .venv/.set-up 2>/dev/null)" != "$wanted" ]; then
    say "making .venv with $("$python" --version), $(grep -c == requirements.lock) pinned packages from PyPI"
    rm -rf .venv
    "$python" -m venv .venv
    install() { .venv/bin/pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps "$@"; }
    install -r requirements.lock || stop "pip could not install requirements.lock" "see above; behind a proxy or a mirror set HTTPS_PROXY or PIP_INDEX_URL"
    install --no-build-isolation -e .
    .venv/bin/python -m compileall -q otel_usdt # a session starts four Pythons: none should compile at its start
    echo "$wanted" >.venv/.set-up
fi
say "ready: .venv/bin/otel-usdt"
