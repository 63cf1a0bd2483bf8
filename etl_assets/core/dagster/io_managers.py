"""The IO managers: between Dagster's contexts and the one write path.

Partition keys become slices here. Tables in Postgres, parquet layers, and tables in Postgres of which people want a copy in parquet files.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
from psycopg import sql

from etl_assets.core.contracts import ByPartition, Contract, Split
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.contracts.validation import to_frame
from etl_assets.core.dagster.contract_types import COLUMNS, FORMS, MODE, ORDERED, ContractType, permanent_failures_stop
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.materialisation import report
from etl_assets.core.dagster.steps import batch_of, goes_by_partition, inputs_of_load, max_rejected_of, step_of
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import reading
from etl_assets.core.slices.copies import mirror, write_manifest
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.lock import Lock, locked
from etl_assets.core.slices.parquet import ParquetRoot, read_parquet, stream_parquet, write_parquet
from etl_assets.core.slices.slice import Slice, Span, Value
from etl_assets.core.slices.transaction import relation
from etl_assets.core.slices.writing import Outcome, Write, write
from etl_assets.errors import ContractError
from etl_assets.settings import load_settings

COUNT_AT_MOST = 2_000_000


class StoreIOManager(dg.ConfigurableIOManager):
    """Stores what an asset returns in its contract's table, and loads it in the form that the input asks for.

    Takes and gives `pandas.DataFrame`, `pyarrow.Table` and `pyarrow.RecordBatchReader` (constant memory); takes
    `ByPartition` of these as well. The mode is that of `stored(contract, mode=…)`.
    """

    postgres: dg.ResourceDependency[PostgresResource]

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write the slices of this run, each in a commit, and report what became of the rows."""
        with permanent_failures_stop():
            contract, mode = stored_contract(context)
            step = step_of(context)
            how = Write(
                mode=mode,
                run_id=context.run_id,
                source=f"asset {contract.table_name()}",
                lock=step.lock,
                inputs=step.inputs if step.inputs.slices else None,
                max_rejected=max_rejected_of(context),
            )

            def write(data: Any, slices: Sequence[Slice], lock: Lock | None) -> list[Outcome]:
                part = ",".join(slice_.name for slice_ in slices)
                batch = batch_of(context, part) if mode == "append" else None
                return self._write(data, slices, replace(how, lock=lock or how.lock, batch=batch))

            outcomes, first_rows = store(obj, slices_of(context, contract), write, asked=self._asked(how))
            location, rows = self._location_and_rows(contract, outcomes)
            report(context, contract, outcomes, first_rows, table_rows=rows, location=location, inputs=step.inputs)

    def _asked(self, how: Write) -> Database | None:
        """Where the locks of partitions are taken that are made one after another: none where they are derived, or not ordered."""
        return None if how.inputs or how.lock or how.mode == "append" else self.postgres.database

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the partitions that the consumer depends on, only the columns that it needs, in key order if it says so."""
        with permanent_failures_stop():
            wanted = wanted_type(context)
            ordered = bool((context.definition_metadata or {}).get(ORDERED))
            inputs = inputs_of_load(context)
            if goes_by_partition(context):
                inputs.go_by_partition(wanted.contract)
            return self._read(slices_of(context, wanted.contract), wanted, ordered=ordered, inputs=inputs)

    def _write(self, data: Any, slices: Sequence[Slice], how: Write) -> list[Outcome]:
        raise NotImplementedError

    def _location_and_rows(self, contract: type[Contract], outcomes: Sequence[Outcome]) -> tuple[str, int]:
        raise NotImplementedError

    def _read(self, slices: Sequence[Slice], wanted: ContractType, *, ordered: bool, inputs: Inputs) -> Any:
        raise NotImplementedError


class PostgresIOManager(StoreIOManager):
    """Tables in Postgres."""

    def _write(self, data: Any, slices: Sequence[Slice], how: Write) -> list[Outcome]:
        return write(self.postgres.database, data, slices, how)

    def _read(self, slices: Sequence[Slice], wanted: ContractType, *, ordered: bool, inputs: Inputs) -> Any:
        database = self.postgres.database
        if wanted.form is pa.RecordBatchReader:
            return reading.stream(database, slices, wanted.chosen, ordered=ordered, inputs=inputs)
        return in_form(reading.read(database, slices, wanted.chosen, ordered=ordered, inputs=inputs), wanted.form)

    def _location_and_rows(self, contract: type[Contract], _: Sequence[Outcome]) -> tuple[str, int]:
        """The table, and its rows: counted where that is quick, the planner's figure for a large one."""
        target = relation(contract)
        with self.postgres.database.connect() as connection:
            guess = connection.execute(
                "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)", (target.as_string(connection),)
            ).fetchone()
            if guess and guess[0] > COUNT_AT_MOST:
                return contract.config.table, int(guess[0])
            counted = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(target)).fetchone()
        return contract.config.table, int(counted[0]) if counted else 0


