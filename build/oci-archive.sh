#!/usr/bin/env bash
# Packs folders into container images, without a container engine.
#
#   build/oci-archive.sh ROOTFS OUTPUT REFERENCE CONFIG [ROOTFS REFERENCE CONFIG]...
#
# ROOTFS is a folder, or several with colons between them: one layer each, the lowest first. REFERENCE is the image's
# full name (docker.io/library/migration-gate:dev), CONFIG the `config` object of the OCI image specification as JSON
# ({"Entrypoint": ["/migration-gate"]}). One archive can hold several images, and a layer that they share only once.
# The archive is an OCI layout that also holds Docker's manifest.json, so `ctr images import`, `docker load`,
# `podman load` and `kind load image-archive` all take it.
# The same input gives the same bytes: nothing in it depends on when, where or by whom it was made.
set -euo pipefail
export LC_ALL=C

[ $# -ge 4 ] && [ $((($# - 1) % 3)) -eq 0 ] || {
    echo "usage: ${0##*/} ROOTFS OUTPUT REFERENCE CONFIG [ROOTFS REFERENCE CONFIG]..." >&2
    exit 2
}
output=$2
set -- "$1" "${@:3}"
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

# A blocking factor of 1 leaves out the zeros with which tar would fill a tape's block of 10 KiB.
pack() { # FOLDER FILE [OPTION...] NAME...: a tar whose bytes depend on its contents and their modes alone
    local folder=$1 file=$2
    shift 2
    tar --create --file "$file" --directory "$folder" --format=ustar --blocking-factor=1 --sort=name --mtime=@0 \
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

join() { # ITEM...: with commas
    local IFS=,
    echo "$*"
}

oci=application/vnd.oci.image
declare -A layers=()
manifests=() loads=()
while [ $# -gt 0 ]; do
    reference=$2 config=$3
    IFS=: read -ra folders <<<"$1"
    shift 3
    diffs=() history=() descriptors=() paths=()
    for folder in "${folders[@]}"; do
        if [ -z "${layers[$folder]-}" ]; then
            pack "$folder" "$work/layer" .
            layers[$folder]=$(blob "$work/layer")
        fi
        layer=${layers[$folder]}
        diffs+=("\"sha256:$layer\"")
        # Podman refuses to build on an image whose history lacks a layer.
        history+=("{\"created\":\"$created\",\"created_by\":\"build/oci-archive.sh\"}")
        descriptors+=("{\"mediaType\":\"$oci.layer.v1.tar\",\"digest\":\"sha256:$layer\",\"size\":$(size "$blobs/$layer")}")
        paths+=("\"blobs/sha256/$layer\"")
    done

    printf '{"created":"%s","architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":[%s]},"history":[%s]}' \
        "$created" "$architecture" "$config" "$(join "${diffs[@]}")" "$(join "${history[@]}")" >"$work/config"
    config=$(blob "$work/config")

    printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"sha256:%s","size":%s},"layers":[%s]}' \
        "$oci" "$oci" "$config" "$(size "$blobs/$config")" "$(join "${descriptors[@]}")" >"$work/manifest"
    manifest=$(blob "$work/manifest")

    manifests+=("$(printf '{"mediaType":"%s.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}' \
        "$oci" "$manifest" "$(size "$blobs/$manifest")" "$reference" "${reference##*:}")")
    loads+=("$(printf '{"Config":"blobs/sha256/%s","RepoTags":["%s"],"Layers":[%s]}' \
        "$config" "$reference" "$(join "${paths[@]}")")")
done

printf '{"schemaVersion":2,"mediaType":"%s.index.v1+json","manifests":[%s]}' "$oci" "$(join "${manifests[@]}")" \
    >"$work/index.json"
printf '[%s]' "$(join "${loads[@]}")" >"$work/manifest.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"

# Written next to its destination and then renamed: a reader meanwhile sees the old archive or the new one.
pack "$work" "$output.partial" --mode=u=rwX,go=rX blobs index.json manifest.json oci-layout
mv "$output.partial" "$output"
