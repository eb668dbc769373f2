#!/usr/bin/env bash
# Provides Prometheus for the soak that scrapes the server: Debian's package, unpacked once into the user's cache. Prints
# the folder that holds `prometheus` and `promtool`, and nothing else, on standard output; progress goes to standard error.
#
#   tests/cluster/prometheus.sh
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/migration-gate
kept=$cache/prometheus
if [ ! -e "$kept" ]; then
    command -v apt-get >/dev/null || {
        echo "prometheus: this machine has no Debian packages; put prometheus and promtool into $kept" >&2
        exit 1
    }
    echo "prometheus: fetching Debian's package (once)" >&2
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/prometheus.unpacking.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    apt-get update -qq >&2
    (cd "$work" && apt-get download -qq prometheus >&2 && dpkg-deb --extract prometheus_*.deb unpacked)
    mv "$work/unpacked/usr/bin" "$kept" || [ -e "$kept" ]
fi
echo "$kept"
