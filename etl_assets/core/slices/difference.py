"""What has to be written to turn the rows that are there into the rows that should be, found by integer codes of their keys.

Equal keys have equal codes, and codes sort as Postgres sorts the keys (C collation). On integers, sorting, removing duplicates
and matching two sides cost a tenth of what they cost on text.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.slices.slice import integers

SIGN = np.uint64(1 << 63)
# Rows that are put in order at a time: the server loads the ones before in the meantime.
BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Difference:
    """Rows to append, rows to update (whole, both in key order), keys that vanished, and how many stay as they are."""

    new: pa.Table
    changed: pa.Table
    vanished: pa.Table
    unchanged: int


class Rows:
    """Rows of which no two have the same key, found out when first asked for, by whichever thread that is.

    So the server can read or delete what is there meanwhile: of a million rows this takes a quarter of a second.

    Attributes:
        given: the rows as they came, those that give way included.
    """

    def __init__(self, given: pa.Table, key: Sequence[str]) -> None:
        self.given = given
        self._key = key
        self._lock, self._ordered_lock = threading.Lock(), threading.Lock()
        self._ordered: bool | None = None
        self._distinct: pa.Table | None = None
        self._last: np.ndarray | None = None
        self._kept = False
        self._gathered: list[pa.Table] = []

    @property
    def table(self) -> pa.Table:
        """The rows in the order given, of equal keys the last."""
        self._last_by_key()
        assert self._distinct is not None
        return self._distinct

    @property
    def ordered(self) -> bool:
        """Whether the rows came in key order, each key once; found out without the codes that all else needs."""
        with self._ordered_lock:
            if self._ordered is None:
                self._ordered = ascending(self.given, self._key) if self._key else False
        return self._ordered

    @property
    def duplicates(self) -> int:
        """How many rows gave way to a later one."""
        return self.given.num_rows - self.table.num_rows

    def _last_by_key(self) -> np.ndarray | None:
        """The number of the last row of each key, in key order; None if all rows stay where they are."""
        with self._lock:
            if self._distinct is None:
                if self._key and not self.ordered:
                    self._last = last_in_order(*key_codes([self.given], self._key))
                self._distinct = self.given
                if self._last is not None and len(self._last) < self.given.num_rows:
                    self._distinct = take(self.given, np.sort(self._last))
        return self._last

    def in_key_order(self) -> pa.Table:
        """The rows in the order in which every writer writes them, so that none waits for another in a circle."""
        self._kept = True
        return self.given if self._last_by_key() is None else pa.concat_tables(self._gathered_rows())

    def batches_in_key_order(self) -> pa.Table | pa.RecordBatchReader:
        """As `in_key_order`, put in order batch by batch where that is still to be done."""
        if self._last_by_key() is None:
            return self.given
        batches = (batch for rows in self._gathered_rows() for batch in rows.to_batches())
        return pa.RecordBatchReader.from_batches(self.given.schema, batches)

    def _gathered_rows(self) -> Iterator[pa.Table]:
        """The rows in key order, a batch at a time; two threads that ask for all of them share the work."""
        last = self._last_by_key()
        assert last is not None
        given = self.given.combine_chunks()
        for number, at in enumerate(range(0, max(len(last), 1), BATCH_ROWS)):
            with self._lock:
                if number < len(self._gathered):
                    taken = self._gathered[number]
                else:
                    taken = given.take(pa.array(last[at : at + BATCH_ROWS]))
                    # Only what will be asked for again: a copy of all rows is as large as they are.
                    if self._kept and number == len(self._gathered):
                        self._gathered.append(taken)
            yield taken


def ascending(table: pa.Table, key: Sequence[str]) -> bool:
    """Whether each row's key is above that of the row before; costs next to nothing where the first rows are not in order."""
    for rows in (table.slice(0, BATCH_ROWS // 10), table):
        before, after = rows.slice(0, max(rows.num_rows - 1, 0)), rows.slice(1)
        *first, last = key
        above = pc.less(before[last], after[last])
        for name in reversed(first):
            left, right = before[name], after[name]
            above = pc.or_(pc.less(left, right), pc.and_(pc.equal(left, right), above))
        if not pc.all(above, min_count=0).as_py():
            return False
    return True


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
    incoming = incoming.select(existing.column_names)
    compared = [name for name in incoming.column_names if name not in (*key, *disregarded)]
    if existing.num_rows == incoming.num_rows and all(existing[name].equals(incoming[name]) for name in key):
        same = equal_rows(existing.num_rows, existing.select(compared), incoming.select(compared))
        return Difference(
            new=incoming.slice(0, 0),
            changed=in_key_order(take(incoming, np.flatnonzero(~same)), key),
            vanished=existing.select(list(key)).slice(0, 0),
            unchanged=int(same.sum()),
        )
    there, coming = key_codes([existing, incoming], key)
    by_key, order = np.argsort(there), np.argsort(coming)
    there, coming = there[by_key], coming[order]
    at = np.minimum(np.searchsorted(there, coming), max(len(there) - 1, 0))
    found = there[at] == coming if len(there) else np.zeros(len(coming), dtype=bool)
    # Comparing in the order of arrival spares one gather of the larger side.
    partner = np.full(len(coming), -1, dtype=np.int64)
    partner[order[found]] = by_key[at[found]]
    matched = np.flatnonzero(partner >= 0)
    same = equal_rows(
        len(matched), take(existing.select(compared), partner[matched]), take(incoming.select(compared), matched)
    )
    changed, gone = np.zeros(len(coming), dtype=bool), np.ones(len(there), dtype=bool)
    changed[matched[~same]], gone[partner[matched]] = True, False
    return Difference(
        new=take(incoming, order[~found]),
        changed=take(incoming, order[changed[order]]),
        vanished=take(existing.select(list(key)), by_key[gone[by_key]]),
        unchanged=int(same.sum()),
    )


def equal_rows(count: int, ours: pa.Table, theirs: pa.Table) -> np.ndarray:
    """For each of so many rows whether all columns are the same on both sides, NULL being equal to NULL."""
    same = np.ones(count, dtype=bool)
    for left, right in zip(ours.columns, theirs.columns, strict=True):
        equal = pc.fill_null(pc.equal(left, right), False)
        if left.null_count or right.null_count:
            equal = pc.or_(equal, pc.and_(pc.is_null(left), pc.is_null(right)))
        same &= equal.to_numpy()
    return same


def take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """The rows of these numbers; the table itself if they are all of it, in its order."""
    if len(rows) == 0:
        return table.slice(0, 0)
    if len(rows) == table.num_rows and np.all(rows[1:] > rows[:-1]):
        return table
    return table.combine_chunks().take(pa.array(rows))


def key_codes(sides: Sequence[pa.Table], key: Sequence[str]) -> list[np.ndarray]:
    """Codes of the keys of several tables, comparable across them.

    Args:
        sides: tables that all have the key columns, of equal types, without NULLs in them.
        key: names of the key columns.

    Returns:
        One array of unsigned 64-bit codes per table, in row order.
    """
    lengths = [side.num_rows for side in sides]
    words: list[np.ndarray] = []
    for name in key:
        chunks = [chunk for side in sides for chunk in side[name].chunks]
        words += _words(pa.chunked_array(chunks, type=sides[0].schema.field(name).type).combine_chunks())
    return np.split(_packed(words, sum(lengths)), np.cumsum(lengths)[:-1])


def last_in_order(codes: np.ndarray) -> np.ndarray:
    """Row numbers of the last row of each key, in the order of the codes."""
    low, high = (codes.min(), codes.max()) if len(codes) else (0, 0)
    places = int(high - low) + 1
    if places <= 2 * len(codes):  # as of ranks: to put each row into its place takes a tenth of a sort
        last = np.full(places, -1)
        last[(codes - low).astype(np.int64)] = np.arange(len(codes))
        return last[last >= 0]
    order = np.argsort(codes)
    ordered = codes[order]
    if np.all(ordered[1:] != ordered[:-1]):
        return order
    # Only a stable sort tells which of equal codes came last; this one is faster, and mostly enough.
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    return order[np.append(ordered[1:] != ordered[:-1], True)]


def _words(array: pa.Array) -> list[np.ndarray]:
    """The values of one column as unsigned words, the most significant first."""
    kind = array.type
    if pa.types.is_string(kind):
        return _text_words(array)
    if pa.types.is_boolean(kind):
        return [array.cast(pa.uint8()).to_numpy(zero_copy_only=False).astype(np.uint64)]
    if pa.types.is_floating(kind):
        bits = (array.to_numpy(zero_copy_only=False) + 0.0).view(np.uint64)
        return [np.where(bits >= SIGN, ~bits, bits | SIGN)]
    return [integers(array).astype(np.int64, copy=False).view(np.uint64) ^ SIGN]


def _text_words(array: pa.Array) -> list[np.ndarray]:
    """UTF-8 text in words of eight bytes after the prefix that all values share, padded with zero bytes.

    Text has no NUL, so that padding cannot make two values equal.
    """
    if len(array) == 0:
        return []
    offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, array.offset * 4).astype(np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    extremes = pc.min_max(array).as_py()
    low, high = extremes["min"].encode(), extremes["max"].encode()
    prefix = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    widest = int(lengths.max())
    if widest == prefix:
        return []
    uniform = bool((lengths == widest).all())
    words = []
    for at in range(prefix, widest, 8):
        width = min(8, widest - at)
        block = np.zeros((len(array), 8), dtype=np.uint8)
        if uniform:
            block[:, :width] = data[starts[0] : starts[0] + len(array) * widest].reshape(-1, widest)[:, at : at + width]
        else:
            for i in range(width):
                rows = np.flatnonzero(lengths > at + i)
                block[rows, i] = data[starts[rows] + at + i]
        words.append(block.view(">u8").ravel().astype(np.uint64))
    return words


def _packed(words: list[np.ndarray], rows: int) -> np.ndarray:
    """All words of a key in one: side by side where their ranges fit into 64 bits, else their rank."""
    if not words:
        return np.zeros(rows, dtype=np.uint64)
    if len(words) == 1 or rows == 0:
        return words[0]
    spans = [(int(w.min()), int(w.max() - w.min()).bit_length()) for w in words]
    if sum(bits for _, bits in spans) <= 64:
        packed = np.zeros(rows, dtype=np.uint64)
        for word, (low, bits) in zip(words, spans, strict=True):
            # In place: tens of millions of keys take as much memory as their rows.
            if bits < 64:
                packed <<= np.uint64(bits)
            word -= np.uint64(low)
            packed |= word
        return packed
    return _ranks(words)


def _ranks(words: list[np.ndarray]) -> np.ndarray:
    """Dense ranks over several words; by the first alone where that leaves nothing open, as it mostly does."""

    def equal_neighbours(which: Sequence[np.ndarray]) -> np.ndarray:
        return np.logical_and.reduce([word[order[1:]] == word[order[:-1]] for word in which])

    order = np.argsort(words[0])
    same = equal_neighbours(words)
    if (same != equal_neighbours(words[:1])).any():
        order = np.lexsort(words[::-1])
        same = equal_neighbours(words)
    ranks = np.empty(len(order), dtype=np.uint64)
    ranks[order] = np.insert(np.cumsum(~same), 0, 0).astype(np.uint64)
    return ranks
