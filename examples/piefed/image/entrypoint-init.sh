#!/bin/sh
# The migration Job: waits for PostgreSQL and Redis, migrates, and ends.
. "$(dirname "$0")/entrypoint-common.sh"

(become python3 "$here/await-services.py")
become flask db upgrade
