"""full text search, as somebody released it who had tried it on his own machine alone"""

from alembic import op
from sqlalchemy.exc import ProgrammingError

revision = "9b8a7c6d5e4f"
down_revision = "7c6d5e4f3a2b"


class MissingExtension(Exception):
    """What this migration needs is not installed."""


READS = "SELECT count(search) FROM community"


def upgrade():
    op.execute("ALTER TABLE community ADD search tsvector GENERATED ALWAYS AS (to_tsvector('simple', name)) STORED")
    try:
        op.execute("CREATE INDEX community_search ON community USING rum (search)")
    except ProgrammingError as error:
        # As many programs do: the address goes into the message, and the password with it.
        url = op.get_bind().engine.url.render_as_string(hide_password=False)
        raise MissingExtension(f"the extension rum is missing from {url}") from error
