#!/bin/sh
# The notifications server, on port 8000. It reads Redis and no table.
. "$(dirname "$0")/entrypoint-common.sh"

become uvicorn fastapi_server:app --host 0.0.0.0 --port 8000
