"""One slice, one connection, one transaction: what all writers of a slice do with an ADBC connection."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from psycopg import sql

from etl_assets.core.contracts import Contract
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.locks import LOCK_TIMEOUT
from etl_assets.core.slices.difference import BATCH_ROWS
from etl_assets.errors import ContractError

POSTGRES_NAMES = {
    "int64": "bigint",
    "float64": "double precision",
    "bool": "boolean",
    "text": "text",
    "id": "text",
    "date": "date",
    "timestamptz": "timestamp with time zone",
}


# The session's zone decides how literals and casts of times are read. Whoever has a lock works on between the statements of a
# transaction, and must not lose the one with the other.
SETTINGS = {
    "timezone": "UTC",
    "lock_timeout": f"{int(LOCK_TIMEOUT.total_seconds() * 1000)}",
    "idle_in_transaction_session_timeout": "0",
}


class Transaction:
    """Statements and bulk loads of one transaction. The connection's owner commits.

    Args:
        connection: of ADBC, whose transaction has not begun to read.
        settings: of the session, until the end of the transaction.
        is_dry_run: it will be rolled back.
    """

    def __init__(self, connection: Any, *, settings: Mapping[str, str] = {}, is_dry_run: bool = False) -> None:
        self._connection = connection
        self.is_dry_run = is_dry_run
        self._stages = 0
        # Each statement must see what was committed before a lock was granted, whatever the database's default is.
        self.run(sql.SQL("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))
        each = [
            sql.SQL("set_config({}, {}, true)").format(*map(sql.Literal, pair))
            for pair in {**SETTINGS, **settings}.items()
        ]
        self.row(sql.SQL("SELECT {}").format(sql.SQL(", ").join(each)))

    def run(self, statement: sql.Composable) -> None:
        """Run a statement that gives no rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement.as_string(None))

    def changed(self, statement: sql.Composable) -> int:
        """Run an INSERT, UPDATE or DELETE and give the number of rows that it changed."""
        with self._connection.cursor() as cursor:
            cursor.adbc_statement.set_sql_query(statement.as_string(None))
            return int(cursor.adbc_statement.execute_update())

    def rows(self, query: sql.Composable) -> pa.Table:
        """All rows of a SELECT, by COPY."""
        with self._connection.cursor() as cursor:
            cursor.execute(query.as_string(None))
            return cursor.fetch_arrow_table()

    def row(self, statement: sql.Composable) -> dict[str, Any]:
        """The single row of any statement that gives one; what changes rows or explains cannot be copied."""
        (found,) = self.returned(statement).to_pylist()
        return found

    def returned(self, statement: sql.Composable) -> pa.Table:
        """The rows that a statement gives which changes rows."""
        with self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
            cursor.execute(statement.as_string(None))
            return cursor.fetch_arrow_table()

    def value(self, statement: sql.Composable) -> Any:
        """The single value of any statement that gives one."""
        (found,) = self.row(statement).values()
        return found

    def stage(self, data: pa.Table) -> sql.Identifier:
        """Load rows into a temporary table of their own, whose types come from Arrow.

        Its name is free again when the next transaction of the connection begins.
        """
        self._stages += 1
        name = f"stage_{self._stages}"
        self.run(sql.SQL("DROP TABLE IF EXISTS pg_temp.{}").format(sql.Identifier(name)))
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest(name, data.to_reader(BATCH_ROWS), mode="create", temporary=True)
        stage = sql.Identifier("pg_temp", name)
        self.analyse(stage)
        return stage

    def analyse(self, stage: sql.Identifier) -> None:
        """Let the planner know how many keys a stage has; it takes those of an unknown table for few."""
        self.run(sql.SQL("ANALYZE {}").format(stage))

    def extend(self, stage: sql.Identifier, data: pa.Table) -> None:
        """Load more rows into a stage."""
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest(stage._obj[1], data.to_reader(BATCH_ROWS), mode="append", temporary=True)

    def append(
        self, contract: type[Contract], data: pa.Table | pa.RecordBatchReader, *, into: str | None = None
    ) -> None:
        """Load rows straight into a table.

        Binary COPY does not convert: a width that happens to fit is stored as garbage. So nothing but the exact schema of the
        contract gets here.

        Args:
            into: a table beside the contract's own, in its schema and with its columns.
        """
        exact = arrow_schema(contract)
        if isinstance(data, pa.Table):
            if data.num_rows == 0:
                return
            data = data.select(list(contract.columns)).cast(exact).to_reader(BATCH_ROWS)
        elif not data.schema.equals(exact):
            raise ContractError(
                f"{contract.config.table}: batches of another schema than the contract's: {data.schema}"
            )
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest(
                into or contract.table_name(), data, mode="append", db_schema_name=contract.schema_name()
            )


def relation(contract: type[Contract], table: str | None = None) -> sql.Identifier:
    """The table of a contract, or another one in its schema, quoted."""
    return sql.Identifier(contract.schema_name(), table or contract.table_name())


def names(columns: Iterable[str], prefix: str | None = None) -> sql.Composed:
    """Column names separated by commas, each after `prefix.` if there is one."""
    return sql.SQL(", ").join([sql.Identifier(prefix, name) if prefix else sql.Identifier(name) for name in columns])


def equal_keys(key: Sequence[str], left: str, right: str) -> sql.Composed:
    """The condition that two relations have equal keys."""
    return sql.SQL(" AND ").join(
        [sql.SQL("{} = {}").format(sql.Identifier(left, name), sql.Identifier(right, name)) for name in key]
    )


def refuse_drift(transaction: Transaction, contract: type[Contract], table: str | None = None) -> None:
    """Compare the table in the database with its contract, and keep it as it is until the end of the transaction.

    Args:
        table: another table in the contract's schema that should have its columns.

    Raises:
        ContractError: if the table is missing, or a column is missing, unknown or of another type; names it.
    """
    full = f"{contract.schema_name()}.{table or contract.table_name()}"
    found = sql.Literal(relation(contract, table).as_string(None))
    if transaction.value(sql.SQL("SELECT to_regclass({})::text").format(found)) is None:
        raise ContractError(f"table {full} is not in the database: run `etl-assets migrate`")
    # Without it a column could be retyped between this look and the load, which does not convert. Native partitions are
    # locked when they are written: a lock on all of them would meet the swap of one.
    transaction.run(sql.SQL("LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE").format(relation(contract, table)))
    query = sql.SQL(
        "SELECT attname::text AS name, format_type(atttypid, NULL) AS type, attnotnull AS required"
        " FROM pg_attribute WHERE attrelid = to_regclass({}) AND attnum > 0 AND NOT attisdropped"
    ).format(found)
    there = {row["name"]: row for row in transaction.rows(query).to_pylist()}
    faults = []
    for c in contract.columns.values():
        expected = POSTGRES_NAMES[c.kind.value]
        if c.name not in there:
            faults.append(f"column {c.name} is missing in the table")
        elif there[c.name]["type"] != expected:
            faults.append(f"column {c.name} is {there[c.name]['type']} in the table and {expected} in the contract")
        elif c.nullable and there[c.name]["required"]:
            faults.append(f"column {c.name} is NOT NULL in the table and may be empty in the contract")
    faults += [f"column {name} of the table is not in the contract" for name in there if name not in contract.columns]
    if faults:
        raise ContractError(f"{full} has drifted from its contract, nothing was written: {'; '.join(faults)}")
