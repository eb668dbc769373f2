#!/usr/bin/env bash
# Makes a CA and a serving certificate for development, valid for a month. Never for a cluster that matters: the CA's
# key lies beside them.
#
#   certs/development.sh [FOLDER [NAME]...]      default: certs/development localhost 127.0.0.1
#
# FOLDER then holds ca.crt, ca.key, tls.crt and tls.key. Names may be DNS names and IP addresses.
set -euo pipefail
umask 077

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/development}
shift || true
[ $# -gt 0 ] || set -- localhost 127.0.0.1
command -v openssl >/dev/null || {
    echo "certs/development.sh: openssl is needed; install it and run this again" >&2
    exit 1
}

names=
for name; do
    case $name in
    *[!0-9.]*) [[ $name == *:* ]] && kind=IP || kind=DNS ;;
    *) kind=IP ;;
    esac
    names+=${names:+,}$kind:$name
done

mkdir -p "$folder"
curve=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
openssl() { # Quiet, unless it fails.
    local said
    said=$(command openssl "$@" 2>&1) && return
    echo "certs/development.sh: openssl $1 failed for $names in $folder:" >&2
    echo "$said" >&2
    return 1
}
openssl req -x509 "${curve[@]}" -days 30 -subj "/CN=migration-gate development CA" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout "$folder/ca.key" -out "$folder/ca.crt"
openssl req -x509 "${curve[@]}" -days 30 -subj "/CN=migration-gate" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" \
    -addext "basicConstraints=critical,CA:FALSE" -addext "subjectAltName=$names" \
    -addext "extendedKeyUsage=serverAuth" -keyout "$folder/tls.key" -out "$folder/tls.crt"
openssl verify -CAfile "$folder/ca.crt" "$folder/tls.crt"
echo "$folder"
