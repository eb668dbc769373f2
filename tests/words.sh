#!/bin/bash
# The turns of words.txt are nowhere in docs, comments and texts, and no comment and no paragraph is
# wider than 100 columns. `make lint` runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

# Pages that are written by others or for others: licences, history, what programs print.
texts() {
    git ls-files -- '*.rs' '*.md' 'charts/*' 'examples/*' 'ci/*' 'build/*' Makefile action.yml |
        grep -v -e CHANGELOG.md -e LICENSE -e Cargo.lock
}
failed=0

while IFS=$'\t' read -r turn instead; do
    case $turn in '' | '#'*) continue ;; esac
    if found=$(texts | xargs grep --with-filename --line-number --word-regexp --ignore-case --extended-regexp -e "$turn"); then
        printf 'write "%s" instead:\n%s\n' "$instead" "$found"
        failed=1
    fi
done <tests/words.txt

# Code blocks, tables and lines of one word (links) are as wide as they are.
export LC_ALL=C.UTF-8
wide=$(
    {
        git ls-files -- '*.rs' | xargs awk '/^ *\/\// && !/^ *\/\/[\/!] [|]/ && !/https?:/ { print FILENAME ":" FNR "\t" $0 }'
        git ls-files -- '*.md' | grep -v -e CHANGELOG.md | xargs awk '
            FNR == 1 { code = 0 }
            /^ *```/ { code = !code }
            !code && !/^ *[|`<]/ && !/^!?\[/ { print FILENAME ":" FNR "\t" $0 }'
    } | grep --extended-regexp -e $'\t.{101,}' || true
)
if [ -n "$wide" ]; then
    printf 'wider than 100 columns:\n%s\n' "$wide"
    failed=1
fi
exit "$failed"
