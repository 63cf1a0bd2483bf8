"""Read slices of a table as Arrow, over one ADBC cursor."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pyarrow as pa
from psycopg import sql

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database, translated
from etl_assets.core.slices.heads import as_heads, heads_of, heads_query
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.slice import Slice, Span
from etl_assets.core.slices.transaction import Transaction, names, relation
from etl_assets.errors import ContractError


def read(
    database: Database,
    slices: Sequence[Slice],
    columns: Sequence[str] = (),
    *,
    ordered: bool = False,
    inputs: Inputs | None = None,
) -> pa.Table:
    """The rows of some slices of one table, in no particular order unless that of the key is asked for.

    Args:
        slices: the whole table, or the partitions that are wanted.
        columns: the columns that are wanted; all by default.
        ordered: in the order of the table's key, over all slices; the server sorts.
        inputs: is told by which commits the rows are as they are.

    Raises:
        ContractError: if an order is asked for and the table has no key.
    """
    statement = query(slices, columns, ordered=ordered)
    with database.adbc() as connection:
        transaction = _begun(connection, database, slices, inputs)
        found = transaction.rows(statement)
    return found.cast(arrow_schema(slices[0].contract, tuple(columns)))


def stream(
    database: Database,
    slices: Sequence[Slice],
    columns: Sequence[str] = (),
    *,
    ordered: bool = False,
    inputs: Inputs | None = None,
) -> pa.RecordBatchReader:
    """As `read`, in batches: constant memory. The connection closes when the last batch is read."""
    schema = arrow_schema(slices[0].contract, tuple(columns))
    statement = query(slices, columns, ordered=ordered)
    if inputs is not None:
        # Of one that is never read.
        inputs.read(database, slices, heads_of(database, slices))

    def batches() -> Iterator[pa.RecordBatch]:
        with database.adbc() as connection:
            _begun(connection, database, slices, inputs)
            yield from _batches(connection, statement, schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _begun(connection: Any, database: Database, slices: Sequence[Slice], inputs: Inputs | None) -> Transaction:
    """A transaction that waits for nobody without end. It is told by which commits slices are as they are, before they are read: one that
    moves on meanwhile is found at the commit.
    """
    transaction = Transaction(connection)
    if inputs is not None:
        inputs.read(database, slices, as_heads(transaction.rows(heads_query(slices)).to_pylist()))
    return transaction


def _batches(connection: Any, statement: sql.Composable, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with connection.cursor() as cursor, translated("read the database"):
        cursor.execute(statement.as_string(None))
        for batch in cursor.fetch_record_batch():
            yield from pa.Table.from_batches([batch]).cast(schema).to_batches()


def query(slices: Sequence[Slice], columns: Sequence[str], *, ordered: bool = False) -> sql.Composable:
    """The SELECT of some slices; neighbouring intervals are asked for as one."""
    contract = slices[0].contract
    if ordered and not contract.config.key:
        raise ContractError(f"{contract.config.table} has no key by which its rows could be ordered")
    wanted = names(columns or contract.columns)
    conditions = [sql.SQL("({})").format(slice_.predicate()) for slice_ in joined(slices)]
    order = sql.SQL(" ORDER BY {}").format(names(contract.config.key)) if ordered else sql.SQL("")
    return sql.SQL("SELECT {} FROM {} WHERE {}{}").format(
        wanted, relation(contract), sql.SQL(" OR ").join(conditions), order
    )


def joined(slices: Sequence[Slice]) -> list[Slice]:
    """Slices over one column of intervals, those that touch made one; any others as they are."""
    spans = [
        span
        for slice_ in slices
        if len(slice_.bounds) == 1
        for span in slice_.bounds.values()
        if isinstance(span, Span)
    ]
    if len(spans) < len(slices):
        return list(slices)
    (column,) = slices[0].bounds
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: cast(Any, span.start)):
        if merged and merged[-1].end == span.start:
            merged[-1] = Span(merged[-1].start, span.end)
        else:
            merged.append(span)
    return [Slice(slices[0].contract, bounds={column: span}) for span in merged]
