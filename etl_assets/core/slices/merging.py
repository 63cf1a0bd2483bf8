"""The ways to turn the rows of a slice into other rows, within an open transaction under the slice's lock.

Which way is taken depends on what is there (measured: `benchmarks/write_paths.py`). Small differences are found by comparing in Arrow
and only they are written; a slice of which little stays is written anew; batches of any number are merged in the server.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from etl_assets.core.contracts import Contract
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.slices import native_partitions as native
from etl_assets.core.slices.difference import Rows, difference, in_key_order
from etl_assets.core.slices.slice import Slice, inside
from etl_assets.core.slices.transaction import POSTGRES_NAMES, Transaction, equal_keys, names, relation
from etl_assets.errors import TransientError

SAMPLE = 200
# A slice of so few rows is read and compared sooner than a sample of it is looked for; a native partition is swapped instead.
SMALL = 10_000
# Above this share of changed rows a slice is written anew: updating costs more than deleting and appending.
MOSTLY_CHANGED = 0.6
# Reading costs a quarter of writing, so that it pays to read some rows too many, but not a whole large table.
READ_AT_MOST_TIMES = 4
READ_ALWAYS = 200_000
READ_NEVER = 30_000_000
CHUNK = "chunk of the stage"  # no column of a contract can have this name


@dataclass(frozen=True)
class Change:
    """How many rows of the table a write inserted, updated, deleted and found as they should be.

    Attributes:
        moved: updated rows that were in another partition before.
    """

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    deduplicated: int = 0
    moved: int = 0


def append(transaction: Transaction, slice_: Slice, rows: Rows) -> Change:
    """Add rows; equal keys in the table are the server's error."""
    into = native.table_for(transaction, slice_, rows.given)
    transaction.append(slice_.contract, rows.batches_in_key_order(), into=into)
    return Change(inserted=rows.table.num_rows)


def replace(transaction: Transaction, slice_: Slice, rows: Rows) -> Change:
    """Make the slice consist of these rows, writing only what differs where little does."""
    contract = slice_.contract
    if not contract.config.key or _mostly_changed(transaction, slice_, rows.given):
        return write_anew(transaction, slice_, rows)
    # Rows that are written anew would lose what they were first stored with.
    at_most = READ_NEVER if contract.config.first_stored else _worth_reading(rows.given)
    existing = _existing(transaction, slice_, slice_.predicate(), at_most=at_most)
    if existing is None:
        return write_anew(transaction, slice_, rows)
    return _write_difference(transaction, slice_, existing, rows, delete=True)


def partition(transaction: Transaction, slice_: Slice, rows: Rows) -> Change:
    """As `replace`; a native partition of which most changes, or that is not there yet, is built aside and swapped in."""
    leaf = native.leaf_of(slice_)
    if leaf is None or rows.given.num_rows == 0:
        return replace(transaction, slice_, rows)
    if not native.exists(transaction, slice_.contract, leaf):
        return Change(inserted=native.attach_new(transaction, slice_, leaf, rows))
    if _mostly_changed(transaction, slice_, rows.given):
        deleted = native.swap(transaction, slice_, leaf, rows)
        return Change(inserted=rows.table.num_rows, deleted=deleted)
    return replace(transaction, slice_, rows)


def _worth_reading(table: pa.Table) -> int:
    return min(max(READ_ALWAYS, READ_AT_MOST_TIMES * table.num_rows), READ_NEVER)


def _home(transaction: Transaction, slice_: Slice) -> sql.Identifier:
    """Where the rows of a slice are: its own native partition, or its table."""
    leaf = native.leaf_of(slice_)
    return relation(slice_.contract, leaf if leaf and native.exists(transaction, slice_.contract, leaf) else None)


def write_anew(transaction: Transaction, slice_: Slice, rows: Rows) -> Change:
    """Delete the slice and append the rows in key order. Rows that were there before count as deleted and inserted."""
    deleted = transaction.changed(
        sql.SQL("DELETE FROM {} WHERE {}").format(_home(transaction, slice_), slice_.predicate())
    )
    return Change(inserted=append(transaction, slice_, rows).inserted, deleted=deleted)


def upsert(transaction: Transaction, slice_: Slice, rows: Rows) -> Change:
    """Insert new keys, update changed rows, leave the rest untouched.

    A key is looked for in the whole table: a row may have moved here from another partition.
    """
    if rows.given.num_rows == 0:
        return Change()
    nearby = _key_range(slice_.contract, rows.given, ordered=rows.ordered)
    everywhere = Slice(slice_.contract)
    existing = _existing(transaction, everywhere, nearby, at_most=_worth_reading(rows.given))
    if existing is None:
        existing = _existing_by_key(transaction, slice_, rows.table)
    return _write_difference(transaction, slice_, existing, rows, delete=False)


