#!/usr/bin/env bash
# Writes krew's manifest of the kubectl plugin for a release.
#
#   build/krew.sh VERSION SOURCE CHECKSUMS >migration-gate.yaml
#
# SOURCE is the address of the repository that has the release, CHECKSUMS the output of sha256sum for its archives.
set -euo pipefail

[ $# -eq 3 ] || {
    echo "usage: ${0##*/} VERSION SOURCE CHECKSUMS" >&2
    exit 2
}
version=$1 source=$2 checksums=$3
sum=
sed "1d; s|VERSION|$version|g; s|SOURCE|$source|g" "$(dirname "${BASH_SOURCE[0]}")/krew.yaml" |
    while IFS= read -r line; do
        case $line in
        *"uri: "*)
            sum=$(awk -v name="${line##*/}" '$2 == name || $2 == "*" name { print $1 }' "$checksums")
            [[ $sum =~ ^[0-9a-f]{64}$ ]] || {
                echo "${0##*/}: $checksums has no checksum of ${line##*/}" >&2
                exit 1
            }
            ;;
        esac
        echo "${line/SHA256/$sum}"
    done
