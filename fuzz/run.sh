#!/usr/bin/env bash
# Runs each fuzz target for a while, starting from the seeds.
#
#   fuzz/run.sh [SECONDS]      default: 60
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}

if ! cargo fuzz --version >/dev/null 2>&1 || ! cargo +nightly --version >/dev/null 2>&1; then
    echo "fuzz/run.sh: this takes a nightly toolchain and cargo-fuzz (cargo install cargo-fuzz)" >&2
    exit 1
fi
for target in review yaml manifests; do
    echo "==> fuzzing $target for $seconds s"
    mkdir -p "fuzz/corpus/$target"
    # Larger inputs than these find nothing that smaller ones don't, and take longer to find it.
    cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=1024
done
