"""polls"""

import sqlalchemy as sa
from alembic import op

revision = "2d1e0f9a8b7c"
down_revision = "9b8a7c6d5e4f"

READS = "SELECT count(community.id) FROM community LEFT JOIN poll ON poll.community_id = community.id"


def upgrade():
    op.create_table(
        "poll",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("community_id", sa.Integer, sa.ForeignKey("community.id"), nullable=False, index=True),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True)),
    )
