"""What the revision before the one commit left behind: its tables of ledger and quarantine, no heads, its files."""

from pathlib import Path

from etl_assets.core import registry
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.files import COPY, OF_COMMIT, ParquetRoot
from etl_assets.core.slices.slice import Slice

TABLES_OF_BEFORE = """
    DROP TABLE etl.heads, etl.corrections;
    DROP INDEX etl.ledger_asset_partition_generation_committed_at_idx, etl.ledger_asset_partition_file_idx, etl.ledger_batch_idx;
    ALTER TABLE etl.ledger DROP COLUMN generation, DROP COLUMN batch, DROP COLUMN inputs, DROP COLUMN file, DROP COLUMN remark,
      DROP CONSTRAINT ledger_mode_isin,
      ADD CONSTRAINT ledger_mode_isin CHECK (mode IN ('replace', 'partition', 'upsert', 'append', 'snapshot', 'delivery', 'replay'));
    CREATE INDEX ledger_asset_partition_committed_at_idx ON etl.ledger (asset, partition, committed_at);
    ALTER TABLE etl.quarantine DROP COLUMN commit_id, DROP COLUMN remark,
      DROP CONSTRAINT quarantine_status_isin,
      ADD CONSTRAINT quarantine_status_isin CHECK (status IN ('open', 'replayed', 'gone'));
    UPDATE etl.core_version SET version_num = '0002';
"""


def age(database: Database, root: str | None = None) -> Database:
    """Make a database, and the raw layer whose heads it has, those of before; gives the database to go on with."""
    with database.connect() as connection:
        files = connection.execute("SELECT asset, partition, file FROM etl.heads WHERE file IS NOT NULL").fetchall()
        connection.execute(TABLES_OF_BEFORE)
    for asset, partition, file in files:
        assert root is not None
        contract = registry.contract_of(asset)
        folder = Path(ParquetRoot(root).folder(Slice(contract, partition)))
        kept = (folder / file).read_bytes()
        for path in folder.iterdir():
            if OF_COMMIT.fullmatch(path.name) or path.name in (COPY, "manifest.json"):
                path.unlink()
        if contract.config.versions_kept == 100:
            older, newer = (folder / f"snapshot=2026010{day}T000000.000000Z" for day in (1, 2))
            for snapshot, content in ((older, b"of an earlier fetch"), (newer, kept)):
                snapshot.mkdir()
                (snapshot / COPY).write_bytes(content)
        else:
            (folder / COPY).write_bytes(kept)
    return Database(database.url)
