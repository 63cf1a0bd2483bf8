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
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, equal_keys, names, relation
from etl_assets.errors import TransientError

SAMPLE = 200
# Above this share of changed rows a slice is written anew: updating costs more than deleting and appending.
MOSTLY_CHANGED = 0.6
# Reading costs a quarter of writing, so that it pays to read some rows too many, but not a whole large table.
READ_AT_MOST_TIMES = 4
READ_ALWAYS = 200_000
READ_NEVER = 30_000_000
CHUNK = "chunk of the stage"  # no column of a contract can have this name


@dataclass(frozen=True)
class Change:
    """How many rows of the table a write inserted, updated, deleted and found as they should be."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    deduplicated: int = 0


def append(transaction: Transaction, piece: Slice, rows: Rows) -> Change:
    """Add rows; equal keys in the table are the server's error."""
    into = native.table_for(transaction, piece, rows.table)
    transaction.append(piece.contract, rows.batches_in_key_order(), into=into)
    return Change(inserted=rows.table.num_rows)


def replace(transaction: Transaction, piece: Slice, rows: Rows) -> Change:
    """Make the slice consist of these rows, writing only what differs where little does."""
    contract = piece.contract
    if not contract.config.key or _mostly_changed(transaction, piece, rows.table):
        return write_anew(transaction, piece, rows)
    # Rows that are written anew would lose what they were first stored with.
    existing = _existing(
        transaction,
        piece,
        piece.predicate(),
        at_most=READ_NEVER if contract.config.first_stored else _worth_reading(rows.table),
    )
    if existing is None:
        return write_anew(transaction, piece, rows)
    return _write_difference(transaction, piece, existing, rows.in_key_order(), delete=True)


def partition(transaction: Transaction, piece: Slice, rows: Rows) -> Change:
    """As `replace`; a native partition of which most changes, or that is not there yet, is built aside and swapped in."""
    leaf = native.leaf_of(piece)
    if leaf is None or rows.table.num_rows == 0:
        return replace(transaction, piece, rows)
    if not native.exists(transaction, piece.contract, leaf):
        return Change(inserted=native.attach_new(transaction, piece, leaf, rows))
    if _mostly_changed(transaction, piece, rows.table):
        deleted = native.swap(transaction, piece, leaf, rows)
        return Change(inserted=rows.table.num_rows, deleted=deleted)
    return replace(transaction, piece, rows)


def _worth_reading(table: pa.Table) -> int:
    return min(max(READ_ALWAYS, READ_AT_MOST_TIMES * table.num_rows), READ_NEVER)


def _home(transaction: Transaction, piece: Slice) -> sql.Identifier:
    """Where the rows of a slice are: its own native partition, or its table."""
    leaf = native.leaf_of(piece)
    return relation(piece.contract, leaf if leaf and native.exists(transaction, piece.contract, leaf) else None)


def write_anew(transaction: Transaction, piece: Slice, rows: Rows) -> Change:
    """Delete the slice and append the rows in key order. Rows that were there before count as deleted and inserted."""
    deleted = transaction.changed(
        sql.SQL("DELETE FROM {} WHERE {}").format(_home(transaction, piece), piece.predicate())
    )
    return Change(inserted=append(transaction, piece, rows).inserted, deleted=deleted)


def upsert(transaction: Transaction, piece: Slice, rows: Rows) -> Change:
    """Insert new keys, update changed rows, leave the rest untouched.

    A key is looked for in the whole table: a row may have moved here from another partition.
    """
    if rows.table.num_rows == 0:
        return Change()
    nearby = _key_range(piece.contract, rows.table)
    everywhere = Slice(piece.contract)
    existing = _existing(transaction, everywhere, nearby, at_most=_worth_reading(rows.table))
    if existing is None:
        existing = _existing_by_key(transaction, piece, rows.table)
    return _write_difference(transaction, piece, existing, rows.in_key_order(), delete=False)


