#!/usr/bin/env bash
# Builds the image in two folders and compares the bytes. Nothing is shared but the compiler and the sources of the crates.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for folder in one another/and-deeper; do
    mkdir -p "$work/$folder"
    cp -r Cargo.toml Cargo.lock LICENSE README.md build crates src "$work/$folder"
    CARGO_TARGET_DIR=$work/$folder/target "$work/$folder/build/image.sh" "$work/${folder%/*}.tar" >/dev/null
done
sha256sum "$work"/*.tar | sed "s|$work/||"
cmp "$work/one.tar" "$work/another.tar"
echo "the same bytes"
