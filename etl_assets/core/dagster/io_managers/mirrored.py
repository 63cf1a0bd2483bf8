"""The IO manager of tables that people want in Postgres and as parquet files: written to the one, copied to the other.

Postgres is the authority: rows, quarantine and ledger go there in one transaction, and inputs are loaded from there. Then the
slice as it is in Postgres becomes a parquet file in place of the earlier one. A process that is killed between the two leaves
the earlier copy, whole; the step has failed then, and its next run puts the copy right even where it changes nothing in Postgres.
The copy has no ledger row of its own: its rows were received once.
"""

import contextlib
import uuid
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from etl_assets.core.dagster.contract_types import permanent_failures_stop
from etl_assets.core.dagster.io_managers.parquet import root_at
from etl_assets.core.dagster.io_managers.postgres import PostgresIOManager, output_slices, stored_contract
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import reading
from etl_assets.core.slices.parquet.files import ParquetRoot, make_folder, publish
from etl_assets.core.slices.parquet.form import WRITTEN
from etl_assets.core.slices.session import retried
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction


class MirroredIOManager(PostgresIOManager):
    """Stores and loads as `PostgresIOManager`, and keeps a copy of each slice as a parquet file.

    Attributes:
        url: root of the layers; by default ETL_STORAGE_URL, else the data folder.
    """

    url: str = ""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write the slices of this run, copy them, and report what became of the rows and where the copies are."""
        super().handle_output(context, obj)
        with permanent_failures_stop():
            contract, _ = stored_contract(context)
            root = root_at(self.url)
            rows = sum(mirror(root, self.postgres.database, piece) for piece in output_slices(context, contract))
            context.add_output_metadata({"parquet": root.folder(Slice(contract)), "parquet_rows_copied": rows})


def mirror(root: ParquetRoot, database: Database, piece: Slice) -> int:
    """Make the parquet file of a slice hold what is in Postgres, in key order and constant memory.

    Under the lock of the slice, so that of two writers none can leave a copy of the other's earlier rows.

    Returns:
        The number of rows.

    Raises:
        TransientError: if the database stays unavailable or busy; the earlier copy is as it was.
    """

    def attempt() -> int:
        with database.adbc() as connection:
            Transaction(connection).lock(piece)
            batches = reading.stream_within(connection, [piece], ordered=bool(piece.contract.config.key))
            return _publish(root, piece, batches)

    return retried(attempt)


def _publish(root: ParquetRoot, piece: Slice, batches: pa.RecordBatchReader) -> int:
    filesystem, _ = root.filesystem()
    folder = root.folder(piece)
    make_folder(filesystem, folder)
    temporary = f"{folder}/.{uuid.uuid4().hex}.tmp"
    rows = 0
    try:
        with (
            filesystem.open(temporary, "wb") as file,
            pq.ParquetWriter(file, batches.schema, **WRITTEN) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        publish(filesystem, temporary, f"{folder}/data.parquet")
    finally:
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(temporary)
    return rows
