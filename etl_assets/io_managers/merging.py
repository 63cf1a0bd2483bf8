"""The ways to turn the rows of a slice into other rows, within an open transaction under the slice's lock.

Which way is taken depends on what is there (measured: `benchmarks/write_paths.py`). Small differences are found by comparing in Arrow
and only they are written; slices too large to read are merged in the server; a slice of which little stays is
written anew.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from etl_assets.contracts import Contract
from etl_assets.io_managers.difference import difference, in_key_order
from etl_assets.io_managers.slices import Slice
from etl_assets.io_managers.transaction import Transaction, equal_keys, names, relation

SAMPLE = 200
# Above this share of changed rows a slice is written anew: updating costs more than deleting and appending.
MOSTLY_CHANGED = 0.6
# Reading costs a quarter of writing, so that it pays to read some rows too many, but not a whole large table.
READ_AT_MOST_TIMES = 4
READ_ALWAYS = 200_000
READ_NEVER = 30_000_000


@dataclass(frozen=True)
class Change:
    """How many rows of the table a write inserted, updated, deleted and found as they should be."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    deduplicated: int = 0


def append(transaction: Transaction, piece: Slice, table: pa.Table) -> Change:
    """Add rows; equal keys in the table are the server's error."""
    transaction.append(piece.contract, in_key_order(table, piece.contract.config.key))
    return Change(inserted=table.num_rows)


def replace(transaction: Transaction, piece: Slice, table: pa.Table) -> Change:
    """Make the slice consist of these rows, writing only what differs where little does."""
    contract = piece.contract
    if not contract.config.key or _mostly_changed(transaction, piece, table):
        return write_anew(transaction, piece, table)
    existing = _existing(transaction, contract, piece.predicate(), at_most=_worth_reading(table))
    if existing is None:
        return write_anew(transaction, piece, table)
    return _write_difference(transaction, contract, existing, table, delete=True)


def _worth_reading(table: pa.Table) -> int:
    return min(max(READ_ALWAYS, READ_AT_MOST_TIMES * table.num_rows), READ_NEVER)


def write_anew(transaction: Transaction, piece: Slice, table: pa.Table) -> Change:
    """Delete the slice and append the rows in key order. Rows that were there before count as deleted and inserted."""
    deleted = _deleted(
        transaction,
        sql.SQL("DELETE FROM {} WHERE {}").format(relation(piece.contract), piece.predicate()),
    )
    transaction.append(piece.contract, in_key_order(table, piece.contract.config.key))
    return Change(inserted=table.num_rows, deleted=deleted)


def upsert(transaction: Transaction, piece: Slice, table: pa.Table) -> Change:
    """Insert new keys, update changed rows, leave the rest untouched."""
    if table.num_rows == 0:
        return Change()
    contract = piece.contract
    nearby = sql.SQL("{} AND {}").format(piece.predicate(), _key_range(contract, table))
    existing = _existing(transaction, contract, nearby, at_most=_worth_reading(table))
    if existing is not None:
        return _write_difference(transaction, contract, existing, table, delete=False)
    return merge_stage(transaction, piece, transaction.stage(table), rows=table.num_rows, delete=False)


