#!/usr/bin/env bash
# Packs a folder into a container image of one layer, without a container engine.
#
#   build/oci-archive.sh ROOTFS OUTPUT REFERENCE CONFIG
#
# REFERENCE is the image's full name (docker.io/library/migration-gate:dev), CONFIG the `config` object of the OCI image
# specification as JSON ({"Entrypoint": ["/migration-gate"]}). The archive is an OCI layout that also holds Docker's
# manifest.json, so `ctr images import`, `docker load`, `podman load` and `kind load image-archive` all take it.
# The same input gives the same bytes: nothing in it depends on when, where or by whom it was made.
set -euo pipefail
export LC_ALL=C

[ $# -eq 4 ] || {
    echo "usage: ${0##*/} ROOTFS OUTPUT REFERENCE CONFIG" >&2
    exit 2
}
rootfs=$1 output=$2 reference=$3 config=$4
created=1970-01-01T00:00:00Z
case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64 | arm64) architecture=arm64 ;;
*) architecture=$(uname -m) ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs=$work/blobs/sha256
mkdir -p "$blobs"

pack() { # FOLDER FILE [OPTION...] NAME...: a tar whose bytes depend on its contents and their modes alone
    local folder=$1 file=$2
    shift 2
    tar --create --file "$file" --directory "$folder" --format=ustar --sort=name --mtime=@0 \
        --owner=0 --group=0 --numeric-owner "$@"
}
digest() { sha256sum "$1" | cut -d' ' -f1; }
size() { stat -c %s "$1"; }
blob() { # FILE: moved to where its digest says; prints the digest
    local sum
    sum=$(digest "$1")
    mv "$1" "$blobs/$sum"
    echo "$sum"
}

pack "$rootfs" "$work/layer" .
layer=$(blob "$work/layer")

printf '{"created":"%s","architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$created" "$architecture" "$config" "$layer" >"$work/config"
config=$(blob "$work/config")

oci=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"%s.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
    "$oci" "$oci" "$config" "$(size "$blobs/$config")" "$oci" "$layer" "$(size "$blobs/$layer")" >"$work/manifest"
manifest=$(blob "$work/manifest")

printf '{"schemaVersion":2,"mediaType":"%s.index.v1+json","manifests":[{"mediaType":"%s.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
    "$oci" "$oci" "$manifest" "$(size "$blobs/$manifest")" "$reference" "${reference##*:}" >"$work/index.json"
printf '[{"Config":"blobs/sha256/%s","RepoTags":["%s"],"Layers":["blobs/sha256/%s"]}]' \
    "$config" "$reference" "$layer" >"$work/manifest.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"

# Written next to its destination and then renamed: whoever reads it meanwhile sees the old archive or the new one.
pack "$work" "$output.partial" --mode=u=rwX,go=rX blobs index.json manifest.json oci-layout
mv "$output.partial" "$output"
