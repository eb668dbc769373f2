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

# The image holds no libc, so the binary must bring its own; relocations packed, it starts with fewer pages. Naming the
# target keeps the flags from the build scripts and procedural macros, which can't be linked so.
target=${CARGO_TARGET_DIR:-target}
flags="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
flags="${RUSTFLAGS-} $flags"
# Messages of panics name source files. Where these lie on this machine must not change the binary, nor be in it.
remap="--remap-path-prefix=$PWD=/migration-gate"$'\x1f'"--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"

# To link takes minutes, and cargo would do it again for each fresh clone, whose path and times are new. What was linked
# from the same sources by the same compiler is the same.
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
    # What a waiter never runs stays out of its memory. Cargo sees the linker script's name alone, so a flag tells its
    # content: a name with a path of this machine would change the binary's bytes.
    CARGO_ENCODED_RUSTFLAGS=$encoded$'\x1f'$remap cargo rustc --release --locked --package migration-gate \
        --bin migration-gate --target "$host" -- -C link-arg=-Wl,-T,build/seldom.ld \
        --cfg "seldom_$(sha256sum build/seldom.ld | cut -c-16)" >&2
    build/licences.sh "$host" | gzip -9 --no-name >"$kept/THIRD-PARTY.gz"
    install -m 0755 "$target/$host/release/migration-gate" "$kept/migration-gate"
    echo "$key" >"$kept/key"
fi
realpath "$kept/migration-gate"
