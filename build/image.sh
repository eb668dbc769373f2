#!/usr/bin/env bash
# Builds migration-gate's container image, without a container engine: one static binary in an otherwise empty image.
#
#   build/image.sh [OUTPUT [REFERENCE]]      default: target/image/migration-gate.tar docker.io/library/migration-gate:dev
#
# Standard output is the archive's path; load it with `kind load image-archive`, `docker load -i` or `ctr images import`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
output=${1:-target/image/migration-gate.tar}
reference=${2:-docker.io/library/migration-gate:dev}

host=$(rustc -vV | sed -n 's/^host: //p')
case $host in
*-linux-*) ;;
*)
    echo "build/image.sh: this builds a Linux binary for the machine's own processor, and this machine is $host;" \
        "use the Dockerfile here" >&2
    exit 1
    ;;
esac

# The image holds no libc, so the binary must bring its own. Naming the target keeps the flag from the build scripts
# and procedural macros, which can't be linked so.
target=${CARGO_TARGET_DIR:-target}
RUSTFLAGS="${RUSTFLAGS-} -C target-feature=+crt-static" cargo build --release --locked --target "$host" >&2
binary=$target/$host/release/migration-gate

rootfs=$(mktemp -d)
trap 'rm -rf "$rootfs"' EXIT
chmod 0755 "$rootfs" # mktemp makes it the owner's alone, and the image's user is another
install -m 0755 "$binary" "$rootfs/migration-gate"

mkdir -p "$(dirname "$output")"
build/oci-archive.sh "$rootfs" "$output" "$reference" '{"User":"65532:65532","Entrypoint":["/migration-gate"]}'
echo "$output"
