"""Tables that are partitioned in Postgres itself: make the partitions that rows need, build one aside and swap it in.

What takes a lock on the whole table comes last in its transaction and is short: readers wait for moments, and two writers
of different partitions never wait for each other in a circle. A reader that works with one snapshot over several
statements (REPEATABLE READ) and began before a swap finds the new partition empty: such readers want tables without native partitions.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from etl_assets.core.contracts import Contract
from etl_assets.core.slices.difference import Rows
from etl_assets.core.slices.slice import Slice, Span
from etl_assets.core.slices.transaction import Transaction, names, relation

# A waiting swap makes the readers behind it wait too.
SWAP_LOCK_TIMEOUT = timedelta(seconds=30)
LONGEST_NAME = 63


def leaf_of(slice_: Slice) -> str | None:
    """The native partition that a slice is exactly; None if it is another part of the table."""
    if slice_.contract.config.native is None or len(slice_.bounds) != 1:
        return None
    bound = slice_.bounds.get(_column(slice_.contract))
    if not isinstance(bound, Span) or not isinstance(bound.start, date) or not isinstance(bound.end, date):
        return None
    span = _span(slice_.contract, bound.start)
    return _leaf_name(slice_.contract, span) if span == Span(_aware(bound.start), _aware(bound.end)) else None


def exists(transaction: Transaction, contract: type[Contract], leaf: str) -> bool:
    """Whether a native partition is there; a table of its name that was detached is none."""
    child, parent = (sql.Literal(relation(contract, table).as_string(None)) for table in (leaf, None))
    query = "SELECT count(*) FROM pg_inherits WHERE inhrelid = to_regclass({}) AND inhparent = to_regclass({})"
    return bool(transaction.value(sql.SQL(query).format(child, parent)))


def table_for(transaction: Transaction, slice_: Slice, table: pa.Table) -> str | None:
    """Where to load rows: the slice's own native partition, or the table as a whole (None); partitions that they need are made."""
    contract = slice_.contract
    if contract.config.native is None or table.num_rows == 0:
        return None
    starts = pc.unique(pc.floor_temporal(table[_column(contract)], unit=contract.config.native))
    ensure(transaction, contract, [_span(contract, start) for start in starts.to_pylist()])
    return leaf_of(slice_)


def ensure(transaction: Transaction, contract: type[Contract], spans: Iterable[Span]) -> None:
    """Make the native partitions that are missing; of two writers that need the same one the second waits and finds it."""
    for leaf, span in sorted((_leaf_name(contract, span), span) for span in spans):
        if exists(transaction, contract, leaf):
            continue
        _lock_leaf(transaction, contract, leaf)
        if not exists(transaction, contract, leaf):
            _create(transaction, contract, leaf, like=contract.table_name(), including="ALL")
            _attach(transaction, contract, leaf, span)


def attach_new(transaction: Transaction, slice_: Slice, leaf: str, rows: Rows) -> int:
    """Load rows into a native partition that is not there yet and attach it; gives their number."""
    contract = slice_.contract
    _lock_leaf(transaction, contract, leaf)
    if exists(transaction, contract, leaf):
        transaction.append(contract, rows.batches_in_key_order(), into=leaf)
        return rows.table.num_rows
    _build(transaction, slice_, leaf, rows, like=contract.table_name())
    _attach(transaction, contract, leaf, _bound(slice_))
    _drop_range_check(transaction, contract, leaf)
    return rows.table.num_rows


def swap(transaction: Transaction, slice_: Slice, leaf: str, rows: Rows) -> int:
    """Build a native partition aside and put it in the place of the old one; gives the number of rows that went with that."""
    contract = slice_.contract
    old, aside = relation(contract, leaf), f"{leaf[: LONGEST_NAME - 4]}_new"
    new, parent = relation(contract, aside), relation(contract)
    # Nobody adds rows to a partition that is about to go, not even without the slice's lock.
    transaction.run(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(old))
    deleted = int(transaction.value(sql.SQL("SELECT count(*) FROM {}").format(old)))
    # Like the old partition, since a look at the table itself would lock it, and two writers could wait for each other.
    _build(transaction, slice_, aside, rows, like=leaf)
    transaction.run(sql.SQL("SET LOCAL lock_timeout = {}").format(int(SWAP_LOCK_TIMEOUT.total_seconds() * 1000)))
    transaction.run(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(parent, old))
    transaction.run(sql.SQL("DROP TABLE {}").format(old))
    transaction.run(sql.SQL("ALTER TABLE {} RENAME TO {}").format(new, sql.Identifier(leaf)))
    for built, name in zip(_indexes(contract, aside), _indexes(contract, leaf), strict=True):
        transaction.run(sql.SQL("ALTER INDEX {} RENAME TO {}").format(relation(contract, built), sql.Identifier(name)))
    _attach(transaction, contract, leaf, _bound(slice_))
    _drop_range_check(transaction, contract, leaf)
    return deleted