def merge_stage(transaction: Transaction, slice_: Slice, stage: sql.Identifier, *, rows: int, delete: bool) -> Change:
    """Merge staged rows in the server: of equal keys the last chunk's wins, unchanged rows stay untouched.

    Args:
        stage: the rows, with the number of their chunk in column `CHUNK`; within a chunk keys are unique.
        rows: rows in the stage.
        delete: whether rows of the slice that are not staged go.
    """
    contract = slice_.contract
    key = contract.config.key
    compared = [name for name in contract.columns if name not in (*key, *contract.config.first_stored)]
    target = relation(contract)
    pick = sql.SQL("SELECT DISTINCT ON ({k}) {c} FROM {s} ORDER BY {k}, {n} DESC").format(
        k=names(key), c=names(contract.columns), s=stage, n=sql.Identifier(CHUNK)
    )
    deleted = 0
    if delete:
        gone = sql.SQL("DELETE FROM {t} AS t WHERE {p} AND NOT EXISTS (SELECT FROM {s} AS s WHERE {e})")
        deleted = transaction.changed(
            gone.format(t=target, p=slice_.predicate("t"), s=stage, e=equal_keys(key, "t", "s"))
        )
    there = transaction.row(
        sql.SQL(
            "SELECT count(*) AS known, count(*) FILTER (WHERE NOT ({p})) AS outside FROM ({w}) AS s JOIN {t} AS t ON {e}"
        ).format(p=slice_.predicate("t"), w=pick, t=target, e=equal_keys(key, "s", "t"))
    )
    known = there["known"]
    conflict: sql.Composable = sql.SQL("DO NOTHING")
    if compared:
        conflict = sql.SQL("DO UPDATE SET {set} WHERE ({old}) IS DISTINCT FROM ({new})").format(
            set=_setting(contract, "excluded"),
            old=names(compared, "t"),
            new=names(compared, "excluded"),
        )
    merge = sql.SQL(
        "WITH w AS MATERIALIZED ({w}), written AS (INSERT INTO {t} AS t ({c}) SELECT {c} FROM w ORDER BY {k}"
        " ON CONFLICT ({k}) {conflict} RETURNING 1)"
        " SELECT (SELECT count(*) FROM w) AS distinct_keys, (SELECT count(*) FROM written) AS written"
    ).format(w=pick, t=target, c=names(contract.columns), k=names(key), conflict=conflict)
    counted = transaction.row(merge)
    inserted = counted["distinct_keys"] - known
    updated = counted["written"] - inserted
    return Change(inserted, updated, deleted, known - updated, rows - counted["distinct_keys"], there["outside"])


def _write_difference(
    transaction: Transaction, slice_: Slice, existing: pa.Table, rows: Rows, *, delete: bool
) -> Change:
    if existing.num_rows == 0:
        return append(transaction, slice_, rows)
    contract = slice_.contract
    differs = difference(existing, rows.in_key_order(), contract.config.key, disregarded=contract.config.first_stored)
    vanished = differs.vanished if delete else differs.vanished.slice(0, 0)
    # Changed rows go and come anew: of half a million among a million the server takes 2.6 s of its processor for that, and 3.3 s to
    # update them, since it finds a place in the table and in the index for each by itself; of ten thousand as much as to update.
    gone = in_key_order(
        pa.concat_tables([vanished, differs.changed.select(vanished.column_names)]), contract.config.key
    )
    if gone.num_rows:
        statement = sql.SQL("DELETE FROM {t} AS t USING {s} AS s WHERE {w}").format(
            t=_home(transaction, slice_) if delete else relation(contract),
            s=_source(transaction, contract, gone),
            w=_matching(contract, gone),
        )
        _require_all(transaction.changed(statement), gone, slice_)
    append(transaction, slice_, Rows(pa.concat_tables([differs.new, differs.changed]), contract.config.key))
    moved = 0 if delete else _moved(slice_, existing, differs.changed)
    return Change(differs.new.num_rows, differs.changed.num_rows, vanished.num_rows, differs.unchanged, moved=moved)


def _moved(slice_: Slice, existing: pa.Table, changed: pa.Table) -> int:
    """How many changed rows were outside of the slice before."""
    if not slice_.bounds or not changed.num_rows:
        return 0
    outside = existing.filter(pa.array(~inside(existing, slice_)))
    key = list(slice_.contract.config.key)
    return changed.select(key).join(outside.select(key), key, join_type="left semi").num_rows


def update(
    transaction: Transaction, slice_: Slice, rows: pa.Table, *, target: sql.Composable, matching: sql.Composable
) -> None:
    """Give rows of the table, which are there, the values of these.

    Args:
        matching: which row of `t` each staged row of `s` stands for.

    Raises:
        TransientError: if one is no longer there.
    """
    contract = slice_.contract
    statement = sql.SQL("UPDATE {t} AS t SET {set} FROM {s} AS s WHERE {w}").format(
        t=target, set=_setting(contract, "s"), s=transaction.stage(rows), w=matching
    )
    _require_all(transaction.changed(statement), rows, slice_)


