"""heads and corrections."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS etl")
    op.create_table(
        "corrections",
        sa.Column("id", sa.Text(collation="C"), nullable=False, comment="Entry of the quarantine"),
        sa.Column("asset", sa.Text(collation="C"), nullable=False, comment="Table that the row is for, schema.table"),
        sa.Column("partition", sa.Text(collation="C"), nullable=False, comment="Partition; empty for a whole table"),
        sa.Column("raw", sa.Text(collation="C"), nullable=False, comment="The row as it was received, as JSON"),
        sa.Column(
            "corrected", sa.Text(collation="C"), nullable=False, comment="The row as it should have been, as JSON"
        ),
        sa.Column("corrected_by", sa.Text(collation="C"), nullable=False, comment="Who says so"),
        sa.Column("reason", sa.Text(collation="C"), nullable=True, comment="Why"),
        sa.Column(
            "corrected_at",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When that was said, by the database's clock",
        ),
        sa.Column(
            "closed_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="Since when the source does not say the row any more; NULL while it is corrected",
        ),
        sa.CheckConstraint('char_length("id") <= 64', name="corrections_id_max_length"),
        sa.PrimaryKeyConstraint("id", name="corrections_pkey"),
        schema="etl",
        comment="Corrections of rejected rows, by the identity that the row has in quarantine.",
    )
    op.create_index(
        "corrections_asset_partition_idx", "corrections", ["asset", "partition"], unique=False, schema="etl"
    )
    op.execute("CREATE SCHEMA IF NOT EXISTS etl")
    op.create_table(
        "heads",
        sa.Column("asset", sa.Text(collation="C"), nullable=False, comment="Table, schema.table"),
        sa.Column("partition", sa.Text(collation="C"), nullable=False, comment="Partition; empty for a whole table"),
        sa.Column(
            "generation",
            sa.BigInteger(),
            nullable=False,
            comment="How often the lock of the slice was taken to write it",
        ),
        sa.Column(
            "commit_id",
            sa.Text(collation="C"),
            nullable=True,
            comment="Commit that changed the slice last; NULL before the first",
        ),
        sa.Column(
            "file",
            sa.Text(collation="C"),
            nullable=True,
            comment="Name of the file that holds the slice, in its folder; NULL for what is in Postgres alone",
        ),
        sa.Column(
            "content_hash",
            sa.Text(collation="C"),
            nullable=True,
            comment="SHA-256 of the rows that the last write gave; NULL for a stream of batches",
        ),
        sa.Column("rows", sa.BigInteger(), nullable=True, comment="Rows in the file [rows]"),
        sa.Column(
            "inputs",
            sa.Text(collation="C"),
            nullable=True,
            comment="What the last write was derived from, as JSON: the commit by table and partition",
        ),
        sa.Column(
            "changed_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When that commit was made, by the database's clock: for people",
        ),
        sa.CheckConstraint('"generation" >= 0', name="heads_generation_ge"),
        sa.PrimaryKeyConstraint("asset", "partition", name="heads_pkey"),
        schema="etl",
        comment="What stands of each slice: the commit that changed it last and, of one in files, which file that wrote.",
    )
    op.execute('ALTER TABLE etl.ledger DROP CONSTRAINT "ledger_mode_isin"')
    op.execute('DROP INDEX etl."ledger_asset_partition_committed_at_idx"')
    op.execute('ALTER TABLE etl.ledger ADD COLUMN "batch" text COLLATE "C"')
    op.execute('ALTER TABLE etl.ledger ADD COLUMN "file" text COLLATE "C"')
    # Rows that are there get this value: change it where another is right.
    op.execute('ALTER TABLE etl.ledger ADD COLUMN "generation" bigint NOT NULL DEFAULT 0')
    op.execute('ALTER TABLE etl.ledger ALTER COLUMN "generation" DROP DEFAULT')
    op.execute('ALTER TABLE etl.ledger ADD COLUMN "inputs" text COLLATE "C"')
    op.execute('ALTER TABLE etl.ledger ADD COLUMN "remark" text COLLATE "C"')
    op.execute('ALTER TABLE etl.ledger ADD CONSTRAINT "ledger_generation_ge" CHECK ((generation >= 0))')
    op.execute(
        "ALTER TABLE etl.ledger ADD CONSTRAINT \"ledger_mode_isin\" CHECK ((mode = ANY (ARRAY['replace'::text, 'partition'::text, 'upsert'::text, 'append'::text, 'snapshot'::text, 'delivery'::text, 'replay'::text, 'accept'::text, 'forget'::text])))"
    )
    op.execute("CREATE INDEX ledger_asset_partition_file_idx ON etl.ledger USING btree (asset, partition, file)")
    op.execute(
        "CREATE INDEX ledger_asset_partition_generation_committed_at_idx ON etl.ledger USING btree (asset, partition, generation, committed_at)"
    )
    op.execute("CREATE INDEX ledger_batch_idx ON etl.ledger USING btree (batch)")
    op.execute(
        "COMMENT ON COLUMN etl.ledger.\"batch\" IS 'Identity of what was appended: root run, step and part; a batch is appended once'"
    )
    op.execute("COMMENT ON COLUMN etl.ledger.\"file\" IS 'Name of the file that was written, as long as it is kept'")
    op.execute(
        "COMMENT ON COLUMN etl.ledger.\"generation\" IS 'Order of the commits of a slice, by its head; 0 before there were heads'"
    )
    op.execute(
        "COMMENT ON COLUMN etl.ledger.\"inputs\" IS 'What the rows were derived from, as JSON: the commit by table and partition'"
    )
    op.execute(
        "COMMENT ON COLUMN etl.ledger.\"mode\" IS 'How it wrote, or what else was done to the slice: accept and forget are of its entries in quarantine'"
    )
    op.execute("COMMENT ON COLUMN etl.ledger.\"remark\" IS 'Why, where a person did it'")
    op.execute('ALTER TABLE etl.quarantine DROP CONSTRAINT "quarantine_status_isin"')
    op.execute('ALTER TABLE etl.quarantine ADD COLUMN "commit_id" text COLLATE "C"')
    op.execute('ALTER TABLE etl.quarantine ADD COLUMN "remark" text COLLATE "C"')
    op.execute(
        "ALTER TABLE etl.quarantine ADD CONSTRAINT \"quarantine_status_isin\" CHECK ((status = ANY (ARRAY['open'::text, 'replayed'::text, 'superseded'::text, 'accepted'::text, 'gone'::text])))"
    )
    op.execute("COMMENT ON COLUMN etl.quarantine.\"commit_id\" IS 'Commit that met it last; NULL before that was kept'")
    op.execute("COMMENT ON COLUMN etl.quarantine.\"remark\" IS 'Why it was accepted, and by whom'")
    op.execute(
        "COMMENT ON COLUMN etl.quarantine.\"status\" IS 'open: somebody has to look; replayed: its row was stored after a correction; superseded: a later record of its key counts; accepted: nobody will mend it; gone: its source was read again, whole, without it, or was given up'"
    )
