"""What has to be written to turn the rows that are there into the rows that should be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.io_managers.keys import key_codes, last_of_each

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

    def in_key_order(self) -> pa.Table | pa.RecordBatchReader:
        """The rows in the order in which every writer writes them; batch by batch unless they are in order already."""
        codes = self._codes
        if codes is None or np.all(codes[1:] >= codes[:-1]):
            return self.table
        order, table = np.argsort(codes), self.table.combine_chunks()

        def batches() -> Iterator[pa.RecordBatch]:
            for at in range(0, len(order), BATCH_ROWS):
                yield from table.take(pa.array(order[at : at + BATCH_ROWS])).to_batches()

        return pa.RecordBatchReader.from_batches(table.schema, batches())


def without_duplicates(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """The rows in the order given, of equal keys only the last."""
    return Rows(table, key).table


def in_key_order(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """The rows in the order in which every writer writes them, so that none waits for another in a circle."""
    if not key or table.num_rows < 2:
        return table
    codes = key_codes([table], key)[0]
    return table if np.all(codes[1:] >= codes[:-1]) else table.take(pa.array(np.argsort(codes, kind="stable")))


def difference(existing: pa.Table, incoming: pa.Table, key: Sequence[str]) -> Difference:
    """Compare two sides by key.

    Args:
        existing: the rows that are there; keys unique.
        incoming: the rows that should be; keys unique, columns in any order.
        key: names of the key columns.
    """
    incoming = incoming.select(existing.column_names)
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
    same = _equal_rows(existing, partner[matched], incoming, matched, key)
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
    existing: pa.Table, partner: np.ndarray, incoming: pa.Table, matched: np.ndarray, key: Sequence[str]
) -> np.ndarray:
    """For each matched pair whether all columns beside the key are the same, NULL being equal to NULL."""
    same = np.ones(len(matched), dtype=bool)
    whole = len(matched) == incoming.num_rows
    for name in incoming.column_names:
        if name in key:
            continue
        ours = existing[name].combine_chunks().take(pa.array(partner))
        theirs = incoming[name].combine_chunks()
        theirs = theirs if whole else theirs.take(pa.array(matched))
        equal = pc.fill_null(pc.equal(ours, theirs), False)
        if ours.null_count or theirs.null_count:
            equal = pc.or_(equal, pc.and_(pc.is_null(ours), pc.is_null(theirs)))
        same &= equal.to_numpy(zero_copy_only=False)
    return same


def _take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    if len(rows) == 0:
        return table.slice(0, 0)
    return table.take(pa.array(rows))
