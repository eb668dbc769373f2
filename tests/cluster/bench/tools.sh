#!/usr/bin/env bash
# Provides what `make bench` compares with: gator, Gatekeeper, Kyverno and kubectl-validate, built from pinned Go
# modules, and the bare HTTPS server with its load (benches/http). They are kept in the user's cache. Prints the folder
# that holds the programs, and nothing else, on standard output; progress goes to standard error.
#
#   tests/cluster/bench/tools.sh               the programs
#   tests/cluster/bench/tools.sh COMMIT        these, and `other`: migration-gate as that commit releases it
#
# Go's programs are only compared with, so that one that can't be built is left out, and the page says so.
set -euo pipefail

# gator and the server.
gatekeeper=v3.23.1
kyverno=v1.19.1
kubectl_validate=v0.0.4

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/migration-gate

say() { echo "bench tools: $*" >&2; }
die() {
    say "$*"
    exit 1
}

# Go's programs are kept by their versions. They take minutes to build, whatever becomes of the bare server.
programs=$cache/bench-programs
mkdir -p "$programs"
exec 9>"$programs/lock"
flock 9 # another run may be building them
making=$programs/building

# The folder's name is the hash of all that decides what the bare server is.
key=$({
    rustc -vV
    cat "$repository"/benches/http/{Cargo.toml,Cargo.lock,src/*}
} | sha256sum | cut -c1-16)
kept=$cache/bench-$key
mkdir -p "$kept"

go_program() { # NAME MODULE@VERSION [PACKAGE]: of PACKAGE in the module's folder, if it is named
    local built=$programs/$1-${2##*@}
    rm -f "$kept/$1" # a link to another version
    if [ ! -e "$built" ]; then
        command -v go >/dev/null || { say "no $1: there is no Go to build it with" && return; }
        say "building $1 (minutes on two cores, once)"
        rm -rf "$making"
        if [ $# = 2 ]; then
            GOBIN=$making go install "${flags[@]}" "$2"
        else # as `go install` takes no module whose go.mod replaces another
            local source=$(go env GOMODCACHE)/$2
            go mod download "$2" && install -m 0644 -D -t "$making/mod" "$source"/go.{mod,sum} &&
                go -C "$source" build "${flags[@]}" -mod=mod -modfile="$making/mod/go.mod" -o "$making/$1" "$3"
        fi 2>"$built.log" && mv "$making/$1" "$built" ||
            { say "no $1: it can't be built; $(tail -n 1 "$built.log")" && return; }
    fi
    ln -s "$built" "$kept/$1"
}
go_definitions() { # NAME MODULE@VERSION FOLDER...: the module's custom resource definitions, if the program is there
    local built=$programs/$1-${2##*@}
    [ -e "$built" ] || return 0
    if [ ! -e "$built-crds" ]; then
        rm -rf "$making"
        install -m 0644 -D -t "$making" $(printf "$(go env GOMODCACHE)/$2/%s/*.yaml " "${@:3}")
        mv "$making" "$built-crds"
    fi
    ln -sfn "$built-crds" "$kept/$1-crds"
}
export CGO_ENABLED=0
flags=(-trimpath -ldflags '-s -w')
module=github.com/open-policy-agent/gatekeeper/v3@$gatekeeper
go_program gator "${module/@//cmd/gator@}"
go_program gatekeeper "$module"
go_definitions gatekeeper "$module" charts/gatekeeper/crds
module=github.com/kyverno/kyverno@$kyverno
go_program kyverno "$module" ./cmd/kyverno
go_definitions kyverno "$module" config/crds/{kyverno,policies.kyverno.io,policyreport,reports}
go_program kubectl-validate "sigs.k8s.io/kubectl-validate@$kubectl_validate"

if [ ! -e "$kept/http" ]; then
    say "building the bare server and the load (about a minute on two cores, once)"
    CARGO_TARGET_DIR=$kept/target cargo build --quiet --release --locked \
        --manifest-path "$repository/benches/http/Cargo.toml" >&2 || die "building the bare server failed"
    mv "$kept/target/release/migration-gate-bench-http" "$kept/http"
    rm -rf "$kept/target"
fi

rm -f "$kept/other"
if [ -n "${1-}" ]; then
    commit=$(git -C "$repository" rev-parse --verify --quiet "$1^{commit}") || die "there is no commit $1"
    released=$cache/released-${commit:0:12}-$(rustc -vV | sha256sum | cut -c1-8)
    if [ ! -e "$released" ]; then
        say "building migration-gate of ${commit:0:12} as it is released (about 4 minutes on two cores, once)"
        work=$(mktemp -d "$cache/released.building.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        git -C "$repository" archive "$commit" | tar --extract --directory "$work"
        binary=$(CARGO_TARGET_DIR=$work/target CARGO_TERM_QUIET=true "$work/build/binary.sh") ||
            die "building it failed; the lines above say why"
        mv "$binary" "$released"
    fi
    ln -s "$released" "$kept/other"
fi
echo "$kept"
