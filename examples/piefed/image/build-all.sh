#!/usr/bin/env bash
# Builds the image that the manifests name, and pushes it.
#
#   ./build-all.sh IMAGE TAG        such as: ./build-all.sh registry.example/piefed 1.2.0
#
# STOCK is the image to build upon. Without it PieFed's own is built, from the tag v$TAG of its
# repository (REPOSITORY is where a copy of it is). ENGINE is docker, or podman. PUSH=no leaves the
# image on this machine.
set -euo pipefail

[ $# -eq 2 ] || {
    sed -n '4,8s/^# \{0,3\}//p' "$0" >&2
    exit 2
}
image=$1 tag=$2
engine=${ENGINE:-docker}
repository=${REPOSITORY:-https://codeberg.org/rimu/pyfedi}
cd "$(dirname "${BASH_SOURCE[0]}")"

stock=${STOCK-}
if [ -z "$stock" ]; then
    stock=$image-stock:$tag
    source=$(mktemp -d)
    trap 'rm -rf "$source"' EXIT
    git clone --quiet --depth 1 --branch "v$tag" "$repository" "$source"
    "$engine" build --tag "$stock" "$source"
fi
"$engine" build --build-arg "STOCK=$stock" --file Containerfile --tag "$image:$tag" .
[ "${PUSH-}" = no ] || "$engine" push "$image:$tag"
echo "Now, in the folder of kustomization.yaml: kustomize edit set image piefed/piefed=$image:$tag"
