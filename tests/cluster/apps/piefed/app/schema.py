"""What this release's code expects of the database."""

from functools import cache
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

MIGRATIONS = Path(__file__).parent.parent / "migrations"


class Unmigrated(Exception):
    """The database lacks what this release's query names."""


@cache
def _newest():
    scripts = ScriptDirectory(str(MIGRATIONS))
    return scripts.get_revision(scripts.get_current_head())


def head() -> str:
    """The newest revision that this image holds."""
    return _newest().revision


def read(session) -> int:
    """Runs the query that the code of this release was written for; gives the number of communities."""
    try:
        return session.execute(text(_newest().module.READS)).scalar_one()
    except ProgrammingError as error:
        if error.orig.sqlstate is None:  # the driver's own complaint, not PostgreSQL's
            raise
        session.rollback()
        complaint = str(error.orig).splitlines()[0]
        raise Unmigrated(f"needs {head()}, the database is at {_found(session)}: {complaint}") from error


def _found(session) -> str:
    try:
        return session.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or "nothing"
    except ProgrammingError:
        session.rollback()
        return "nothing"
