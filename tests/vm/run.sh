#!/bin/bash
# run.sh KERNEL [PARAMETER...]: the kernel tests of this checkout in a virtual machine with Debian's newest KERNEL; see machine.sh.
#
# TESTS are pytest's files (default: the exactness suite), SELECT its -k. The machine is emulated, so nothing is timed; each test is told of
# as it ends. The checkout must not lie under /tmp or /var, of which the machine has its own.
set -euo pipefail
kernel=${1:?a kernel is wanted: 6.1 or 6.12}
shift
repo=$(realpath "$(dirname "$0")/../..")
tests=${TESTS:-tests/kernel/test_pairing.py tests/kernel/test_scopes.py tests/kernel/test_joining.py tests/kernel/test_obi.py tests/kernel/test_keyed.py}
select=${SELECT:-}

work=$(mktemp -d /tmp/otel-usdt-vm-XXXXXX)
trap 'rm -rf "$work"' EXIT
# The compiler would take its whole minute there. The image is the same on every kernel: tests/vm/test_kernels.py loads it on each.
(cd "$repo" && OTEL_USDT_CACHE="$work/image" .venv/bin/python -c 'from otel_usdt.probes.image import make_image; make_image()')
# A start of Python asks for a thousand files, and each is a question to this machine: what Python reads is unpacked there into memory.
python=$(realpath "$repo/.venv") library=$("$repo/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
near=("$library" "$python" "$repo/otel_usdt" "$repo/tests" "$repo/bpf")
unread=(mypy mypyc '*__mypyc*' ruff matplotlib fontTools PIL pillow.libs kiwisolver rotel pip setuptools)
(cd "$repo" && .venv/bin/python -m compileall -q otel_usdt tests)
tar -C / -cf "$work/near.tar" "${unread[@]/#/--exclude=}" "${near[@]#/}"
cat >"$work/inside" <<INSIDE
mkdir /tmp/near && tar -C /tmp/near -xf "$work/near.tar"
for folder in ${near[*]}; do mount --bind "/tmp/near\$folder" "\$folder"; done
cd "$repo"
export HOME=/root PYTHONPATH="$repo" PYTHONDONTWRITEBYTECODE=1 OTEL_USDT_CACHE="$work/image"
uname -r
.venv/bin/python -m pytest -v --no-header --color=no -p no:cacheprovider --basetemp=/tmp/tests -o timeout=600 $tests ${select:+-k '$select'}
echo \$? >"$work/status"
INSIDE
"$repo/tests/vm/machine.sh" "$kernel" "$work" "$@"
[ -e "$work/status" ] || { printf 'vm: the machine with %s did not come to its end\n' "$kernel" >&2; exit 1; }
exit "$(cat "$work/status")"
