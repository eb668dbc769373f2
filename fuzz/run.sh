#!/usr/bin/env bash
# Runs each fuzz target for a while, starting from the seeds and from what earlier runs found to be of interest.
#
#   fuzz/run.sh [SECONDS]      default: 60; `make fuzz` brings cargo-fuzz along
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}

command -v cargo-fuzz >/dev/null || {
    echo "fuzz/run.sh: this takes cargo-fuzz; run 'make fuzz', or 'cargo install cargo-fuzz'" >&2
    exit 1
}
# Instrumentation needs unstable flags. Without a nightly toolchain, the stable one is told to accept them.
cargo=(cargo)
if cargo +nightly --version >/dev/null 2>&1; then
    cargo+=(+nightly)
else
    export RUSTC_BOOTSTRAP=1
fi
# A folder of its own: instrumented builds and others would replace each other.
[ -z "${CARGO_TARGET_DIR-}" ] || export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/fuzz
for target in frames review yaml manifests patterns record versions; do
    echo "==> fuzzing $target for $seconds s"
    mkdir -p "fuzz/corpus/$target"
    # Larger inputs find nothing more than these, and take longer.
    "${cargo[@]}" fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -print_funcs=0
done
