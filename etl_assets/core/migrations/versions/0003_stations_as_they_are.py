"""Stations, as they are."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        "COMMENT ON TABLE events.intervals IS 'The book of the feed''s intervals: one row per interval that was asked for or is known to be due, with its outcome.'"
    )
