"""Entries of the quarantine that are gone from their source."""

from alembic import op

revision = "0002"
down_revision = "0001"
# The revision of the histories before this one in which the same was done.
replaces = {"platform": "0006", "target": "0002"}


def upgrade() -> None:
    op.drop_constraint("quarantine_status_isin", "quarantine", schema="etl", type_="check")
    op.create_check_constraint(
        "quarantine_status_isin", "quarantine", "\"status\" IN ('open', 'replayed', 'gone')", schema="etl"
    )
    op.alter_column(
        "quarantine",
        "status",
        comment="open: somebody has to look; replayed: its row was stored after a correction; gone: its source was read again, whole, without it",
        schema="etl",
    )
