#!/usr/bin/env bash
# Provides the release that a story upgrades from: its chart and its image, built from its commit by its own scripts,
# once, and kept in the user's cache. Prints the folder that holds `chart` and `image.tar`, and nothing else, on standard
# output; progress goes to standard error.
#
#   tests/cluster/previous.sh
set -euo pipefail

# Release 0.1, as it was before moving tags, patterns and records of whole pod templates.
commit=e8eb9ffb258eac61fbfd820a5b883b456a06f000
reference=docker.io/library/migration-gate:0.1

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say() { echo "previous release: $*" >&2; }
die() {
    say "$*"
    exit 1
}

# The folder's name says what is in it: the commit, and how and by which compiler it was built.
key=$({ rustc -vV && cat "${BASH_SOURCE[0]}"; } | sha256sum | cut -c1-8)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/migration-gate
kept=$cache/previous-${commit:0:12}-$key
if [ -e "$kept" ]; then
    echo "$kept"
    exit
fi

mkdir -p "$cache"
exec 9>"$cache/previous.lock"
flock -n 9 || { say "another run is building it; waiting for it" && flock 9; }
if [ ! -e "$kept" ]; then
    git -C "$repository" cat-file -e "$commit^{commit}" 2>/dev/null ||
        die "this clone has no commit ${commit:0:12}, from which it is built: git fetch --unshallow"
    say "building it from ${commit:0:12} (about 3 minutes on two cores, once)"
    rm -rf "$cache"/previous.building.*
    work=$(mktemp -d "$cache/previous.building.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/source" "$work/out"
    git -C "$repository" archive "$commit" | tar --extract --directory "$work/source"
    # Quick to build; what it does is the same.
    CARGO_TARGET_DIR=$work/target CARGO_TERM_QUIET=true CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=0 \
        "$work/source/build/image.sh" "$work/out/image.tar" "$reference" >&2 ||
        die "building it failed; the lines above say why"
    mv "$work/source/charts/migration-gate" "$work/out/chart"
    mv "$work/out" "$kept"
fi
echo "$kept"
