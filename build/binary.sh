#!/usr/bin/env bash
# Builds migration-gate as it is released: one static binary for the machine's own processor. Standard output is its
# path.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
case $host in
*-linux-*) ;;
*)
    echo "build/binary.sh: this builds a Linux binary for the machine's own processor, and this machine is $host;" \
        "use the Dockerfile here" >&2
    exit 1
    ;;
esac

# The image holds no libc, so the binary must bring its own; relocations packed, it starts with fewer pages. Naming the
# target keeps the flags from the build scripts and procedural macros, which can't be linked so.
target=${CARGO_TARGET_DIR:-target}
flags="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
RUSTFLAGS="${RUSTFLAGS-} $flags" cargo build --release --locked --target "$host" >&2
realpath "$target/$host/release/migration-gate"
