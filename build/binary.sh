#!/usr/bin/env bash
# Builds migration-gate as it is released: one static binary for the machine's own processor. Standard output is its
# path; beside it is THIRD-PARTY.gz, the licence texts of what is linked.
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

# The image holds no libc, so the binary contains its own. With packed relocations it starts with fewer pages. Naming
# the target keeps these flags from build scripts and procedural macros, which cannot be linked with them.
target=${CARGO_TARGET_DIR:-target}
flags="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
flags="${RUSTFLAGS-} $flags"
# Panic messages name source files. The paths of this machine must not be in the binary, nor change it.
remap="--remap-path-prefix=$PWD=/migration-gate"$'\x1f'"--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"

# Linking takes minutes, and cargo would link again for each fresh clone, whose path and times are new. The same sources
# and the same compiler give the same binary, so it is kept.
kept=$target/released
mkdir -p "$kept"
exec 9>"$kept/lock"
flock 9 # another build of the same may be under way
key=$({
    rustc -vV
    echo "$flags"
    env | sed -n '/^CARGO_\(PROFILE\|BUILD\)_/p' | sort
    find Cargo.toml Cargo.lock build/binary.sh build/licences.sh build/seldom.ld crates src -not -path "crates/checks/*" -not -path "crates/testkit/*" -type f -print0 | sort -z | xargs -0 sha256sum
} | sha256sum)
if [ "$(cat "$kept/key" 2>/dev/null)" != "$key" ]; then
    rm -f "$kept/key"
    encoded=$(echo $flags | tr ' ' '\037')
    # The linker script keeps code that a waiter never runs out of its memory. Cargo sees only the script's name, so a
    # flag carries its digest. A name with a path of this machine would change the binary's bytes.
    CARGO_ENCODED_RUSTFLAGS=$encoded$'\x1f'$remap cargo rustc --release --locked --package migration-gate \
        --bin migration-gate --target "$host" -- -C link-arg=-Wl,-T,build/seldom.ld \
        --cfg "seldom_$(sha256sum build/seldom.ld | cut -c-16)" >&2
    build/licences.sh "$host" | gzip -9 --no-name >"$kept/THIRD-PARTY.gz"
    install -m 0755 "$target/$host/release/migration-gate" "$kept/migration-gate"
    echo "$key" >"$kept/key"
fi
realpath "$kept/migration-gate"
