#!/bin/sh
# The site, on port 5000.
. "$(dirname "$0")/entrypoint-common.sh"

become gunicorn --config gunicorn.conf.py --preload pyfedi:app
