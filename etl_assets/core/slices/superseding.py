"""Store rows of which, for each key, the one with the highest sequence stays, and tell which rows gave way to it.

The rows of a key form a chain by their sequence: one with the values of the row before it repeats that and changes nothing, any
other takes its place. So what is in the table in the end does not depend on how the rows were divided into transactions.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from psycopg import sql

from etl_assets.core.contracts import Contract
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.slices.difference import equal_rows, in_key_order, key_codes, take
from etl_assets.core.slices.merging import Change, rows_with_keys, update
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, equal_keys, relation
from etl_assets.errors import TransientError

SUPERSEDED_BY = "superseded by"  # no column of a contract can have this name
DUPLICATE_KEY = "23505"
OTHER_WAYS = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")


@dataclass(frozen=True)
class Superseding:
    """What has to be written so that the last row of each key is in the table, and what became of all others.

    Attributes:
        new, changed: whole rows in key order.
        gave_way: rows given that a later one took the place of: the contract's columns, and that one's sequence in
            `SUPERSEDED_BY`.
        taken_out: rows of the table that a later one took the place of, as many as were changed; columns as above.
        unchanged, deduplicated: rows given that repeat the values of a row of the table, or of one given before.
        met: whether any key was in the table already.
    """

    new: pa.Table
    changed: pa.Table
    gave_way: pa.Table
    taken_out: pa.Table
    unchanged: int
    deduplicated: int
    met: bool

    @property
    def change(self) -> Change:
        """The change of the table. Every row given is either in one of its counts or in `gave_way`."""
        return Change(
            inserted=self.new.num_rows,
            updated=self.changed.num_rows,
            unchanged=self.unchanged,
            deduplicated=self.deduplicated,
        )


class KeysThere(Exception):
    """Rows that were loaded straight into the table have keys that are there: the transaction is lost."""


def store_latest(
    transaction: Transaction, slice_: Slice, rows: pa.Table, *, sequence: str, look_first: bool
) -> Superseding:
    """Store rows within an open transaction that holds the lock of the table.

    Args:
        rows: in the contract's schema, in the order of their sequence.
        sequence: an integer column outside of the key; of two rows of a key the higher one is the later.
        look_first: whether the keys are looked up first, and only what differs is written. Without it the rows are loaded
            straight into the table, which takes half as long when none of their keys is there.

    Raises:
        KeysThere: without `look_first`, if a key is there. ADBC has no way back to a savepoint after an error: roll back
            and begin again with `look_first`.
        TransientError: if another writer changes the table without its lock.
    """
    contract = slice_.contract
    existing = _existing(transaction, contract, rows) if look_first else arrow_schema(contract).empty_table()
    found = resolve(contract, existing, rows, sequence=sequence)
    if found.changed.num_rows:
        update(transaction, slice_, found.changed, target=relation(contract), matching=_same_key(contract))
    try:
        transaction.append(contract, found.new)
    except Exception as error:
        if getattr(error, "sqlstate", None) != DUPLICATE_KEY:
            raise
        if not look_first:
            raise KeysThere from error
        raise TransientError(
            f"could not write {slice_}: another writer added rows with the same keys without the lock"
        ) from error
    return found


def resolve(contract: type[Contract], existing: pa.Table, given: pa.Table, *, sequence: str) -> Superseding:
    """Put the rows of each key into one chain.

    Args:
        existing: the rows of the table that have keys of the rows given.
        given: rows in the order of their sequence.
    """
    rows = pa.concat_tables([existing, given])
    (codes,) = key_codes([rows], contract.config.key)
    # A row of the table is the head of its chain: it stands before the rows given, and the sort is stable.
    order = np.argsort(codes, kind="stable")
    rows, codes, stored = take(rows, order), codes[order], order < existing.num_rows
    number = rows[sequence].to_numpy()
    head = _heads(codes)
    values = rows.drop_columns([*contract.config.key, sequence])
    by, gone = np.zeros(len(codes), dtype=np.int64), np.zeros(len(codes), dtype=bool)

    def give_way(loser: np.ndarray, winner: np.ndarray) -> None:
        by[loser], gone[loser] = number[winner], True

    # A row that comes after a later one of its key is in the table already is no part of the chain.
    late = stored[head] & ~stored & (number <= number[head])
    behind = np.flatnonzero(late)
    behind_and_other = behind[~_equal(values, behind, head[behind])]
    give_way(behind_and_other, head[behind_and_other])
    chain = np.flatnonzero(~late)
    repeats = _repeats(values, chain, head)
    kept = chain[~repeats]
    followed = head[kept[1:]] == head[kept[:-1]]
    give_way(kept[:-1][followed], kept[1:][followed])
    written = kept[~gone[kept] & ~stored[kept]]
    in_table = stored[head[written]]
    repeated = stored[kept[np.cumsum(~repeats) - 1][repeats]]
    return Superseding(
        new=take(rows, written[~in_table]),
        changed=take(rows, written[in_table]),
        gave_way=_superseded(rows, by, gone & ~stored),
        taken_out=_superseded(rows, by, gone & stored),
        unchanged=int(repeated.sum()) + len(behind) - len(behind_and_other),
        deduplicated=int((~repeated).sum()),
        met=existing.num_rows > 0,
    )


def _heads(codes: np.ndarray) -> np.ndarray:
    """For each row the number of the first one of its key, equal keys standing together."""
    first = np.append(True, codes[1:] != codes[:-1])[: len(codes)]
    return np.flatnonzero(first)[np.cumsum(first) - 1]


def _repeats(values: pa.Table, chain: np.ndarray, head: np.ndarray) -> np.ndarray:
    """For each link of the chains whether it has the values of the one before it."""
    repeats = np.zeros(len(chain), dtype=bool)
    linked = 1 + np.flatnonzero(head[chain[1:]] == head[chain[:-1]])
    repeats[linked] = _equal(values, chain[linked], chain[linked - 1])
    return repeats


def _equal(values: pa.Table, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each pair of row numbers whether all columns are the same."""
    return equal_rows(len(left), take(values, left), take(values, right))


def _superseded(rows: pa.Table, by: np.ndarray, which: np.ndarray) -> pa.Table:
    at = np.flatnonzero(which)
    return take(rows, at).append_column(SUPERSEDED_BY, pa.array(by[at]))


def _existing(transaction: Transaction, contract: type[Contract], rows: pa.Table) -> pa.Table:
    """The rows of the table that have keys of these, each found in the key's index, as is all else in the transaction.

    The planner reads a large table from end to end for a hundred thousand keys, which takes ten times as long at five million
    rows, and longer the more there are.
    """
    settings = [sql.SQL("set_config({}, 'off', true)").format(sql.Literal(name)) for name in OTHER_WAYS]
    transaction.row(sql.SQL("SELECT array_length(ARRAY[{}], 1) AS n").format(sql.SQL(", ").join(settings)))
    key = contract.config.key
    keys = in_key_order(rows.select(list(key)), key)
    return rows_with_keys(transaction, contract, keys, target=relation(contract), matching=_same_key(contract))


def _same_key(contract: type[Contract]) -> sql.Composable:
    return equal_keys(contract.config.key, "s", "t")
