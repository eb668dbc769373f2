#!/usr/bin/env bash
# Packs the program for people who run it outside of a cluster: with its licences, man pages and completions.
#
#   build/archive.sh [FOLDER]      default: target/archive
#
# Standard output is the archive's path: migration-gate-VERSION-OS-ARCHITECTURE.tar.gz. On Linux it holds the very binary
# of the image; elsewhere one that cargo builds for the machine.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-target/archive}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64 | arm64) architecture=arm64 ;;
*) architecture=$(uname -m) ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $(uname -s) in
Linux)
    system=linux
    binary=$(build/binary.sh)
    cp "${binary%/*}/THIRD-PARTY.gz" "$work"
    ;;
Darwin)
    system=darwin
    cargo build --release --locked --package migration-gate >&2
    binary=${CARGO_TARGET_DIR:-target}/release/migration-gate
    build/licences.sh | gzip -9 -n >"$work/THIRD-PARTY.gz"
    ;;
*)
    echo "build/archive.sh: there is no release for $(uname -s)" >&2
    exit 1
    ;;
esac

cp LICENSE "$work"
install -m 0755 "$binary" "$work/migration-gate"
mkdir "$work/completions" "$work/man"
for shell in bash zsh fish powershell; do
    "$work/migration-gate" completions "$shell" >"$work/completions/migration-gate.$shell"
done
"$work/migration-gate" man "$work/man" >&2

mkdir -p "$folder"
name=migration-gate-$version-$system-$architecture.tar.gz
# With GNU tar, the same content gives the same bytes.
same=()
if tar --version | grep -q GNU; then
    same=(--format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX)
fi
tar -c ${same[@]+"${same[@]}"} -C "$work" . | gzip -9 -n >"$folder/$name"
echo "$folder/$name"
