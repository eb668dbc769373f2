#!/usr/bin/env bash
# Writes the image's bill of materials: every crate that is linked into its one file, as CycloneDX JSON. A scanner of
# images finds nothing there, since a static binary in an otherwise empty image names no package.
#
#   build/sbom.sh [OUTPUT [TARGET]]      default: target/sbom/migration-gate.cdx.json, for the machine's own processor
#
# Standard output is the file's path. Needs cargo-cyclonedx, which `make sbom` provides; CARGO_CYCLONEDX may name it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
output=${1:-target/sbom/migration-gate.cdx.json}
target=${2:-$(rustc -vV | sed -n 's/^host: //p')}
tool=${CARGO_CYCLONEDX:-cargo-cyclonedx}
command -v "$tool" >/dev/null || {
    echo "build/sbom.sh: cargo-cyclonedx is needed; run \`make sbom\`, which installs it" >&2
    exit 1
}

# The tool writes beside the manifest, and only there.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r Cargo.toml Cargo.lock README.md crates src "$work"
"$tool" cyclonedx --quiet --manifest-path "$work/Cargo.toml" --format json --spec-version 1.5 --describe binaries \
    --no-build-deps --target "$target" >&2
made=$work/migration-gate_bin.cdx.json

# Compares the crates that the file lists with those that cargo links.
cargo tree --locked --package migration-gate --target "$target" --edges normal,no-proc-macro --prefix none --format '{p}' |
    sed -n 's/^\([^ ]*\) v\([^ ]*\).*/pkg:cargo\/\1@\2/p' | sort -u >"$work/linked"
missing=$(while read -r crate; do
    grep -qF -e "\"purl\": \"$crate\"" -e "\"purl\": \"$crate?" "$made" || echo "$crate"
done <"$work/linked")
[ -s "$work/linked" ] && [ -z "$missing" ] || {
    echo "build/sbom.sh: the bill of materials lacks crates that are linked:" >&2
    echo "${missing:-all of them}" >&2
    exit 1
}

mkdir -p "$(dirname "$output")"
mv "$made" "$output"
echo "build/sbom.sh: $(wc -l <"$work/linked") linked crates" >&2
echo "$output"
