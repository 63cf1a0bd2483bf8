"""Rows by key over all batches of a file: the first good one of each key is loaded, the others are compared with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

LINE = "line"
ROWS_AT_ONCE = 1_000_000

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Settled:
    """What becomes of the rows of a batch.

    Attributes:
        new: rows that are loaded.
        same: rows that say what a loaded one says.
        others: rows with the key of a loaded one before them and other values, beside the lines of those.
    """

    new: Numbers
    same: Numbers
    others: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class _Run:
    """Keys in order, and the places of their rows in the order in which they were loaded."""

    keys: Numbers
    places: Numbers

    def merged(self, later: "_Run") -> "_Run":
        keys, places = np.append(self.keys, later.keys), np.append(self.places, later.places)
        if self.keys[-1] < later.keys[0]:
            return _Run(keys, places)
        order = np.argsort(keys, kind="stable")  # which merges what is in order
        return _Run(keys[order], places[order])


class Holders:
    """The loaded rows of a file, by their key.

    Keys are in runs that are sorted and double in size, so that rows in any order cost what a sort of them costs, and rows
    in key order next to nothing.
    """

    def __init__(self, key: str, schema: pa.Schema) -> None:
        self._key = key
        self._tables = [schema.empty_table()]
        self._starts = [0]
        self._runs: list[_Run] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def settle(self, table: pa.Table, good: NDArray[np.bool_]) -> Settled:
        """Load the rows of a batch that are good and the first of their key, and compare the rest with those.

        Args:
            table: typed rows in the order of their lines, with `line`; the key is NULL where it cannot be read.
            good: which rows have no fault.
        """
        keys, readable = _numbers(table[self._key])
        new = self._first(keys, np.flatnonzero(good))
        self._add(table.take(pa.array(new)) if len(new) < len(keys) else table, keys[new])
        rest = readable.copy()
        rest[new] = False
        rows = np.flatnonzero(rest)
        places = self._find(keys[rows])
        rows, places = rows[places >= 0], places[places >= 0]
        if not len(rows):
            return Settled(new, rows, [])
        held, given = self._rows(places), table.take(pa.array(rows))
        before, _ = _numbers(held[LINE])
        same = good[rows] & same_values(held, given, [n for n in table.column_names if n not in (self._key, LINE)])
        other = ~same & (before < _numbers(given[LINE])[0])
        return Settled(new, rows[same], list(zip(rows[other].tolist(), before[other].tolist(), strict=True)))

    def in_key_order(self) -> pa.Table:
        """The loaded rows without their lines, in the order of their key; they are held no longer."""
        while len(self._runs) > 1:
            self._merge_last()
        places = self._runs.pop().places if self._runs else np.empty(0, np.int64)
        self._tables = [table.drop_columns(LINE) for table in self._tables]
        if (places[1:] > places[:-1]).all():
            rows = pa.concat_tables(self._tables)
        else:
            parts = range(0, len(places), ROWS_AT_ONCE)
            rows = pa.concat_tables([self._rows(places[at : at + ROWS_AT_ONCE]) for at in parts])
        self._tables.clear()
        return rows

    def _first(self, keys: Numbers, candidates: Numbers) -> Numbers:
        """Of some rows those whose key is held by none, and is the first of its kind among them."""
        free = candidates[self._find(keys[candidates]) < 0]
        wanted = keys[free]
        if (wanted[1:] > wanted[:-1]).all():
            return free
        _, first = np.unique(wanted, return_index=True)
        return free[np.sort(first)]

    def _find(self, keys: Numbers) -> Numbers:
        """The places of the rows that hold some keys; -1 where none does."""
        places = np.full(len(keys), -1, dtype=np.int64)
        if not len(keys):
            return places
        # In order they are looked up at a tenth of the cost.
        order = None if (keys[1:] >= keys[:-1]).all() else np.argsort(keys)
        wanted = keys if order is None else keys[order]
        found = places if order is None else places.copy()
        for run in self._runs:
            if run.keys[0] <= wanted[-1] and wanted[0] <= run.keys[-1]:
                at = np.minimum(np.searchsorted(run.keys, wanted), len(run.keys) - 1)
                hit = run.keys[at] == wanted
                found[hit] = run.places[at[hit]]
        if order is not None:
            places[order] = found
        return places

    def _add(self, rows: pa.Table, keys: Numbers) -> None:
        self._tables.append(rows)
        self._starts.append(self._count)
        if not len(keys):
            return
        places = np.arange(self._count, self._count + len(keys))
        order = np.argsort(keys, kind="stable")
        self._runs.append(_Run(keys[order], places[order]))
        self._count += len(keys)
        while len(self._runs) > 1 and len(self._runs[-2].keys) <= 2 * len(self._runs[-1].keys):
            self._merge_last()

    def _merge_last(self) -> None:
        later = self._runs.pop()
        self._runs.append(self._runs.pop().merged(later))

    def _rows(self, places: Numbers) -> pa.Table:
        """The rows at some places; each batch gives its own, for a `take` from all would copy them all."""
        home = np.searchsorted(self._starts, places, side="right") - 1
        order = np.argsort(home, kind="stable")
        parts = []
        for at in np.unique(home).tolist():
            inside = places[order][home[order] == at] - self._starts[at]
            parts.append(self._tables[at].take(pa.array(inside)))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(pa.array(back))


def same_values(ours: pa.Table, theirs: pa.Table, columns: Sequence[str]) -> NDArray[np.bool_]:
    """Which rows of two tables of one length have equal values; nothing equals nothing."""
    same = np.ones(ours.num_rows, dtype=bool)
    for name in columns:
        one, other = ours[name].combine_chunks(), theirs[name].combine_chunks()
        if pa.types.is_list(one.type):
            same &= _same_lists(one, other)
        else:
            neither = pc.and_(one.is_null(), other.is_null())
            same &= pc.or_(pc.fill_null(pc.equal(one, other), False), neither).to_numpy(zero_copy_only=False)
    return same


def _same_lists(ours: pa.ListArray, theirs: pa.ListArray) -> NDArray[np.bool_]:
    lengths, others = (pc.list_value_length(lists).to_numpy() for lists in (ours, theirs))
    same = lengths == others
    alike = pa.array(same)
    rows = np.repeat(np.flatnonzero(same), lengths[same])
    differ = ours.filter(alike).flatten().to_numpy() != theirs.filter(alike).flatten().to_numpy()
    same[rows[differ]] = False
    return same


def _numbers(column: pa.ChunkedArray) -> tuple[Numbers, NDArray[np.bool_]]:
    """Integers, 0 where there is none, and where there is one."""
    there = pc.is_valid(column).to_numpy()
    return pc.fill_null(column, 0).to_numpy(), there
