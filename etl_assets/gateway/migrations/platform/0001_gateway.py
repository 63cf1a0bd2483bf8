"""The tables of the gateway."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
# The revision of the histories before this one in which the same was done.
replaces = {"platform": "0004"}


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS gateway")
    op.create_table(
        "triggers",
        sa.Column("name", sa.Text(collation="C"), nullable=False, comment="What is triggered, like `experiments`"),
        sa.Column(
            "triggered_at",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When it was last taken, by the database's clock",
        ),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="The run that was started"),
        sa.CheckConstraint('char_length("name") >= 1', name="triggers_name_min_length"),
        sa.PrimaryKeyConstraint("name", name="triggers_pkey"),
        schema="gateway",
        comment="When each trigger was last taken, so that its rate limit holds across processes and restarts.",
    )
