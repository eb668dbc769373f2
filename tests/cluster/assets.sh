#!/usr/bin/env bash
# Provides what a cluster test runs on: a real control plane, kubelet, containerd, CNI plugins, Helm and crane, built from
# pinned Go modules once and kept in the user's cache. Prints the folder that holds the programs, and nothing else, on
# standard output; progress goes to standard error.
#
#   tests/cluster/assets.sh          what every cluster test needs
#   tests/cluster/assets.sh flux     that, and Flux's kustomize-controller with its CRDs
#
# There is no container image to pull and no binary to download: Go's module proxy and Debian's packages are enough.
set -euo pipefail

containerd=v2.4.2
cni=v1.9.1
helm=v4.3.1
crane=v0.21.6
flux=v1.9.6

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The newest, of which the node is, and the oldest that the chart admits, by the modules that build them.
kubernetes_of() { sed -n 's|^\tk8s.io/kubernetes ||p' "$here/control-plane/$1go.mod"; }
kubernetes=$(kubernetes_of "")
oldest_kubernetes=$(kubernetes_of oldest/)

say() { echo "cluster assets: $*" >&2; }
die() {
    say "$*"
    exit 1
}

case "${1-}" in
"" | flux) ;;
*) die "unknown argument '$1' (want nothing, or 'flux')" ;;
esac

# The folder's name is the hash of all that decides what is in it, so that a new pin never meets an old build.
key=$({
    echo "$kubernetes $containerd $cni $helm $crane $flux"
    cat "$here"/control-plane/{,oldest/}{go.mod,go.sum,main.go} "$here/control-plane/kubectl/main.go"
} | sha256sum | cut -c1-16)
root=${XDG_CACHE_HOME:-$HOME/.cache}/migration-gate/$key
bin=$root/bin
mkdir -p "$bin"

# has NAME...: are these there already?
has() {
    local name
    for name; do [ -e "$root/$name" ] || return 1; done
}

# Debian's runc has seccomp; one built without cgo has not, and then no pod starts.
packages() {
    local missing=() entry
    for entry in runc:runc iptables:iptables ip:iproute2 busybox:busybox-static unshare:util-linux cc:gcc; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
    done
    # A dynamically linked busybox finds no libc in an image that holds nothing else.
    if command -v busybox >/dev/null && [ -e /etc/debian_version ] && ! dpkg-query -W busybox-static >/dev/null 2>&1; then
        missing+=(busybox-static)
    fi
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || die "these are missing, and there is no apt-get to install them with: ${missing[*]}"
    say "installing Debian packages: ${missing[*]} (under a minute)"
    # The package lists of a fresh machine are absent or stale.
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 || die "apt-get update failed; the lines above say why"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install ${missing[*]}; the lines above say why"
}

# Each part is built in a folder of its own and moved into place when it is whole, so a build that is interrupted
# leaves nothing that looks finished (Go's own build cache keeps what was compiled).
build() { # WHAT ABOUT-HOW-LONG FUNCTION FILE...
    local what=$1 long=$2 function=$3 out started=$SECONDS file
    shift 3
    has "$@" && return
    command -v go >/dev/null || die "Go is needed to build $what: install Go 1.26 or later"
    say "building $what (about $long on two cores, once)"
    out=$(mktemp -d "$root/building.XXXXXX")
    mkdir "$out/bin"
    "$function" "$out" >&2 || die "building $what failed; the lines above say why"
    for file; do
        mkdir -p "$(dirname "$root/$file")"
        rm -rf "${root:?}/$file"
        mv "$out/$file" "$root/$file"
    done
    chmod -R u+w "$out" && rm -rf "$out"
    say "built $what in $((SECONDS - started)) s"
}

export CGO_ENABLED=0 GOFLAGS=-buildvcs=false
quiet() { # Go names each module that it downloads, which is hundreds of lines.
    "$@" 2> >(grep -v '^go: \(downloading\|added\|upgraded\|finding\)' >&2 || true)
}
go_install() { # OUT PACKAGE@VERSION...
    local out=$1
    shift
    GOBIN=$out/bin quiet go install -trimpath -ldflags '-s -w' "$@"
}

