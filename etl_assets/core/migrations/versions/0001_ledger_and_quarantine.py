"""Ledger and quarantine."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
# The revision of the histories before this one in which the same was done.
replaces = {"platform": "0001", "target": "0001"}


def upgrade() -> None:
    op.create_table(
        "ledger",
        sa.Column(
            "commit_id", sa.Text(collation="C"), nullable=False, comment="Identity of the commit, made by the writer"
        ),
        sa.Column("asset", sa.Text(collation="C"), nullable=False, comment="Table that was written, schema.table"),
        sa.Column(
            "partition",
            sa.Text(collation="C"),
            nullable=False,
            comment="Partition that was written; empty for a whole table",
        ),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="Run that wrote, or `script`"),
        sa.Column("mode", sa.Text(collation="C"), nullable=False, comment="How it wrote"),
        sa.Column("received", sa.BigInteger(), nullable=False, comment="Rows that arrived [rows]"),
        sa.Column("inserted", sa.BigInteger(), nullable=False, comment="Rows that are new in the table [rows]"),
        sa.Column("updated", sa.BigInteger(), nullable=False, comment="Rows whose values changed [rows]"),
        sa.Column("deleted", sa.BigInteger(), nullable=False, comment="Rows that were there and no longer are [rows]"),
        sa.Column(
            "unchanged",
            sa.BigInteger(),
            nullable=False,
            comment="Rows that arrived and were there already, untouched [rows]",
        ),
        sa.Column(
            "deduplicated",
            sa.BigInteger(),
            nullable=False,
            comment="Rows that gave way to a later one of the same key [rows]",
        ),
        sa.Column("quarantined", sa.BigInteger(), nullable=False, comment="Rows that broke the contract [rows]"),
        sa.Column(
            "flagged",
            sa.BigInteger(),
            nullable=False,
            comment="Rows that were loaded with a remark in quarantine [rows]",
        ),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="Size of the valid rows in Arrow [bytes]"),
        sa.Column(
            "content_hash",
            sa.Text(collation="C"),
            nullable=True,
            comment="SHA-256 of the valid rows as they were given; none for a stream of batches",
        ),
        sa.Column(
            "source_position",
            sa.Text(collation="C"),
            nullable=True,
            comment="Where the source stood after these rows, as JSON",
        ),
        sa.Column("seconds", sa.Double(), nullable=False, comment="Duration of the write [s]"),
        sa.Column(
            "committed_at",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="Instant of the write, by the database's clock",
        ),
        sa.CheckConstraint(
            "mode IN ('replace', 'partition', 'upsert', 'append', 'snapshot', 'delivery', 'replay')",
            name="ledger_mode_isin",
        ),
        sa.CheckConstraint("seconds > '-Infinity' AND seconds < 'Infinity'", name="ledger_seconds_finite"),
        sa.CheckConstraint("char_length(commit_id) <= 64", name="ledger_commit_id_max_length"),
        sa.CheckConstraint("deduplicated >= 0", name="ledger_deduplicated_ge"),
        sa.CheckConstraint("deleted >= 0", name="ledger_deleted_ge"),
        sa.CheckConstraint("flagged >= 0", name="ledger_flagged_ge"),
        sa.CheckConstraint("inserted >= 0", name="ledger_inserted_ge"),
        sa.CheckConstraint("quarantined >= 0", name="ledger_quarantined_ge"),
        sa.CheckConstraint("received >= 0", name="ledger_received_ge"),
        sa.CheckConstraint("seconds >= 0", name="ledger_seconds_ge"),
        sa.CheckConstraint("size >= 0", name="ledger_size_ge"),
        sa.CheckConstraint("unchanged >= 0", name="ledger_unchanged_ge"),
        sa.CheckConstraint("updated >= 0", name="ledger_updated_ge"),
        sa.PrimaryKeyConstraint("commit_id", name="ledger_pkey"),
        schema="etl",
        comment="Writes that were committed, one row per slice and transaction; stored in that same transaction.",
    )
    op.create_table(
        "quarantine",
        sa.Column(
            "id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Identity: the same record of the same slice has the same one in every run",
        ),
        sa.Column(
            "asset", sa.Text(collation="C"), nullable=False, comment="Table that the row was meant for, schema.table"
        ),
        sa.Column(
            "partition",
            sa.Text(collation="C"),
            nullable=False,
            comment="Partition that was written; empty for a whole table",
        ),
        sa.Column("outcome", sa.Text(collation="C"), nullable=False, comment="What became of the row"),
        sa.Column("status", sa.Text(collation="C"), nullable=False, comment="Whether somebody still has to look"),
        sa.Column(
            "faults", sa.Text(collation="C"), nullable=False, comment="All faults as JSON: column, rule, raw value"
        ),
        sa.Column("raw", sa.Text(collation="C"), nullable=False, comment="The row as it was received, as JSON"),
        sa.Column("source", sa.Text(collation="C"), nullable=False, comment="Where it came from"),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="Run that met it last"),
        sa.Column("seen", sa.BigInteger(), nullable=False, comment="How often it was met [rows]"),
        sa.Column("first_seen", sa.TIMESTAMP(timezone=True), nullable=False, comment="When it was met first"),
        sa.Column("last_seen", sa.TIMESTAMP(timezone=True), nullable=False, comment="When it was met last"),
        sa.CheckConstraint("outcome IN ('rejected', 'flagged', 'superseded')", name="quarantine_outcome_isin"),
        sa.CheckConstraint("status IN ('open', 'replayed')", name="quarantine_status_isin"),
        sa.CheckConstraint("char_length(id) <= 64", name="quarantine_id_max_length"),
        sa.CheckConstraint("seen >= 1", name="quarantine_seen_ge"),
        sa.PrimaryKeyConstraint("id", name="quarantine_pkey"),
        schema="etl",
        comment="Rows that are not in their table, or are there with a remark: the raw row, all its faults, and where it came from.",
    )
    op.create_index(
        "ledger_asset_partition_committed_at_idx",
        "ledger",
        ["asset", "partition", "committed_at"],
        unique=False,
        schema="etl",
    )
    op.create_index("quarantine_asset_status_idx", "quarantine", ["asset", "status"], unique=False, schema="etl")