def rows_with_keys(
    transaction: Transaction,
    contract: type[Contract],
    keys: pa.Table,
    *,
    target: sql.Composable,
    matching: sql.Composable,
) -> pa.Table:
    """The rows of the table that have these keys, found by the server; arguments as of `update`."""
    query = sql.SQL("SELECT {c} FROM {s} AS s JOIN {t} AS t ON {w}").format(
        c=names(contract.columns, "t"), s=_source(transaction, contract, keys), t=target, w=matching
    )
    return transaction.rows(query).cast(arrow_schema(contract))


def _source(transaction: Transaction, contract: type[Contract], rows: pa.Table) -> sql.Composable:
    """Rows to select from: a few stand in the statement, since to stage and analyse them takes 8 ms and all of that 2 ms."""
    if not 0 < rows.num_rows <= SAMPLE:
        return transaction.stage(rows)
    arrays = [
        sql.SQL("{}::{}[]").format(
            sql.Literal(rows[name].to_pylist()), sql.SQL(POSTGRES_NAMES[contract.columns[name].kind.value])
        )
        for name in rows.column_names
    ]
    return sql.SQL("(SELECT * FROM unnest({}) AS v ({}))").format(sql.SQL(", ").join(arrays), names(rows.column_names))


def _setting(contract: type[Contract], source: str) -> sql.Composable:
    """Each column outside of the key set to that of another relation."""
    values = [name for name in contract.columns if name not in contract.config.key]
    parts = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Identifier(source, name)) for name in values]
    return sql.SQL(", ").join(parts)


def _matching(contract: type[Contract], staged: pa.Table) -> sql.Composable:
    """The rows of `t` with the keys of `s`; the range spares a look at all others, and at other native partitions."""
    return sql.SQL("{} AND {}").format(
        equal_keys(contract.config.key, "t", "s"), _key_range(contract, staged, relation="t")
    )


def _require_all(done: int, expected: pa.Table, slice_: Slice) -> None:
    if done != expected.num_rows:
        raise TransientError(
            f"could not write {slice_}: another writer took {expected.num_rows - done} of its rows away without the lock"
        )


def _mostly_changed(transaction: Transaction, slice_: Slice, table: pa.Table) -> bool:
    """Whether most of a random sample of the rows is not in the slice as it is; also true for an empty slice.

    Never of a table in which rows keep what they were first stored with: those that stay would not.
    """
    contract = slice_.contract
    small = SAMPLE if contract.config.native else SMALL
    if table.num_rows <= small or contract.config.first_stored:
        return False
    rows = np.random.default_rng(table.num_rows).choice(table.num_rows, SAMPLE, replace=False)
    sample = table.take(pa.array(np.sort(rows)))
    existing = _existing_by_key(transaction, slice_, sample, within=slice_.predicate("t"))
    return difference(existing, sample, contract.config.key).unchanged < (1 - MOSTLY_CHANGED) * SAMPLE


def _existing(transaction: Transaction, slice_: Slice, condition: sql.Composable, *, at_most: int) -> pa.Table | None:
    """The rows that a condition finds; None if they are too many to read or the planner expects so."""
    contract = slice_.contract
    home = _home(transaction, slice_)
    if _estimate(transaction, home, condition) > at_most:
        return None
    query = sql.SQL("SELECT {} FROM {} WHERE {} LIMIT {}")
    found = transaction.rows(query.format(names(contract.columns), home, condition, sql.Literal(at_most + 1)))
    return found.cast(arrow_schema(contract)) if found.num_rows <= at_most else None


def _existing_by_key(
    transaction: Transaction, slice_: Slice, table: pa.Table, *, within: sql.Composable | None = None
) -> pa.Table:
    """The rows that have the keys of these, in the whole table or within a condition on the slice's own."""
    contract = slice_.contract
    keys = in_key_order(table.select(list(contract.config.key)), contract.config.key)
    matching, target = _matching(contract, keys), relation(contract)
    if within is not None:
        matching, target = sql.SQL("{} AND {}").format(matching, within), _home(transaction, slice_)
    return rows_with_keys(transaction, contract, keys, target=target, matching=matching)


def _estimate(transaction: Transaction, table: sql.Identifier, condition: sql.Composable) -> int:
    """The planner's guess of how many rows a condition finds; costs no scan."""
    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}").format(table, condition)
    plan = transaction.value(query)
    return int(json.loads(plan)[0]["Plan"]["Plan Rows"])


def _key_range(
    contract: type[Contract], table: pa.Table, relation: str | None = None, *, ordered: bool = False
) -> sql.Composable:
    """The range of each key column that the rows span: both sides sort text by its bytes.

    Args:
        ordered: the rows are known to be in key order.
    """
    parts = []
    for place, name in enumerate(contract.config.key):
        values = table[name].take([0, table.num_rows - 1]) if ordered and place == 0 else table[name]
        extremes = pc.min_max(values).as_py()
        column = sql.Identifier(relation, name) if relation else sql.Identifier(name)
        bounds = sql.Literal(extremes["min"]), sql.Literal(extremes["max"])
        parts.append(sql.SQL("{} BETWEEN {} AND {}").format(column, *bounds))
    return sql.SQL(" AND ").join(parts)