def merge_stage(transaction: Transaction, piece: Slice, stage: sql.Identifier, *, rows: int, delete: bool) -> Change:
    """Merge staged rows in the server: of equal keys the last wins, unchanged rows stay untouched.

    Args:
        rows: rows in the stage.
        delete: whether rows of the slice that are not staged go.
    """
    contract = piece.contract
    key = contract.config.key
    values = [name for name in contract.columns if name not in key]
    target = relation(contract)
    pick = sql.SQL("SELECT DISTINCT ON ({k}) {c} FROM {s} ORDER BY {k}, ctid DESC").format(
        k=names(key), c=names(contract.columns), s=stage
    )
    deleted = 0
    if delete:
        gone = sql.SQL("DELETE FROM {t} AS t WHERE {p} AND NOT EXISTS (SELECT FROM {s} AS s WHERE {e})")
        deleted = _deleted(
            transaction, gone.format(t=target, p=piece.predicate("t"), s=stage, e=equal_keys(key, "t", "s"))
        )
    known = transaction.value(
        sql.SQL("SELECT count(*) FROM ({w}) AS s JOIN {t} AS t ON {e}").format(w=pick, t=target, e=equal_keys(key, "s", "t"))
    )
    conflict = sql.SQL("DO NOTHING")
    if values:
        conflict = sql.SQL("DO UPDATE SET {set} WHERE ({old}) IS DISTINCT FROM ({new})").format(
            set=sql.SQL(", ").join(
                [sql.SQL("{c} = excluded.{c}").format(c=sql.Identifier(name)) for name in values]
            ),
            old=names(values, "t"),
            new=names(values, "excluded"),
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
    transaction: Transaction, contract: type[Contract], existing: pa.Table, table: pa.Table, *, delete: bool
) -> Change:
    key = contract.config.key
    differs = difference(existing, table, key)
    target = relation(contract)
    vanished = differs.vanished.num_rows if delete else 0
    if vanished:
        stage = transaction.stage(differs.vanished)
        transaction.run(
            sql.SQL("DELETE FROM {t} AS t USING {s} AS s WHERE {e}").format(t=target, s=stage, e=equal_keys(key, "t", "s"))
        )
    if differs.changed.num_rows:
        stage = transaction.stage(differs.changed)
        values = [name for name in contract.columns if name not in key]
        setting = [sql.SQL("{c} = s.{c}").format(c=sql.Identifier(name)) for name in values]
        transaction.run(
            sql.SQL("UPDATE {t} AS t SET {set} FROM {s} AS s WHERE {e}").format(
                t=target, set=sql.SQL(", ").join(setting), s=stage, e=equal_keys(key, "t", "s")
            )
        )
    transaction.append(contract, differs.new)
    return Change(
        inserted=differs.new.num_rows,
        updated=differs.changed.num_rows,
        deleted=vanished,
        unchanged=differs.unchanged,
    )


def _mostly_changed(transaction: Transaction, piece: Slice, table: pa.Table) -> bool:
    """Whether most of a random sample of the rows is not in the slice as it is; also true for an empty slice."""
    if table.num_rows <= SAMPLE:
        return False
    contract = piece.contract
    rows = np.random.default_rng(table.num_rows).choice(table.num_rows, SAMPLE, replace=False)
    sample = table.take(pa.array(np.sort(rows)))
    stage = transaction.stage(sample)
    query = sql.SQL("SELECT {c} FROM {s} AS s JOIN {t} AS t ON {e} WHERE {p}").format(
        c=names(contract.columns, "t"),
        s=stage,
        t=relation(contract),
        e=equal_keys(contract.config.key, "s", "t"),
        p=piece.predicate("t"),
    )
    existing = transaction.rows(query).cast(sample.schema)
    return difference(existing, sample, contract.config.key).unchanged < (1 - MOSTLY_CHANGED) * SAMPLE


def _existing(
    transaction: Transaction, contract: type[Contract], condition: sql.Composable, *, at_most: int
) -> pa.Table | None:
    """The rows that a condition finds; None if they are too many to read or the planner expects so."""
    if _estimate(transaction, contract, condition) > at_most:
        return None
    query = sql.SQL("SELECT {} FROM {} WHERE {} LIMIT {}")
    found = transaction.rows(
        query.format(names(contract.columns), relation(contract), condition, sql.Literal(at_most + 1))
    )
    return found if found.num_rows <= at_most else None


def _estimate(transaction: Transaction, contract: type[Contract], condition: sql.Composable) -> int:
    """The planner's guess of how many rows a condition finds; costs no scan."""
    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}").format(relation(contract), condition)
    plan = transaction.value(query)
    return int(json.loads(plan)[0]["Plan"]["Plan Rows"])


def _key_range(contract: type[Contract], table: pa.Table) -> sql.Composable:
    """The range of the first key column that the rows span: both sides sort text by its bytes."""
    first = contract.config.key[0]
    extremes = pc.min_max(table[first]).as_py()
    return sql.SQL("{c} BETWEEN {low} AND {high}").format(
        c=sql.Identifier(first),
        low=sql.Literal(extremes["min"]),
        high=sql.Literal(extremes["max"]),
    )


def _deleted(transaction: Transaction, statement: sql.Composable) -> int:
    return int(
        transaction.value(sql.SQL("WITH gone AS ({} RETURNING 1) SELECT count(*) FROM gone").format(statement))
    )
