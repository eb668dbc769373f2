"""How `flask db upgrade` runs: waits for PostgreSQL and Redis, then migrates in one transaction."""

import logging
import os
import sys
import time

import redis
from alembic import context
from flask import current_app
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

PATIENCE = 120  # seconds for the services to come up

logging.basicConfig(stream=sys.stdout)
for handler in logging.getLogger().handlers:
    handler.setFormatter(logging.Formatter("%(levelname)-5.5s [%(name)s] %(message)s"))
logging.getLogger("alembic").setLevel(logging.INFO)
log = logging.getLogger("alembic.env")


def await_service(name, call, errors):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except errors as error:
            if time.monotonic() > end:
                raise
            log.info("waiting for %s: %s", name, str(error).splitlines()[0])
            time.sleep(0.5)


def hold(queue):
    """Waits, where MIGRATION_HOLD is set, until somebody pushes onto the list `go:<version>`.

    That it does is written to `holding:<version>`. What was pushed stays there: a second attempt at the same version
    doesn't wait again.
    """
    if os.environ.get("MIGRATION_HOLD"):
        version = os.environ["PIEFED_VERSION"]
        go = f"go:{version}"
        log.info("holding until something is pushed onto %s", go)
        queue.lpush(f"holding:{version}", "holding")
        queue.blmove(go, go, timeout=0)


def migrate():
    engine = current_app.extensions["migrate"].db.engine
    queue = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"])

    def query():
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    await_service("PostgreSQL", query, OperationalError)
    await_service("Redis", queue.ping, redis.RedisError)
    hold(queue)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=None)
        with context.begin_transaction():
            context.run_migrations()
    log.info("the schema is migrated")


if context.is_offline_mode():
    raise SystemExit("these migrations need a database")
migrate()
