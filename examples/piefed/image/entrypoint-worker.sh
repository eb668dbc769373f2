#!/bin/sh
# What the site hands to the background: federation, mails, maintenance.
. "$(dirname "$0")/entrypoint-common.sh"

become celery -A celery_worker_docker.celery worker --concurrency="${CELERY_CONCURRENCY:-4}" \
    --queues=celery,background,send
