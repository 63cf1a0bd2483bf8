"""The IO manager of parquet layers: between Dagster's contexts and `parquet_files`."""

from typing import Any

import dagster as dg
import pyarrow as pa

from etl_assets.core.dagster.contract_types import permanent_failures_stop
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.io_managers.postgres import (
    in_form,
    input_slices,
    output_slices,
    store,
    stored_contract,
    wanted_type,
)
from etl_assets.core.dagster.materialisation import report
from etl_assets.core.slices.parquet.files import ParquetRoot, read_parquet, stream_parquet, write_parquet
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write
from etl_assets.settings import load_settings


def root_at(url: str) -> ParquetRoot:
    """The root of the layers by its URL; by default ETL_STORAGE_URL, else the data folder."""
    return ParquetRoot(url or load_settings().storage_url)


class ParquetIOManager(dg.ConfigurableIOManager):
    """Stores what an asset returns as parquet files; rejected rows and the ledger are in Postgres.

    Takes and gives the same forms as `PostgresIOManager`.

    Attributes:
        url: root of the layers; by default ETL_STORAGE_URL, else the data folder.
    """

    postgres: dg.ResourceDependency[PostgresResource]
    url: str = ""

    @property
    def root(self) -> ParquetRoot:
        """Where the files are."""
        return root_at(self.url)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write the slices of this run and report what became of the rows."""
        with permanent_failures_stop():
            contract, mode = stored_contract(context)
            slices = output_slices(context, contract)
            how = Write(mode=mode, run_id=context.run_id, source=f"asset {contract.table_name()}")
            root = self.root
            outcomes, first_rows = store(
                obj, slices, lambda data, pieces: write_parquet(root, self.postgres.database, data, pieces, how)
            )
            rows = sum(outcome.loaded + outcome.change.unchanged for outcome in outcomes)
            location = root.folder(Slice(contract))
            report(context, contract, outcomes, first_rows, table_rows=rows, location=location)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the partitions that the consumer depends on, only the columns that it needs."""
        with permanent_failures_stop():
            wanted = wanted_type(context)
            slices = input_slices(context, wanted.contract)
            if wanted.form is pa.RecordBatchReader:
                return stream_parquet(self.root, slices, wanted.chosen)
            return in_form(read_parquet(self.root, slices, wanted.chosen), wanted.form)
