#!/bin/bash
# run.sh KERNEL [PARAMETER...]: the kernel tests of this checkout in a virtual machine with Debian's newest KERNEL (6.1, 6.12).
#
# PARAMETERs go to that kernel's command line: no5lvl for four-level paging. TESTS are pytest's files (default: the exactness suite),
# SELECT its -k.
# The machine is emulated, so nothing is timed: attaching is 30 times slower there, and a test takes about 30 s. The guest sees this
# machine's files read-only; /tmp is its own. Kernels and virtme-ng are kept under $OTEL_USDT_VM or ~/.cache/otel-usdt-vm.
set -euo pipefail
kernel=${1:?a kernel is wanted: 6.1 or 6.12}
shift
repo=$(realpath "$(dirname "$0")/../..")
cache=${OTEL_USDT_VM:-${XDG_CACHE_HOME:-$HOME/.cache}/otel-usdt-vm}
virtme=1.42
tests=${TESTS:-tests/kernel/test_pairing.py tests/kernel/test_scopes.py tests/kernel/test_joining.py tests/kernel/test_obi.py tests/kernel/test_keyed.py}

select=${SELECT:-}

say() { printf 'vm: %s\n' "$*"; }
stop() { printf 'vm: %s\n  remedy: %s\n' "$1" "$2" >&2; exit 1; }

PATH=$cache/venv/bin:$PATH:/usr/sbin
mkdir -p "$cache"
exec 9>"$cache/lock" # two first runs at once must not fill the cache together
flock 9
for package in qemu-system-x86:qemu-system-x86_64 busybox-static:busybox kmod:depmod bsdutils:script; do
    command -v "${package#*:}" >/dev/null && continue
    say "installing ${package%:*}"
    apt-get -qq update && apt-get -qq install -y --no-install-recommends "${package%:*}" >/dev/null ||
        stop "${package%:*} could not be installed" "make Debian's archive reachable"
done
if ! [ -x "$cache/venv/bin/vng" ]; then
    say "virtme-ng $virtme from PyPI"
    python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install --quiet --disable-pip-version-check "virtme-ng==$virtme" ||
        stop "pip could not install virtme-ng==$virtme" "make PyPI reachable"
fi
root=$cache/$kernel
if ! [ -e "$root/complete" ]; then
    name=$(apt-cache pkgnames "linux-image-$kernel." | grep -E '[0-9](\+deb[0-9.]+)?-amd64$' | sort -V | tail -n 1 || true)
    [ "$name" ] || stop "apt knows no kernel $kernel" "add bookworm-backports to apt's sources, then apt-get update"
    say "fetching $name"
    rm -rf "$root"
    mkdir -p "$root"
    (cd "$root" && apt-get -qq -o APT::Sandbox::User=root download "$name" && dpkg-deb -x ./*.deb . && rm ./*.deb) ||
        stop "$name could not be fetched" "make Debian's archive reachable"
    depmod -b "$root" "$(ls "$root/lib/modules")"
    touch "$root/complete"
fi
flock -u 9

work=$(mktemp -d /tmp/otel-usdt-vm-XXXXXX)
trap 'rm -rf "$work"' EXIT
cat >"$work/inside" <<INSIDE
cd "$repo"
export HOME=/root PYTHONPATH="$repo" PYTHONDONTWRITEBYTECODE=1 OTEL_USDT_CACHE=/tmp/image
uname -r
.venv/bin/python -m pytest -q -p no:cacheprovider --basetemp=/tmp/tests -o timeout=600 $tests ${select:+-k '$select'}
echo \$? >"$work/status"
INSIDE
options=()
for parameter in "$@"; do options+=(--append "$parameter"); done
printf -v command '%q ' vng --verbose --run "$(echo "$root"/boot/vmlinuz-*)" --disable-kvm --force-9p --disable-microvm \
    --user root --cpus 2 --memory 4G --rwdir "$work" "${options[@]}" -- "sh $work/inside"
say "Linux $kernel $* ..."
# vng wants a terminal, and says its own part, with the kernel's, before each line of ours
script -qec "$command" /dev/null </dev/null | tr -d '\r' | grep -v '^\[ *[0-9]*\.[0-9]*\]' || true
[ -e "$work/status" ] || stop "the machine with $kernel did not come to its end" "run it again with the output above in view"
exit "$(cat "$work/status")"
