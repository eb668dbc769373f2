"""Waits until PostgreSQL and each Redis answer; says which one doesn't, and why.

WAIT_SECONDS (120) is the time for all of them together.
"""

import os
import sys
import time

import redis
from sqlalchemy import create_engine, text

PATIENCE = float(os.environ.get("WAIT_SECONDS", "120"))


def postgresql():
    engine = create_engine(os.environ["DATABASE_URL"], connect_args={"connect_timeout": 5})
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def redis_at(url):
    return lambda: redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5).ping()


def wait(name, call, end):
    said = None
    while True:
        try:
            call()
        except Exception as error:  # the driver's, the network's, the resolver's: each is a reason to wait
            reason = str(error).splitlines()[0]
            if time.monotonic() > end:
                sys.exit(f"{name} does not answer within {PATIENCE:.0f} s: {reason}")
            if reason != said:
                print(f"waiting for {name}: {reason}", flush=True)
                said = reason
            time.sleep(0.5)
        else:
            print(f"{name} answers", flush=True)
            return


def main():
    for name in ("DATABASE_URL", "CELERY_BROKER_URL"):
        if not os.environ.get(name):
            sys.exit(f"{name} is not set. PieFed would use a file of its container, or a server that isn't there.")
    end = time.monotonic() + PATIENCE
    wait("PostgreSQL (DATABASE_URL)", postgresql, end)
    seen = set()
    for name in ("CELERY_BROKER_URL", "CACHE_REDIS_URL", "RESULT_BACKEND"):
        url = os.environ.get(name)
        if url and url not in seen:
            seen.add(url)
            wait(f"Redis ({name})", redis_at(url), end)


main()
