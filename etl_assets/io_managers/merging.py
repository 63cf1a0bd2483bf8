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

from etl_assets.contracts import Contract
from etl_assets.contracts.arrow import arrow_schema
from etl_assets.failures import TransientError
from etl_assets.io_managers import native
from etl_assets.io_managers.difference import Rows, difference, in_key_order
from etl_assets.io_managers.slices import Slice
from etl_assets.io_managers.transaction import Transaction, equal_keys, names, relation

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
    transaction.append(piece.contract, rows.in_key_order(), into=into)
    return Change(inserted=rows.table.num_rows)


def replace(transaction: Transaction, piece: Slice, rows: Rows) -> Change:
    """Make the slice consist of these rows, writing only what differs where little does."""
    contract = piece.contract
    if not contract.config.key or _mostly_changed(transaction, piece, rows.table):
        return write_anew(transaction, piece, rows)
    existing = _existing(transaction, piece, piece.predicate(), at_most=_worth_reading(rows.table))
    if existing is None:
        return write_anew(transaction, piece, rows)
    return _write_difference(transaction, piece, existing, rows.table, delete=True)


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
    existing = _existing(transaction, piece, nearby, at_most=_worth_reading(rows.table))
    if existing is None:
        existing = _existing_by_key(transaction, piece, rows.table)
    return _write_difference(transaction, piece, existing, rows.table, delete=False)


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
    transaction: Transaction, piece: Slice, existing: pa.Table, table: pa.Table, *, delete: bool
) -> Change:
    contract = piece.contract
    differs = difference(existing, table, contract.config.key)
    vanished = differs.vanished if delete else differs.vanished.slice(0, 0)
    target = _home(transaction, piece) if delete else relation(contract)
    if vanished.num_rows:
        statement = sql.SQL("DELETE FROM {t} AS t USING {s} AS s WHERE {e}")
        _run_staged(transaction, piece, target, statement, vanished)
    if differs.changed.num_rows:
        values = [name for name in contract.columns if name not in contract.config.key]
        setting = [sql.SQL("{c} = s.{c}").format(c=sql.Identifier(name)) for name in values]
        statement = sql.SQL("UPDATE {{t}} AS t SET {} FROM {{s}} AS s WHERE {{e}}".format("{set}"))
        statement = sql.SQL(statement.format(set=sql.SQL(", ").join(setting), t=sql.SQL("{t}"), s=sql.SQL("{s}"), e=sql.SQL("{e}")).as_string(None))
        _run_staged(transaction, piece, target, statement, differs.changed)
    into = native.table_for(transaction, piece, differs.new)
    transaction.append(contract, differs.new, into=into)
    return Change(
        inserted=differs.new.num_rows,
        updated=differs.changed.num_rows,
        deleted=vanished.num_rows,
        unchanged=differs.unchanged,
    )
