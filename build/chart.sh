#!/usr/bin/env bash
# Packs the chart for a release: with the digest of the image that is published with it, and the repository of both.
#
#   build/chart.sh FOLDER REGISTRY REPOSITORY DIGEST SOURCE
#
# Standard output is the package's path. Needs helm; HELM may name it.
set -euo pipefail

[ $# -eq 5 ] || {
    echo "usage: ${0##*/} FOLDER REGISTRY REPOSITORY DIGEST SOURCE" >&2
    exit 2
}
folder=$1 registry=$2 repository=$3 digest=$4 source=$5
[[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || {
    echo "${0##*/}: $digest is no digest" >&2
    exit 2
}
placeholder=migration-gate/migration-gate
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$(dirname "${BASH_SOURCE[0]}")/../charts/migration-gate" "$work"
chart=$work/migration-gate
version=$(sed -n 's/^version: //p' "$chart/Chart.yaml")

sed -i "s|https://raw.githubusercontent.com/$placeholder/main|$source/raw/main|; s|https://github.com/$placeholder|$source|" \
    "$chart/Chart.yaml" "$chart/README.md" "$chart/values.yaml"
sed -i "s|image: $placeholder:.*|image: $registry/$repository:$version@$digest|" "$chart/Chart.yaml"
# `--set image.tag` replaces the digest, and `--set image.repository` keeps it.
echo "  migration-gate.io/image-digest: $digest" >>"$chart/Chart.yaml"
sed -i "/^image:/,/^[a-z]*:\$/ { s|^  registry: .*|  registry: $registry|; s|^  repository: .*|  repository: $repository| }" "$chart/values.yaml"
if grep -q "$placeholder" "$chart/Chart.yaml" "$chart/values.yaml" && [ "$repository" != "$placeholder" ]; then
    echo "${0##*/}: the chart still names $placeholder" >&2
    exit 1
fi
"${HELM:-helm}" package "$chart" --destination "$folder" >&2
echo "$folder/migration-gate-$version.tgz"
