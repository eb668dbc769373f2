"""full text search"""

from alembic import op

revision = "9b8a7c6d5e4f"
down_revision = "7c6d5e4f3a2b"

READS = "SELECT count(search) FROM community"


def upgrade():
    op.execute("ALTER TABLE community ADD search tsvector GENERATED ALWAYS AS (to_tsvector('simple', name)) STORED")
    op.execute("CREATE INDEX community_search ON community USING gin (search)")
