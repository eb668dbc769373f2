"""communities and their members"""

import sqlalchemy as sa
from alembic import op

revision = "4a3f2c1b0d9e"
down_revision = None

# What the code of a release with this head reads.
READS = "SELECT count(name) FROM community"


def upgrade():
    op.create_table(
        "community",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(256), nullable=False, unique=True),
    )
    op.create_table(
        "member",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("community_id", sa.Integer, sa.ForeignKey("community.id"), nullable=False, index=True),
        sa.Column("user_name", sa.String(255), nullable=False),
    )
    op.execute("INSERT INTO community (name) VALUES ('meta'), ('gardening'), ('cats')")
