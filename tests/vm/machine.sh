#!/bin/bash
# machine.sh KERNEL FOLDER [PARAMETER...]: boots Debian's newest KERNEL (6.1, 6.12) and runs `sh FOLDER/inside` there, as root.
#
# PARAMETERs go to that kernel's command line: no5lvl for four-level paging. The machine is emulated, thirty to fifty times slower than this
# one. It sees this machine's files read-only, FOLDER writable; /tmp and /var are its own. Kernels and virtme-ng are kept under
# $OTEL_USDT_VM or ~/.cache/otel-usdt-vm. Exit code 77: there is no such machine to be had here, and why is on standard error.
set -euo pipefail
kernel=${1:?a kernel is wanted: 6.1 or 6.12}
work=$(realpath "${2:?a folder is wanted}")
shift 2
cache=${OTEL_USDT_VM:-${XDG_CACHE_HOME:-$HOME/.cache}/otel-usdt-vm}
virtme=1.42

say() { printf 'vm: %s\n' "$*"; }
stop() { printf 'vm: %s\n  remedy: %s\n' "$1" "$2" >&2; exit 77; }

PATH=$cache/venv/bin:$PATH:/usr/sbin
mkdir -p "$cache"
exec 9>"$cache/lock" # two first runs at once must not fill the cache together
flock 9
export DEBIAN_FRONTEND=noninteractive
for package in qemu-system-x86:qemu-system-x86_64 busybox-static:busybox kmod:depmod bsdutils:script; do
    command -v "${package#*:}" >/dev/null && continue
    say "installing ${package%:*}"
    apt-get -qq update && apt-get -qq install -y --no-install-recommends "${package%:*}" >/dev/null ||
        stop "${package%:*} could not be installed" "make Debian's archive reachable"
done
if ! [ -x "$cache/venv/bin/vng" ]; then
    say "virtme-ng $virtme from PyPI"
    /usr/bin/python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install --quiet --disable-pip-version-check "virtme-ng==$virtme" ||
        stop "pip could not install virtme-ng==$virtme" "make PyPI reachable"
fi
root=$cache/$kernel
if ! [ -e "$root/complete" ]; then
    newest() { apt-cache pkgnames "linux-image-$kernel." | grep -E '[0-9](\+deb[0-9.]+)?-amd64$' | sort -V | tail -n 1 || true; }
    name=$(newest)
    [ "$name" ] || { apt-get -qq update || true; name=$(newest); }
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

options=()
for parameter in "$@"; do options+=(--append "$parameter"); done
printf -v command '%q ' vng --verbose --run "$(echo "$root"/boot/vmlinuz-*)" --disable-kvm --force-9p --disable-microvm \
    --user root --cpus 2 --memory 4G --rwdir "$work" "${options[@]}" -- "sh $work/inside"
say "Linux $kernel $* ..."
# vng wants a terminal, and says its own part, with the kernel's, before each line of ours
script -qec "$command" /dev/null </dev/null | stdbuf -oL tr -d '\r' | grep --line-buffered -v '^\[ *[0-9]*\.[0-9]*\]' || true
