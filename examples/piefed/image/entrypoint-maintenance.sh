#!/bin/sh
# What PieFed's image has cron do: entrypoint-maintenance.sh COMMAND..., each a command of `flask`.
. "$(dirname "$0")/entrypoint-common.sh"

[ $# -gt 0 ] || {
    echo "usage: ${0##*/} COMMAND..." >&2
    exit 2
}
for command in "$@"; do
    (become flask "$command")
done
