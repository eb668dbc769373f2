"""How `flask db upgrade` runs: in one transaction, as PieFed's does. The entrypoint has waited for the services."""

import logging
import os
import sys

import redis
from alembic import context
from flask import current_app

logging.basicConfig(stream=sys.stdout)
for handler in logging.getLogger().handlers:
    handler.setFormatter(logging.Formatter("%(levelname)-5.5s [%(name)s] %(message)s"))
logging.getLogger("alembic").setLevel(logging.INFO)
log = logging.getLogger("alembic.env")


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
    hold(queue)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=None)
        with context.begin_transaction():
            context.run_migrations()
    log.info("the schema is migrated")


if context.is_offline_mode():
    raise SystemExit("these migrations need a database")
migrate()
