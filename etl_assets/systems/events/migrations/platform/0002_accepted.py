"""Intervals whose loss a person has accepted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
# The revision of the histories before this one in which the same was done.
replaces = {"platform": "0007"}


def upgrade() -> None:
    op.add_column(
        "intervals",
        sa.Column(
            "accepted",
            sa.Text(collation="C"),
            nullable=True,
            comment="Why a person has accepted that the file, or its newest version, is not to be had; NULL where nobody has, and again when another file comes",
        ),
        schema="events",
    )
    op.alter_column("intervals", "loaded_at", comment="When the interval was loaded last", schema="events")
