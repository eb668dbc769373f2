#!/usr/bin/env bash
# Writes the licence texts of every crate that is linked into the program: most licences require the text beside the
# binary. Each text is written once, below the crates that have it.
#
#   build/licences.sh [TARGET]      default: for the machine's own processor
set -euo pipefail
export LC_ALL=C

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${1:-$(rustc -vV | sed -n 's/^host: //p')}
sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo tree --locked --package migration-gate --target "$target" --edges normal,no-proc-macro --prefix none \
    --format '{p}|{l}' | sed -n 's/ (\*)$//; s/^\([^ |]*\) v\([^ |]*\)[^|]*|\(.*\)/\1 \2 \3/p' | sort -u >"$work/crates"

cat <<'END'
migration-gate is licensed under the Apache License 2.0; its text is in the file LICENSE beside this one.
Its program holds the crates below, Rust's standard library (MIT or Apache-2.0), and, on Linux, the GNU C
library (LGPL-2.1-or-later).

END
while read -r name version licence; do
    case $name in migration-gate | migration-gate-*) continue ;; esac
    echo "$name $version: $licence"
    found=
    for file in "$sources"/*/"$name-$version"/{LICENSE,LICENCE,COPYING,NOTICE,license,UNLICENSE}*; do
        [ -f "$file" ] || continue
        found=yes
        # Its text is the file LICENSE.
        case ${file##*/} in *[Aa][Pp][Aa][Cc][Hh][Ee]*) continue ;; esac
        # Line ends and trailing blanks do not make a text different.
        sed 's/[[:space:]]*$//' "$file" >"$work/text"
        sum=$(cksum <"$work/text" | tr -d ' ')
        [ -e "$work/$sum.text" ] || mv "$work/text" "$work/$sum.text"
        echo "$name $version" >>"$work/$sum.crates"
    done
    [ -n "$found" ] || echo "$name $version: $licence" >>"$work/without"
done <"$work/crates" | tee "$work/listed"

[ -s "$work/listed" ] || {
    echo "build/licences.sh: no crates are listed" >&2
    exit 1
}
if [ -e "$work/without" ]; then
    printf '\nThe packages of these crates hold no text:\n\n'
    cat "$work/without"
fi
for crates in "$work"/*.crates; do
    printf '\n%s\n%s\n\n' "$(printf -- '-%.0s' {1..100})" "$(sort -u "$crates" | paste -sd, - | sed 's/,/, /g' | fold -s -w 100)"
    cat "${crates%.crates}.text"
done
