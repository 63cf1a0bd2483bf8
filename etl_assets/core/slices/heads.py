"""The head of each slice: which commit stands, and how often somebody began to look at what the next one will be made of.

`generation` goes up when a writer gets the lock of a slice. Who finds another one at the commit than was drawn has lost the lock meanwhile, and somebody else has
looked since (see `commit.py`). No clock has a part in this.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from psycopg import sql
from psycopg.rows import dict_row

from etl_assets.core.contracts import Contract, Timestamp, column
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, names

WHOLE_TABLE = ""


class Heads(Contract):
    """What stands of each slice: the commit that changed it last and, of one in files, which file that wrote."""

    asset: str = column("Table, schema.table")
    partition: str = column("Partition; empty for a whole table")
    generation: int = column("How often the lock of the slice was taken to write it", ge=0)
    commit_id: str | None = column("Commit that changed the slice last; NULL before the first")
    file: str | None = column(
        "Name of the file that holds the slice, in its folder; NULL for what is in Postgres alone"
    )
    content_hash: str | None = column("SHA-256 of the rows that the last write gave; NULL for a stream of batches")
    rows: int | None = column("Rows in the file", unit="rows")
    inputs: str | None = column("What the last write was derived from, as JSON: the commit by table and partition")
    changed_at: Timestamp | None = column("When that commit was made, by the database's clock: for people")

    class Config:
        table = "etl.heads"
        key = ("asset", "partition")


class Head(NamedTuple):
    """The standing commit of a slice, as far as it has one; fields as in `Heads`."""

    commit_id: str | None = None
    file: str | None = None
    content_hash: str | None = None
    rows: int | None = None


NO_HEAD = Head()
FIELDS = ("asset", "partition", *Head._fields)


def key_of(slice_: Slice) -> tuple[str, str]:
    """Under which a slice has its head."""
    return slice_.contract.config.table, slice_.name


def draw_statement(slices: Sequence[Slice], *, by: int = 1) -> sql.Composed:
    """Count that the locks of slices were taken, in the order of all writers.

    Args:
        by: 0 where the lock was counted already, of the whole table: then only a head that is missing is made.
    """
    return sql.SQL(
        "INSERT INTO etl.heads AS h (asset, partition, generation) SELECT asset, partition, {} FROM {}"
        " ORDER BY asset, partition ON CONFLICT (asset, partition) {}"
    ).format(by, _keys(slices), sql.SQL("DO UPDATE SET generation = h.generation + 1" if by else "DO NOTHING"))


def _keys(slices: Sequence[Slice]) -> sql.Composed:
    keys = sorted({key_of(slice_) for slice_ in slices})
    tables, partitions = ([key[place] for key in keys] for place in (0, 1))
    return sql.SQL("unnest({}::text[], {}::text[]) AS w (asset, partition)").format(
        sql.Literal(tables), sql.Literal(partitions)
    )


def generations_query(slices: Sequence[Slice]) -> sql.Composed:
    """For each slice the sum of the generations that a writer of it has to find unchanged: of a partition its own and that of the whole
    table, of a whole table those of all its partitions too.
    """
    return sql.SQL(
        "SELECT asset, partition, (SELECT coalesce(sum(h.generation), 0)::bigint FROM etl.heads AS h WHERE h.asset = w.asset"
        " AND (w.partition = '' OR h.partition IN (w.partition, ''))) AS generation FROM {}"
    ).format(_keys(slices))


def hold(transaction: Transaction, slices: Sequence[Slice]) -> dict[tuple[str, str], Head]:
    """Keep every other writer of these slices from committing before this transaction ends; gives their heads.

    Of a whole table the heads of all its partitions are kept.
    """
    query = sql.SQL("SELECT {} FROM etl.heads WHERE {} ORDER BY asset, partition FOR UPDATE")
    return as_heads(transaction.rows(query.format(names(FIELDS), _condition(slices))).to_pylist())


def heads_query(slices: Sequence[Slice]) -> sql.Composed:
    """The heads of slices, with those of their whole tables, whose writers write to each partition; of a whole table all."""
    return sql.SQL("SELECT {} FROM etl.heads WHERE {}").format(names(FIELDS), _condition(slices, beside=True))


def heads_of(database: Database, slices: Sequence[Slice]) -> dict[tuple[str, str], Head]:
    """The heads of slices, by one query however many they are."""
    with database.spare() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return as_heads(cursor.execute(heads_query(slices)).fetchall())


def _condition(slices: Sequence[Slice], *, beside: bool = False) -> sql.Composed:
    by_table: dict[str, set[str]] = {}
    for table, partition in map(key_of, slices):
        by_table.setdefault(table, set()).add(partition)
    conditions = []
    for table, partitions in sorted(by_table.items()):
        parts = [sql.SQL("asset = {}").format(sql.Literal(table))]
        if WHOLE_TABLE not in partitions:
            wanted = sorted(partitions | ({WHOLE_TABLE} if beside else set()))
            parts.append(sql.SQL("partition = ANY({}::text[])").format(sql.Literal(wanted)))
        conditions.append(sql.SQL(" AND ").join(parts))
    return sql.SQL("({})").format(sql.SQL(") OR (").join(conditions))


def as_heads(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Head]:
    """Rows with the columns of `FIELDS`, by the slice."""
    return {(row["asset"], row["partition"]): Head(*(row[name] for name in Head._fields)) for row in rows}