components=(etcd kube-apiserver kube-controller-manager kube-scheduler kubelet)
control_plane() {
    local name
    kubernetes_build "$kubernetes" "$here/control-plane" "$1/bin/" || return
    for name in "${components[@]}"; do ln -s control-plane "$1/bin/$name"; done
}
oldest_api_server() {
    kubernetes_build "$oldest_kubernetes" "$here/control-plane/oldest" "$1/bin/kube-apiserver-oldest"
}
kubernetes_build() { # VERSION MODULE OUT
    local minor=${1#v1.} version=k8s.io/component-base/version
    quiet go -C "$2" build -trimpath -mod=readonly -o "$3" -ldflags "-s -w \
        -X $version.gitVersion=$1 -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}" ./...
}
containerd() {
    local package=github.com/containerd/containerd/v2/cmd
    go_install "$1" $package/{containerd,containerd-shim-runc-v2,ctr}@"$containerd"
}
cni_plugins() {
    local package=github.com/containernetworking/plugins/plugins
    go_install "$1" $package/{main/bridge,main/loopback,ipam/host-local}@"$cni"
}
helm_client() {
    go_install "$1" helm.sh/helm/v4/cmd/helm@"$helm"
}
crane_client() {
    go_install "$1" github.com/google/go-containerregistry/cmd/crane@"$crane"
}
kustomize_controller() {
    local module source copy=$1/module
    module=$(module_folder github.com/fluxcd/kustomize-controller) || return
    source=$(module_folder github.com/fluxcd/source-controller) || return
    # The module replaces its own api by the folder next to it, which a module zip doesn't hold: name its release.
    mkdir "$copy"
    sed "s|=> ./api|=> github.com/fluxcd/kustomize-controller/api $flux|" "$module/go.mod" >"$copy/go.mod"
    cp "$module/go.sum" "$copy/go.sum"
    chmod u+w "$copy"/*
    (cd "$module" && quiet go build -trimpath -mod=mod -modfile="$copy/go.mod" -ldflags '-s -w' \
        -o "$1/bin/kustomize-controller" .) || return
    mkdir "$1/flux-crds"
    cp "$module"/config/crd/bases/*.yaml "$source"/config/crd/bases/*.yaml "$1/flux-crds/"
}
module_folder() { # MODULE: where Go unpacks it
    quiet go mod download -json "$1@$flux" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'
}

files() { printf 'bin/%s\n' "$@"; }
mapfile -t control_plane_files < <(files control-plane kubectl "${components[@]}")
mapfile -t containerd_files < <(files containerd containerd-shim-runc-v2 ctr)
mapfile -t cni_files < <(files bridge loopback host-local)

wanted() {
    has "${control_plane_files[@]}" "${containerd_files[@]}" "${cni_files[@]}" bin/{helm,crane,kube-apiserver-oldest} &&
        { [ "${1-}" != flux ] || has bin/kustomize-controller flux-crds; }
}

packages
if ! wanted "$@"; then
    # Two test runs at once: the second waits for the first one's builds, and then finds them.
    exec 9>"$root/lock"
    flock -n 9 || { say "another run is building them; waiting for it" && flock 9; }
    rm -rf "$root"/building.*
    build "Kubernetes $kubernetes and etcd" "7 minutes" control_plane "${control_plane_files[@]}"
    build "the API server of Kubernetes $oldest_kubernetes" "4 minutes" oldest_api_server bin/kube-apiserver-oldest
    build "containerd $containerd" "40 s" containerd "${containerd_files[@]}"
    build "CNI plugins $cni" "10 s" cni_plugins "${cni_files[@]}"
    build "Helm $helm" "2 minutes" helm_client bin/helm
    build "crane $crane" "20 s" crane_client bin/crane
    [ "${1-}" != flux ] ||
        build "Flux's kustomize-controller $flux" "3 minutes" kustomize_controller bin/kustomize-controller flux-crds
fi
echo "$bin"
