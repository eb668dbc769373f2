"""community flair"""

import sqlalchemy as sa
from alembic import op

revision = "7c6d5e4f3a2b"
down_revision = "4a3f2c1b0d9e"

READS = "SELECT count(flair) FROM community"


def upgrade():
    op.add_column("community", sa.Column("flair", sa.String(50), server_default="", nullable=False))