class ParquetIOManager(StoreIOManager):
    """Parquet files; rejected rows and the ledger are in Postgres.

    Attributes:
        url: root of the layers; by default ETL_STORAGE_URL, else the data folder.
    """

    url: str = ""

    def _write(self, data: Any, slices: Sequence[Slice], how: Write) -> list[Outcome]:
        return write_parquet(root_at(self.url), self.postgres.database, data, slices, how)

    def _read(self, slices: Sequence[Slice], wanted: ContractType, *, ordered: bool, inputs: Inputs) -> Any:
        assert not ordered, "`loads` takes no order of files"
        root, database = root_at(self.url), self.postgres.database
        if wanted.form is pa.RecordBatchReader:
            return stream_parquet(root, database, slices, wanted.chosen, inputs=inputs)
        return in_form(read_parquet(root, database, slices, wanted.chosen, inputs=inputs), wanted.form)

    def _location_and_rows(self, contract: type[Contract], outcomes: Sequence[Outcome]) -> tuple[str, int]:
        root = root_at(self.url)
        write_manifest(root, self.postgres.database, contract)
        rows = sum(outcome.loaded + outcome.change.unchanged for outcome in outcomes)
        return root.shown(Slice(contract)), rows


class MirroredIOManager(PostgresIOManager):
    """Tables in Postgres, of which each slice that is written is copied to a parquet file.

    Postgres is the authority: rows, quarantine and ledger go there in one transaction, and inputs are loaded from there. A process that
    is killed between the two leaves the earlier copy, whole; the step has failed then, and its next run puts the copy right
    even where it changes nothing in Postgres.

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
            rows = sum(mirror(root, self.postgres.database, slice_) for slice_ in slices_of(context, contract))
            context.add_output_metadata({"parquet": root.shown(Slice(contract)), "parquet_rows_copied": rows})


def root_at(url: str) -> ParquetRoot:
    """The root of the layers by its URL; by default ETL_STORAGE_URL, else the data folder."""
    return ParquetRoot(url or load_settings().storage_url)


def store(
    obj: Any,
    slices: Sequence[Slice],
    write_slices: Callable[[Any, Sequence[Slice], Lock | None], list[Outcome]],
    *,
    asked: Database | None = None,
) -> tuple[list[Outcome], pd.DataFrame | None]:
    """Store what an asset returned: all slices at once, or partition by partition as they are made.

    Args:
        asked: where the locks of the slices are taken before the first partition is made, unless who makes them takes them.

    Returns:
        What became of the rows, by slice, and the first rows of what was stored (last).

    Raises:
        ContractError: for a partition that the run does not write, that came twice, or that did not come.
    """
    if not isinstance(obj, ByPartition):
        return write_slices(obj, slices, None), preview(obj)
    waiting = {slice_.name: slice_ for slice_ in slices}
    outcomes: list[Outcome] = []
    first_rows = None
    with contextlib.nullcontext() if asked is None or obj.locked else locked(asked, slices) as lock:
        for name, data, *own in obj.parts:
            if name not in waiting:
                raise ContractError(
                    f"partition {name} came twice, or is none of this run: {', '.join(waiting) or 'none'}"
                )
            outcomes += write_slices(data, [waiting.pop(name)], own[0] if own else lock)
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


def slices_of(context: dg.OutputContext | dg.InputContext, contract: type[Contract]) -> list[Slice]:
    """The slices that this run writes, or that this input depends on; those never materialised are simply without rows.

    Raises:
        ContractError: if the contract does not say which column the partitions go by.
    """
    if not context.has_asset_partitions:
        return [Slice(contract)]
    if not contract.partition_columns():
        raise ContractError(f"{contract.config.table} is partitioned and its contract states no partition_by")
    partitions = context.asset_partitions_def
    return [
        Slice(contract, str(key), _bounds(contract, partitions, key)) for key in sorted(context.asset_partition_keys)
    ]


def _bounds(contract: type[Contract], partitions: dg.PartitionsDefinition[Any], key: str) -> dict[str, Value | Span]:
    columns = contract.partition_columns()
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        by_dimension = partitions.get_partition_key_from_str(key).keys_by_dimension
        definitions = {d.name: d.partitions_def for d in partitions.partitions_defs}
        if set(columns) != set(definitions):
            raise ContractError(
                f"{contract.config.table}: partition_by has dimensions {sorted(columns)}, the asset {sorted(definitions)}"
            )
        return {
            column: _bound(contract, column, definitions[dimension], by_dimension[dimension])
            for dimension, column in columns.items()
        }
    (column,) = columns.values()
    return {column: _bound(contract, column, partitions, key)}


def _bound(contract: type[Contract], column: str, partitions: dg.PartitionsDefinition[Any], key: str) -> Value | Span:
    kind = contract.columns[column].kind
    if isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        window = partitions.time_window_for_partition_key(key)
        if kind is Kind.DATE:
            return Span(window.start.date(), window.end.date())
        return Span(window.start.astimezone(UTC), window.end.astimezone(UTC))
    return int(key) if kind is Kind.INT else key


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
