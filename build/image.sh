#!/usr/bin/env bash
# Builds migration-gate's container image, without a container engine: one static binary and the licences of
# what is in it.
#
#   build/image.sh [OUTPUT [REFERENCE]]      default: target/image/migration-gate.tar docker.io/library/migration-gate:dev
#
# Standard output is the archive's path; load it with `kind load image-archive`, `docker load -i` or `ctr images import`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
output=${1:-target/image/migration-gate.tar}
reference=${2:-docker.io/library/migration-gate:dev}

binary=$(build/binary.sh)

rootfs=$(mktemp -d)
trap 'rm -rf "$rootfs"' EXIT
chmod 0755 "$rootfs" # mktemp makes it the owner's alone, and the image's user is another
install -m 0755 "$binary" "$rootfs/migration-gate"
mkdir -m 0755 "$rootfs/licenses"
install -m 0644 LICENSE "${binary%/*}/THIRD-PARTY.gz" "$rootfs/licenses"

mkdir -p "$(dirname "$output")"
build/oci-archive.sh "$rootfs" "$output" "$reference" '{"User":"65532:65532","Entrypoint":["/migration-gate"]}'
echo "$output"
