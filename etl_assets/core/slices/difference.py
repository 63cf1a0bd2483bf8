"""What has to be written to turn the rows that are there into the rows that should be."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.slices.keys import key_codes, last_of_each

# Rows that are put in order at a time: the server loads the ones before in the meantime.
BATCH_ROWS = 64_000


@dataclass(frozen=True)
class Difference:
    """Rows to append, rows to update (whole, both in key order), keys that vanished, and how many stay as they are."""

    new: pa.Table
    changed: pa.Table
    vanished: pa.Table
    unchanged: int


class Rows:
    """Rows of which no two have the same key. Their codes are computed once for all that needs them.

    Attributes:
        table: the rows in the order given, of equal keys the last.
        duplicates: how many gave way to a later one.
    """

    def __init__(self, given: pa.Table, key: Sequence[str]) -> None:
        codes = key_codes([given], key)[0] if key and given.num_rows > 1 else None
        last = None if codes is None else last_of_each(codes)
        self._codes = codes if codes is None or last is None else codes[last]
        self.table = given if last is None else given.take(pa.array(last))
        self.duplicates = given.num_rows - self.table.num_rows
        self._gathering = threading.Lock()
        self._ordered: pa.Table | None = None

    def _order(self) -> np.ndarray | None:
        """Row numbers in key order; None if the rows are in it already."""
        codes = self._codes
        return None if codes is None or np.all(codes[1:] >= codes[:-1]) else np.argsort(codes)

    def in_key_order(self) -> pa.Table:
        """The rows in the order in which every writer writes them, so that none waits for another in a circle."""
        with self._gathering:
            if self._ordered is None:
                order = self._order()
                self._ordered = self.table if order is None else self.table.take(pa.array(order))
            return self._ordered

    def batches_in_key_order(self) -> pa.Table | pa.RecordBatchReader:
        """As `in_key_order`, put in order batch by batch where that is still to be done."""
        order = self._order() if self._ordered is None and not self._gathering.locked() else None
        if order is None:
            return self.in_key_order()
        table = self.table.combine_chunks()

        def batches() -> Iterator[pa.RecordBatch]:
            for at in range(0, len(order), BATCH_ROWS):
                yield from table.take(pa.array(order[at : at + BATCH_ROWS])).to_batches()

        return pa.RecordBatchReader.from_batches(table.schema, batches())


def without_duplicates(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """The rows in the order given, of equal keys only the last."""
    return Rows(table, key).table


def in_key_order(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """Rows with distinct keys, sorted by the key."""
    return Rows(table, key).in_key_order()


def difference(
    existing: pa.Table, incoming: pa.Table, key: Sequence[str], *, disregarded: Sequence[str] = ()
) -> Difference:
    """Compare two sides by key.

    Args:
        existing: the rows that are there; keys unique.
        incoming: the rows that should be; keys unique, columns in any order. Fastest when both sides are in key order.
        key: names of the key columns.
        disregarded: columns that make no row another.
    """
    beside = [*key, *disregarded]
    incoming = incoming.select(existing.column_names)
    if existing.num_rows == incoming.num_rows and all(existing[name].equals(incoming[name]) for name in key):
        same = _equal_columns(existing, incoming, beside)
        return Difference(
            new=incoming.slice(0, 0),
            changed=in_key_order(_take(incoming, np.flatnonzero(~same)), key),
            vanished=existing.select(list(key)).slice(0, 0),
            unchanged=int(same.sum()),
        )
    there, coming = key_codes([existing, incoming], key)
    by_key, order = np.argsort(there), np.argsort(coming)
    there, coming = there[by_key], coming[order]
    at = np.searchsorted(there, coming)
    found = np.zeros(len(coming), dtype=bool)
    inside = at < len(there)
    found[inside] = there[at[inside]] == coming[inside]
    # Comparing in the order of arrival spares one gather of the larger side.
    partner = np.full(len(coming), -1, dtype=np.int64)
    partner[order[found]] = by_key[at[found]]
    matched = np.flatnonzero(partner >= 0)
    same = _equal_rows(existing, partner[matched], incoming, matched, beside)
    changed = np.zeros(len(coming), dtype=bool)
    changed[matched[~same]] = True
    gone = np.ones(len(there), dtype=bool)
    gone[partner[matched]] = False
    return Difference(
        new=_take(incoming, order[~found]),
        changed=_take(incoming, order[changed[order]]),
        vanished=_take(existing.select(list(key)), by_key[gone[by_key]]),
        unchanged=int(same.sum()),
    )


def _equal_rows(
    existing: pa.Table, partner: np.ndarray, incoming: pa.Table, matched: np.ndarray, beside: Sequence[str]
) -> np.ndarray:
    """For each matched pair whether all columns beside some are the same, NULL being equal to NULL."""
    same = np.ones(len(matched), dtype=bool)
    whole = len(matched) == incoming.num_rows
    for name in incoming.column_names:
        if name in beside:
            continue
        ours = existing[name].combine_chunks().take(pa.array(partner))
        theirs = incoming[name].combine_chunks()
        theirs = theirs if whole else theirs.take(pa.array(matched))
        same &= _equal(ours, theirs)
    return same


def _equal_columns(existing: pa.Table, incoming: pa.Table, beside: Sequence[str]) -> np.ndarray:
    """For each row whether all columns beside some are the same on both sides."""
    same = np.ones(incoming.num_rows, dtype=bool)
    for name in incoming.column_names:
        if name not in beside:
            same &= _equal(existing[name], incoming[name])
    return same


def _equal(ours: pa.Array | pa.ChunkedArray, theirs: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Whether two columns are equal, cell by cell, NULL being equal to NULL."""
    equal = pc.fill_null(pc.equal(ours, theirs), False)
    if ours.null_count or theirs.null_count:
        equal = pc.or_(equal, pc.and_(pc.is_null(ours), pc.is_null(theirs)))
    return np.asarray(equal.to_numpy() if isinstance(equal, pa.ChunkedArray) else equal.to_numpy(zero_copy_only=False))


def _take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    if len(rows) == 0:
        return table.slice(0, 0)
    return table.take(pa.array(rows))