def _build(transaction: Transaction, slice_: Slice, table: str, rows: Rows, *, like: str) -> None:
    """A table with these rows, and with the key, the indexes and the range that the slice's native partition has."""
    contract = slice_.contract
    _create(transaction, contract, table, like=like, including="DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE")
    place = relation(contract, table)
    # Before the rows: the server judges them as they come, while it would wait for more of them.
    transaction.run(
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({})").format(
            place, _range_check(contract), Slice(contract, "", {_column(contract): _bound(slice_)}).predicate()
        )
    )
    transaction.append(contract, rows.batches_in_key_order(), into=table)
    key, *others = _indexes(contract, table)
    transaction.run(
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY ({})").format(
            place, sql.Identifier(key), names(contract.config.key)
        )
    )
    for name, index in zip(others, contract.config.indexes, strict=True):
        transaction.run(sql.SQL("CREATE INDEX {} ON {} ({})").format(sql.Identifier(name), place, names(index)))


def _indexes(contract: type[Contract], table: str) -> list[str]:
    """Names of a partition's indexes, that of the key first: those that Postgres gives, while they are short enough."""
    found = [f"{table[: LONGEST_NAME - 5]}_pkey"]
    for number, index in enumerate(contract.config.indexes):
        name = f"{table}_{'_'.join(index)}_idx"
        found.append(name if len(name) <= LONGEST_NAME else f"{table[: LONGEST_NAME - 7]}_{number}_idx")
    return found


def _create(transaction: Transaction, contract: type[Contract], table: str, *, like: str, including: str) -> None:
    transaction.run(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING {})").format(
            relation(contract, table), relation(contract, like), sql.SQL(including)
        )
    )


def _attach(transaction: Transaction, contract: type[Contract], leaf: str, span: Span) -> None:
    transaction.run(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            relation(contract), relation(contract, leaf), sql.Literal(span.start), sql.Literal(span.end)
        )
    )


def _drop_range_check(transaction: Transaction, contract: type[Contract], leaf: str) -> None:
    """It spares the look at every row while the whole table is locked; after that the partition's own bounds say the same."""
    transaction.run(
        sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(relation(contract, leaf), _range_check(contract))
    )


def _range_check(contract: type[Contract]) -> sql.Identifier:
    return sql.Identifier(f"{contract.table_name()[: LONGEST_NAME - 6]}_range")


def _lock_leaf(transaction: Transaction, contract: type[Contract], leaf: str) -> None:
    name = sql.Literal(f"{contract.schema_name()}.{leaf}")
    transaction.row(sql.SQL("SELECT pg_advisory_xact_lock(hashtextextended({}, 2))").format(name))


def _column(contract: type[Contract]) -> str:
    return next(iter(contract.partition_columns().values()))


def _bound(slice_: Slice) -> Span:
    bound = slice_.bounds[_column(slice_.contract)]
    assert isinstance(bound, Span)
    return bound


def _span(contract: type[Contract], instant: date | datetime) -> Span:
    """The native partition's interval that an instant lies in."""
    start: Any = _aware(instant)
    if isinstance(start, datetime):
        start = start.replace(hour=0, minute=0, second=0, microsecond=0)
    if contract.config.native == "day":
        return Span(start, start + timedelta(days=1))
    start = start.replace(day=1)
    return Span(start, (start + timedelta(days=31)).replace(day=1))


def _leaf_name(contract: type[Contract], span: Span) -> str:
    assert isinstance(span.start, date)
    label = span.start.strftime("%Y%m%d" if contract.config.native == "day" else "%Y%m")
    return f"{contract.table_name()[: LONGEST_NAME - len(label) - 2]}_p{label}"


def _aware(instant: date | datetime) -> date | datetime:
    if not isinstance(instant, datetime):
        return instant
    return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
