"""A small forum, shaped as PieFed is: Flask, SQLAlchemy, Alembic's migrations by Flask-Migrate, Redis, a worker.

It does little, but really: each request and each turn of the worker's loop runs the query that this release's code
was written for. On a schema that isn't migrated PostgreSQL refuses that query, and a line that begins with
UNMIGRATED says so; the tests count these lines.
"""

import logging
import os
import signal
import sys
import time

import redis
from flask import Flask, Response
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.exc import SQLAlchemyError

from app.schema import Unmigrated, head, read

VERSION = os.environ["PIEFED_VERSION"]  # the image sets it to its own tag
MAINTENANCE = (
    "daily-maintenance-celery",
    "send-queue",
    "send_missed_notifs",
    "process_email_bounces",
    "clean_up_old_activities",
    "remove_orphan_files",
)

database = SQLAlchemy()
migrate = Migrate()
log = logging.getLogger("piefed")


def create_app() -> Flask:
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    # As a container's first process Python would ignore SIGTERM, and each pod would take its whole grace period. At once:
    # an exception in the middle of a query would come out of the database's driver as one of its own.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    app = Flask("piefed")
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}}
    database.init_app(app)
    migrate.init_app(app, database)
    queue = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"])

    def unmigrated(process: str, error: Unmigrated) -> None:
        line = f"UNMIGRATED {process} {VERSION}: {error}"
        log.error(line)
        # A pod's log ends with the pod; here the line outlives it.
        queue.rpush("unmigrated", line)

    @app.get("/")
    def page() -> Response:
        try:
            communities = read(database.session)
            queue.lpush("federate", communities)
            queue.ltrim("federate", 0, 99)
        except Unmigrated as error:
            unmigrated("web", error)
            return Response(f"{error}\n", 500)
        except (SQLAlchemyError, redis.RedisError) as error:
            log.warning("web %s can't serve: %s", VERSION, first_line(error))
            return Response("unavailable\n", 503)
        return Response(f"{VERSION}: {communities} communities\n")

    @app.cli.command("worker")
    def worker() -> None:
        """Takes what the web processes have put into the queue."""
        log.info("worker %s starts, written for revision %s", VERSION, head())
        while True:
            try:
                queue.brpop(["federate"], timeout=1)
                read(database.session)
            except Unmigrated as error:
                unmigrated("worker", error)
            except (SQLAlchemyError, redis.RedisError) as error:
                log.warning("worker %s can't work: %s", VERSION, first_line(error))
                time.sleep(1)
            finally:
                database.session.remove()

    for name in MAINTENANCE:
        app.cli.command(name)(maintenance(name))

    return app


def maintenance(name):
    """A command of PieFed's cron, as far as it reads the database."""

    def run() -> None:
        try:
            log.info("%s %s: %s communities", name, VERSION, read(database.session))
        except Unmigrated as error:
            raise SystemExit(f"UNMIGRATED {name} {VERSION}: {error}") from error

    return run


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
