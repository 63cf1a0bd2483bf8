"""The IO manager of tables in Postgres: between Dagster's contexts and the one write path."""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
from psycopg import sql

from etl_assets.core.contracts import ByPartition, Contract, Split
from etl_assets.core.contracts.validation import to_frame
from etl_assets.core.dagster.contract_types import COLUMNS, FORMS, MODE, ORDERED, ContractType, permanent_failures_stop
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.materialisation import report
from etl_assets.core.dagster.partitions import slices_of
from etl_assets.core.slices import reading
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import relation
from etl_assets.core.slices.writing import Outcome, Write, write
from etl_assets.errors import ContractError

COUNT_AT_MOST = 2_000_000


class PostgresIOManager(dg.ConfigurableIOManager):
    """Stores what an asset returns in its contract's table, and loads it in the form that the input asks for.

    Takes and gives `pandas.DataFrame`, `pyarrow.Table` and `pyarrow.RecordBatchReader` (constant memory); takes
    `ByPartition` of these as well. The mode is that of `stored(contract, mode=…)`.
    """

    postgres: dg.ResourceDependency[PostgresResource]

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write the slices of this run and report what became of the rows."""
        with permanent_failures_stop():
            contract, mode = stored_contract(context)
            slices = output_slices(context, contract)
            how = Write(mode=mode, run_id=context.run_id, source=f"asset {contract.table_name()}")
            outcomes, first_rows = store(
                obj, slices, lambda data, pieces: write(self.postgres.database, data, pieces, how)
            )
            report(
                context,
                contract,
                outcomes,
                first_rows,
                table_rows=self._table_rows(contract),
                location=contract.config.table,
            )

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the partitions that the consumer depends on, only the columns that it needs, in key order if it says so."""
        with permanent_failures_stop():
            wanted = wanted_type(context)
            slices = input_slices(context, wanted.contract)
            database, ordered = self.postgres.database, bool((context.definition_metadata or {}).get(ORDERED))
            if wanted.form is pa.RecordBatchReader:
                return reading.stream(database, slices, wanted.chosen, ordered=ordered)
            table = reading.read(database, slices, wanted.chosen, ordered=ordered)
            return in_form(table, wanted.form)

    def _table_rows(self, contract: type[Contract]) -> int:
        """Rows of the whole table: counted where that is quick, the planner's figure for a large one."""
        target = relation(contract)
        with self.postgres.database.connect() as connection:
            guess = connection.execute(
                "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)", (target.as_string(connection),)
            ).fetchone()
            if guess and guess[0] > COUNT_AT_MOST:
                return int(guess[0])
            counted = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(target)).fetchone()
        return int(counted[0]) if counted else 0


def store(
    obj: Any, slices: Sequence[Slice], write_slices: Callable[[Any, Sequence[Slice]], list[Outcome]]
) -> tuple[list[Outcome], pd.DataFrame | None]:
    """Store what an asset returned: all slices at once, or partition by partition as they are made.

    Returns:
        What became of the rows, by slice, and the first rows of what was stored (last).

    Raises:
        ContractError: for a partition that the run does not write, that came twice, or that did not come.
    """
    if not isinstance(obj, ByPartition):
        return write_slices(obj, slices), preview(obj)
    waiting = {piece.name: piece for piece in slices}
    outcomes: list[Outcome] = []
    first_rows = None
    for name, data in obj.parts:
        if name not in waiting:
            raise ContractError(f"partition {name} came twice, or is none of this run: {', '.join(waiting) or 'none'}")
        outcomes += write_slices(data, [waiting.pop(name)])
        first_rows = preview(data)
    if waiting:
        raise ContractError(f"{slices[0].contract.config.table}: nothing came for partition {', '.join(waiting)}")
    return outcomes, first_rows


def stored_contract(context: dg.OutputContext) -> tuple[type[Contract], str]:
    """The contract and the mode that `stored(…)` gave the asset.

    Raises:
        ContractError: if the asset was defined without it.
    """
    kind = context.dagster_type
    if not isinstance(kind, ContractType):
        raise ContractError(
            f"asset {context.asset_key.to_user_string()} has no contract: define it with **stored(Contract, mode=…)"
        )
    return kind.contract, context.definition_metadata[MODE]


def output_slices(context: dg.OutputContext, contract: type[Contract]) -> list[Slice]:
    """The slices that this run writes."""
    if not context.has_asset_partitions:
        return slices_of(contract, None, [])
    return slices_of(contract, context.asset_partitions_def, context.asset_partition_keys)


def input_slices(context: dg.InputContext, contract: type[Contract]) -> list[Slice]:
    """The slices that this input depends on; those never materialised are simply without rows."""
    if not context.has_asset_partitions:
        return slices_of(contract, None, [])
    return slices_of(contract, context.asset_partitions_def, list(context.asset_partition_keys))


def wanted_type(context: dg.InputContext) -> ContractType:
    """The contract, form and columns that the consumer stated with `loads(…)`.

    Raises:
        ContractError: if it did not.
    """
    kind = context.dagster_type
    if isinstance(kind, ContractType):
        return kind
    raise ContractError(
        f"input {context.asset_key.to_user_string()} has no contract: state it with ins={{…: loads(Contract)}} ({COLUMNS})"
    )


def in_form(table: pa.Table, form: type | None) -> Any:
    """An Arrow table in the form that was asked for."""
    converters: dict[type | None, Callable[[pa.Table], Any]] = {
        pd.DataFrame: to_frame,
        pa.Table: lambda whole: whole,
        pa.RecordBatchReader: lambda whole: whole.to_reader(),
    }
    if form not in converters:
        raise ContractError(f"an input can be {', '.join(known.__name__ for known in FORMS)}, not {form}")
    return converters[form](table)


def preview(obj: Any) -> pd.DataFrame | None:
    """The first rows of what is stored; none for a stream, which can be read once only."""
    valid = obj.valid if isinstance(obj, Split) else obj
    if isinstance(valid, pd.DataFrame):
        return valid.head(5)
    return to_frame(valid.slice(0, 5)) if isinstance(valid, pa.Table) else None
