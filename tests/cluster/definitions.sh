#!/usr/bin/env bash
# Provides the custom resource definitions of the operators whose kinds the chart renders (cert-manager, the Prometheus
# operator) or a gate can hold (Argo Rollouts). Prints the folder that holds them; progress goes to standard error. They
# come out of the operators' own Go modules, at pinned versions, and are kept in the user's cache.
set -euo pipefail

modules=(
    github.com/cert-manager/cert-manager@v1.21.2
    github.com/prometheus-operator/prometheus-operator@v0.85.0
    github.com/argoproj/argo-rollouts@v1.9.0
)
files=(
    deploy/crds/cert-manager.io_certificates.yaml
    deploy/crds/cert-manager.io_issuers.yaml
    example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml
    example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml
    manifests/crds/rollout-crd.yaml
)

key=$(echo "${modules[*]} ${files[*]}" | sha256sum | cut -c1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/migration-gate/definitions-$key
if [ ! -e "$folder" ]; then
    echo "cluster definitions: fetching those of cert-manager, the Prometheus operator and Argo Rollouts (seconds, once)" >&2
    command -v go >/dev/null || {
        echo "cluster definitions: Go is needed; install Go 1.26 or later" >&2
        exit 1
    }
    mkdir -p "${folder%/*}"
    partial=$(mktemp -d "$folder.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    # Outside of any module, so that nobody's go.mod is changed.
    cd "$partial"
    go mod download -json "${modules[@]}" 2>/dev/null >modules.json || {
        sed -n 's/^\t"Error": /cluster definitions: /p' modules.json >&2
        exit 1
    }
    mapfile -t sources < <(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' modules.json)
    for file in "${files[@]}"; do
        for source in "${sources[@]}"; do
            [ ! -e "$source/$file" ] || install -m 0644 "$source/$file" .
        done
        [ -e "${file##*/}" ] || {
            echo "cluster definitions: no module has $file" >&2
            exit 1
        }
    done
    rm modules.json
    chmod 0755 .
    mv --no-target-directory "$partial" "$folder" 2>/dev/null || [ -e "$folder" ]
fi
echo "$folder"
