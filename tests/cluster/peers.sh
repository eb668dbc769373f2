#!/usr/bin/env bash
# Provides the tools beside which `make test-peers` tries migration-gate, built from pinned Go modules once and kept in
# the user's cache. Prints a folder that holds a folder for each of them, and nothing else, on standard output.
#
#   tests/cluster/peers.sh PEER...     argo-cd, argo-rollouts, cert-manager, flux
#
# To add a peer: its pin, a function of its name that puts programs and definitions into the folder it is given, and a
# module of its name below tests/cluster/peers/, whose tests are what asks for it.
set -euo pipefail

argo_cd=v3.6.1
argo_rollouts=v1.10.2
cert_manager=v1.21.2
# An earlier Flux than the one of all tests, whole.
flux_kustomize=v1.7.3
flux_source=v1.7.3
flux_helm=v1.4.0
# Its command line.
flux_command=v2.9.5
flux=$flux_kustomize-$flux_source-$flux_helm-$flux_command

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "cluster peers: $*" >&2; }
die() {
    say "$*"
    exit 1
}

[ $# -gt 0 ] || die "which peer? (argo-cd, argo-rollouts, cert-manager, flux)"
command -v go >/dev/null || die "Go is needed: install Go 1.26 or later"
# Argo CD fetches its manifests with it.
command -v git >/dev/null || {
    say "installing Debian packages: git (under a minute)"
    apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends git >/dev/null
}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/migration-gate/peers
mkdir -p "$cache"

# Newer than what the node is built with, as their modules ask for.
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=go1.27.0
quiet() { # Go names each module that it downloads, which is hundreds of lines.
    "$@" 2> >(grep -v '^go: \(downloading\|added\|upgraded\|finding\)' >&2 || true)
}
module_folder() { # MODULE@VERSION: where Go unpacks it
    local answer
    answer=$(cd "$cache" && quiet go mod download -json "$1") || {
        sed -n 's/^\t"Error": /cluster peers: /p' <<<"$answer" >&2
        return 1
    }
    sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<<"$answer"
}
# go_build OUT FOLDER GO.MOD PACKAGE: builds it in the module's folder, by a go.mod of ours
go_build() {
    (cd "$2" && quiet go build -trimpath -mod=mod -modfile="$3" -ldflags '-s -w' -o "$1" "$4")
}

argo_cd() { # OUT
    local module=github.com/argoproj/argo-cd source
    source=$(module_folder $module/v3@$argo_cd) || return
    # The module replaces its gitops-engine by the folder next to it, which a module zip doesn't hold: name its release.
    sed "s|=> ./gitops-engine|=> $module/gitops-engine/v3 $argo_cd|" "$source/go.mod" >"$1/go.mod"
    install -m 0644 "$source/go.sum" "$1/go.sum"
    # One program, which each component's name starts.
    go_build "$1/bin/argocd" "$source" "$1/go.mod" ./cmd || return
    install -m 0644 -D -t "$1/crds" "$source"/manifests/crds/{application,appproject}-crd.yaml
    install -m 0644 -D -t "$1/config" "$source"/manifests/base/config/argocd-*.yaml
}
argo_rollouts() { # OUT
    local source
    source=$(module_folder github.com/argoproj/argo-rollouts@$argo_rollouts) || return
    install -m 0644 -t "$1" "$source"/go.{mod,sum}
    go_build "$1/bin/rollouts-controller" "$source" "$1/go.mod" ./cmd/rollouts-controller || return
    install -m 0644 -D -t "$1/crds" "$source"/manifests/crds/*-crd.yaml
}
cert_manager() { # OUT
    # Its programs are modules that are not published, so a program of ours starts its controllers. Their names begin
    # like this one's, which is what lets them import what is internal.
    local module=github.com/cert-manager/cert-manager source
    source=$(module_folder $module@$cert_manager) || return
    mkdir "$1/program"
    cp "$here/peers/cert-manager/main.go" "$1/program/"
    sed "s|^module .*|module $module/migration-gate-test|" "$source/go.mod" >"$1/program/go.mod"
    echo "require $module $cert_manager" >>"$1/program/go.mod"
    install -m 0644 "$source/go.sum" "$1/program/go.sum"
    cat >>"$1/program/go.sum" <<SUMS
$module $cert_manager h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=
$module $cert_manager/go.mod h1:cUXqp2Ki46IovJB+XpkfaFNzitQDJjyfjrCAsl5Jnns=
SUMS
    go_build "$1/bin/cert-manager" "$1/program" "$1/program/go.mod" . || return
    install -m 0644 -D -t "$1/crds" "$source"/deploy/crds/*.yaml
}

# A program of ours is part of the pin.
pin_of() { # PEER
    local pin=${1//-/_}
    pin=${!pin}
    [ ! -e "$here/peers/$1/main.go" ] || pin+=-$(sha256sum <"$here/peers/$1/main.go" | cut -c1-8)
    echo "$pin"
}

flux() { # OUT
    local name module source
    for name in kustomize-controller@$flux_kustomize source-controller@$flux_source helm-controller@$flux_helm; do
        module=github.com/fluxcd/${name%@*}
        source=$(module_folder "github.com/fluxcd/$name") || return
        # The module replaces its own api by the folder next to it, which a module zip doesn't hold: name its release.
        sed "s|=> ./api|=> $module/api ${name#*@}|" "$source/go.mod" >"$1/go.mod"
        install -m 0644 "$source/go.sum" "$1/go.sum"
        GOTOOLCHAIN=auto go_build "$1/bin/${name%@*}" "$source" "$1/go.mod" . || return
        install -m 0644 -D -t "$1/crds" "$source"/config/crd/bases/*.yaml
    done
    # It embeds manifests that its release adds, for `flux install`, so it is built in a copy that has one.
    source=$(module_folder "github.com/fluxcd/flux2/v2@$flux_command") || return
    cp -r --no-preserve=mode "$source" "$1/flux2"
    mkdir "$1/flux2/cmd/flux/manifests"
    echo '{}' >"$1/flux2/cmd/flux/manifests/none.yaml"
    go_build "$1/bin/flux" "$1/flux2" "$1/flux2/go.mod" ./cmd/flux || return
    rm -r "$1/flux2"
}
# Each peer is built in a folder of its own and moved into place when it is whole.
provide() { # PEER
    local function=${1//-/_} pin out started=$SECONDS
    declare -F "$function" >/dev/null || die "unknown peer '$1'"
    pin=$(pin_of "$1")
    [ -e "$cache/$1-$pin" ] && return
    # Two test runs at once: the second waits for the first one's builds, and then finds them.
    exec 9>"$cache/lock"
    flock -n 9 || { say "another run is building; waiting for it" && flock 9; }
    [ -e "$cache/$1-$pin" ] && return
    rm -rf "$cache"/building.*
    say "building $1 $pin (some 9 minutes on two cores, once)"
    out=$(mktemp -d "$cache/building.XXXXXX")
    mkdir "$out/bin"
    "$function" "$out" >&2 || die "building $1 failed; the lines above say why"
    chmod 0755 "$out"
    mv --no-target-directory "$out" "$cache/$1-$pin"
    say "built $1 in $((SECONDS - started)) s"
}

# A folder for these pins, so that a run with others can't change what is in it.
chosen=$cache/pins-$(echo "$argo_cd $argo_rollouts $cert_manager $flux" | sha256sum | cut -c1-16)
mkdir -p "$chosen"
for peer; do
    provide "$peer"
    ln -sfn "../$peer-$(pin_of "$peer")" "$chosen/$peer"
done
echo "$chosen"