def merge_stage(transaction: Transaction, piece: Slice, stage: sql.Identifier, *, rows: int, delete: bool) -> Change:
    """Merge staged rows in the server: of equal keys the last chunk's wins, unchanged rows stay untouched.

    Args:
        stage: the rows, with the number of their chunk in column `CHUNK`; within a chunk keys are unique.
        rows: rows in the stage.
        delete: whether rows of the slice that are not staged go.
    """
    contract = piece.contract
    key = contract.config.key
    values = [name for name in contract.columns if name not in key]
    compared = [name for name in values if name not in contract.config.first_stored]
    target = relation(contract)
    pick = sql.SQL("SELECT DISTINCT ON ({k}) {c} FROM {s} ORDER BY {k}, {n} DESC").format(
        k=names(key), c=names(contract.columns), s=stage, n=sql.Identifier(CHUNK)
    )
    deleted = 0
    if delete:
        gone = sql.SQL("DELETE FROM {t} AS t WHERE {p} AND NOT EXISTS (SELECT FROM {s} AS s WHERE {e})")
        deleted = transaction.changed(
            gone.format(t=target, p=piece.predicate("t"), s=stage, e=equal_keys(key, "t", "s"))
        )
    known = transaction.value(
        sql.SQL("SELECT count(*) FROM ({w}) AS s JOIN {t} AS t ON {e}").format(
            w=pick, t=target, e=equal_keys(key, "s", "t")
        )
    )
    conflict: sql.Composable = sql.SQL("DO NOTHING")
    if compared:
        conflict = sql.SQL("DO UPDATE SET {set} WHERE ({old}) IS DISTINCT FROM ({new})").format(
            set=sql.SQL(", ").join([sql.SQL("{c} = excluded.{c}").format(c=sql.Identifier(name)) for name in values]),
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
    return Change(
        inserted=inserted,
        updated=updated,
        deleted=deleted,
        unchanged=known - updated,
        deduplicated=rows - counted["distinct_keys"],
    )


def _write_difference(
    transaction: Transaction, piece: Slice, existing: pa.Table, table: pa.Table, *, delete: bool
) -> Change:
    contract = piece.contract
    differs = difference(existing, table, contract.config.key, disregarded=contract.config.first_stored)
    vanished = differs.vanished if delete else differs.vanished.slice(0, 0)
    target = _home(transaction, piece) if delete else relation(contract)
    if vanished.num_rows:
        statement = sql.SQL("DELETE FROM {t} AS t USING {s} AS s WHERE {w}")
        done = transaction.changed(
            statement.format(t=target, s=transaction.stage(vanished), w=_matching(contract, vanished))
        )
        _require_all(done, vanished, piece)
    if differs.changed.num_rows:
        values = [name for name in contract.columns if name not in contract.config.key]
        setting = [sql.SQL("{c} = s.{c}").format(c=sql.Identifier(name)) for name in values]
        statement = sql.SQL("UPDATE {t} AS t SET {set} FROM {s} AS s WHERE {w}")
        done = transaction.changed(
            statement.format(
                t=target,
                set=sql.SQL(", ").join(setting),
                s=transaction.stage(differs.changed),
                w=_matching(contract, differs.changed),
            )
        )
        _require_all(done, differs.changed, piece)
    transaction.append(contract, differs.new, into=native.table_for(transaction, piece, differs.new))
    return Change(
        inserted=differs.new.num_rows,
        updated=differs.changed.num_rows,
        deleted=vanished.num_rows,
        unchanged=differs.unchanged,
    )


def _matching(contract: type[Contract], staged: pa.Table) -> sql.Composable:
    """The rows of `t` with the keys of `s`; the range spares a look at all others, and at other native partitions."""
    return sql.SQL("{} AND {}").format(
        equal_keys(contract.config.key, "t", "s"), _key_range(contract, staged, relation="t")
    )


def _require_all(done: int, expected: pa.Table, piece: Slice) -> None:
    if done != expected.num_rows:
        raise TransientError(
            f"could not write {piece}: another writer took {expected.num_rows - done} of its rows away without the lock"
        )


def _mostly_changed(transaction: Transaction, piece: Slice, table: pa.Table) -> bool:
    """Whether most of a random sample of the rows is not in the slice as it is; also true for an empty slice.

    Never of a table in which rows keep what they were first stored with: those that stay would not.
    """
    contract = piece.contract
    if table.num_rows <= SAMPLE or contract.config.first_stored:
        return False
    there = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(_home(transaction, piece), piece.predicate())
    if not transaction.value(there):
        return True
    rows = np.random.default_rng(table.num_rows).choice(table.num_rows, SAMPLE, replace=False)
    sample = table.take(pa.array(np.sort(rows)))
    existing = _existing_by_key(transaction, piece, sample, within=piece.predicate("t"))
    return difference(existing, sample, contract.config.key).unchanged < (1 - MOSTLY_CHANGED) * SAMPLE


def _existing(transaction: Transaction, piece: Slice, condition: sql.Composable, *, at_most: int) -> pa.Table | None:
    """The rows that a condition finds; None if they are too many to read or the planner expects so."""
    contract = piece.contract
    home = _home(transaction, piece)
    if _estimate(transaction, home, condition) > at_most:
        return None
    query = sql.SQL("SELECT {} FROM {} WHERE {} LIMIT {}")
    found = transaction.rows(query.format(names(contract.columns), home, condition, sql.Literal(at_most + 1)))
    return found.cast(arrow_schema(contract)) if found.num_rows <= at_most else None


def _existing_by_key(
    transaction: Transaction, piece: Slice, table: pa.Table, *, within: sql.Composable | None = None
) -> pa.Table:
    """The rows that have the keys of these, found by the server."""
    contract = piece.contract
    keys = in_key_order(table.select(list(contract.config.key)), contract.config.key)
    query = sql.SQL("SELECT {c} FROM {s} AS s JOIN {t} AS t ON {w} WHERE {p}").format(
        c=names(contract.columns, "t"),
        s=transaction.stage(keys),
        t=relation(contract) if within is None else _home(transaction, piece),
        w=_matching(contract, keys),
        p=within or sql.SQL("TRUE"),
    )
    return transaction.rows(query).cast(arrow_schema(contract))


def _estimate(transaction: Transaction, table: sql.Identifier, condition: sql.Composable) -> int:
    """The planner's guess of how many rows a condition finds; costs no scan."""
    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}").format(table, condition)
    plan = transaction.value(query)
    return int(json.loads(plan)[0]["Plan"]["Plan Rows"])


def _key_range(contract: type[Contract], table: pa.Table, relation: str | None = None) -> sql.Composable:
    """The range of each key column that the rows span: both sides sort text by its bytes."""
    parts = []
    for name in contract.config.key:
        extremes = pc.min_max(table[name]).as_py()
        parts.append(
            sql.SQL("{c} BETWEEN {low} AND {high}").format(
                c=sql.Identifier(relation, name) if relation else sql.Identifier(name),
                low=sql.Literal(extremes["min"]),
                high=sql.Literal(extremes["max"]),
            )
        )
    return sql.SQL(" AND ").join(parts)
