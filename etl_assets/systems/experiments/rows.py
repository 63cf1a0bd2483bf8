"""The rows of one file over all its batches: the first good one of each key is loaded, the others are compared with it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from etl_assets.core.contracts import Contract, Fault, Record
from etl_assets.core.contracts.arrow import ARROW_TYPES
from etl_assets.systems.experiments.csv.files import Batch, CsvFile, RejectedFile

LINE = "line"
ROWS_AT_ONCE = 1_000_000
RUNS_AT_ONCE = 8  # sorted runs of keys that are searched one by one before they are merged
RECORDS_AT_ONCE = 4096
MOST_LETTERS = 40

Numbers = NDArray[np.int64]
# A row of a batch, one of the file's columns, and the rule that its cell breaks.
Found = tuple[int, str, str]
FAULT = pa.struct({"column": pa.string(), "rule": pa.string()}.items())


class Added(NamedTuple):
    """Rows of a batch that are loaded, and rows that say what a loaded one says."""

    new: Numbers
    same: Numbers


class FileRows:
    """The rows of one file, batch after batch.

    Attributes:
        rejected: records of those that are not loaded.
        deduplicated: how many say what a loaded one says.
    """

    def __init__(self, file: CsvFile, contract: type[Contract], more: Mapping[str, pa.DataType] | None = None) -> None:
        (self._key,) = contract.config.key
        self._file = file
        types = {name: ARROW_TYPES[column.kind] for name, column in contract.columns.items()}
        self._tables = [pa.schema({**types, **(more or {}), LINE: pa.int64()}.items()).empty_table()]
        self._ends = [0]  # of each table, in the order in which rows were loaded
        self._keys = _Keys()
        self._received = 0
        self._faulty = [self._tables[0].select([self._key, LINE])]
        self.rejected = Rejected(file)
        self.deduplicated = 0

    def add(self, batch: Batch, values: Mapping[str, pa.Array], found: Sequence[Found]) -> Added:
        """Take the next batch.

        Args:
            values: its typed columns.
            found: the faults that its rows have by themselves; those of repeated keys are added here.
        """
        table = pa.table({**values, LINE: batch.rows[LINE]})
        good = np.ones(table.num_rows, dtype=bool)
        good[[row for row, _, _ in found]] = False
        keys = pc.fill_null(table[self._key], 0).to_numpy()
        new = self._load(table, keys, np.flatnonzero(good))
        rest = table[self._key].is_valid().to_numpy()
        rest[new] = False
        same, others = self._compare(table, keys, np.flatnonzero(rest), good)
        rule = "line {} has this " + f"{self._key} with other values"
        self.rejected.add(batch, [*found, *((row, self._key, rule.format(line)) for row, line in others)])
        if found:
            faulty = table.select([self._key, LINE]).filter(pa.array(~good))
            self._faulty.append(faulty.filter(faulty[self._key].is_valid()))
        self._received += table.num_rows + len(batch.unreadable)
        self.deduplicated += len(same)
        return Added(new, same)

    def faulty(self) -> pa.Table:
        """Key and line of rows that are rejected for faults of their own, by key and then by line."""
        return pa.concat_tables(self._faulty).sort_by([(self._key, "ascending"), (LINE, "ascending")])

    def in_key_order(self) -> pa.Table:
        """The rows to load, without their lines, when all batches have been taken; they are kept no longer.

        Raises:
            RejectedFile: if there are rows and none to load.
        """
        places = self._keys.places_in_order()
        if self._received and not len(places):
            record = self.rejected[0]
            fault = record.faults[0]
            raise RejectedFile(
                f"no row of {self._file.name} can be loaded, for example"
                f" {record.source.removeprefix(f'{self._file.name}, ')}:"
                f" {fault.column or 'the line'} `{shortened(fault.raw or '')}`: {fault.rule}; nothing was changed"
            )
        self._tables = [table.drop_columns(LINE) for table in self._tables]
        if (places[1:] > places[:-1]).all():
            rows = pa.concat_tables(self._tables)
        else:
            parts = range(0, len(places), ROWS_AT_ONCE)
            rows = pa.concat_tables([self._rows(places[at : at + ROWS_AT_ONCE]) for at in parts])
        self._tables.clear()
        return rows

    def _load(self, table: pa.Table, keys: Numbers, candidates: Numbers) -> Numbers:
        """Load those candidates whose key no row has before them, and say which they are."""
        free = candidates[self._keys.find(keys[candidates]) < 0]
        _, first = np.unique(keys[free], return_index=True)
        new = free[np.sort(first)]
        self._tables.append(table.take(pa.array(new)) if len(new) < len(keys) else table)
        self._keys.add(keys[new], self._ends[-1])
        self._ends.append(self._ends[-1] + len(new))
        return new

    def _compare(
        self, table: pa.Table, keys: Numbers, rows: Numbers, good: NDArray[np.bool_]
    ) -> tuple[Numbers, list[tuple[int, int]]]:
        """Of some rows those that say what the loaded one of their key says, and those that say something else behind it.

        The latter stand beside the line of the loaded one.
        """
        places = self._keys.find(keys[rows])
        rows, places = rows[places >= 0], places[places >= 0]
        if not len(rows):
            return rows, []
        loaded, given = self._rows(places), table.take(pa.array(rows))
        before = loaded[LINE].to_numpy()
        same = good[rows] & _same_values(loaded.drop_columns(LINE), given)
        other = ~same & (before < given[LINE].to_numpy())
        return rows[same], list(zip(rows[other].tolist(), before[other].tolist(), strict=True))

    def _rows(self, places: Numbers) -> pa.Table:
        """The loaded rows at some places; each batch gives its own, for a `take` from all would copy them all."""
        batch_of = np.searchsorted(self._ends, places, side="right")
        order = np.argsort(batch_of, kind="stable")
        parts = []
        for at in np.unique(batch_of).tolist():
            inside = places[order][batch_of[order] == at] - self._ends[at - 1]
            parts.append(self._tables[at].take(pa.array(inside)))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(pa.array(back))


class _Keys:
    """The keys of loaded rows, and their places in the order in which they were loaded.

    A batch is a sorted run. Runs of keys that ascend over the batches are told apart by their ends; of others many are
    merged into one, so that rows in any order cost about what a sort of them costs.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Numbers, Numbers]] = []

    def add(self, keys: Numbers, start: int) -> None:
        """Put in keys that are not among these, of rows at the places from `start` on."""
        if len(keys):
            order = np.argsort(keys, kind="stable")
            self._runs.append((keys[order], start + order))
        if len(self._runs) > RUNS_AT_ONCE:
            self._merge()

    def find(self, keys: Numbers) -> Numbers:
        """The places of the rows that have some keys; -1 where none has."""
        order = np.argsort(keys, kind="stable")  # in order they are found at a tenth of the cost
        wanted, found = keys[order], np.full(len(keys), -1, dtype=np.int64)
        for run, places in self._runs:
            if len(wanted) and run[0] <= wanted[-1] and wanted[0] <= run[-1]:
                at = np.minimum(np.searchsorted(run, wanted), len(run) - 1)
                hit = run[at] == wanted
                found[order[hit]] = places[at[hit]]
        return found

    def places_in_order(self) -> Numbers:
        """The places of all rows in the order of their keys."""
        self._merge()
        return self._runs[0][1]

    def _merge(self) -> None:
        empty = np.empty(0, np.int64)
        keys = np.concatenate([empty, *(keys for keys, _ in self._runs)])
        places = np.concatenate([empty, *(places for _, places in self._runs)])
        order = np.argsort(keys, kind="stable")  # which merges what is in order
        self._runs = [(keys[order], places[order])]


def _same_values(ours: pa.Table, theirs: pa.Table) -> NDArray[np.bool_]:
    """In which rows all columns of one table have the values of the other; nothing equals nothing."""
    same = np.ones(ours.num_rows, dtype=bool)
    for name in ours.column_names:
        one, other = (_comparable(table[name]) for table in (ours, theirs))
        equal = pc.coalesce(pc.equal(one, other), pc.and_(one.is_null(), other.is_null()))
        same &= equal.to_numpy()
    return same


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that Arrow can compare: lists of ids as text."""
    if pa.types.is_list(column.type):
        return pc.binary_join(column.cast(pa.list_(pa.string())), ";")
    return column


class Rejected(Sequence[Record]):
    """The records of a file in the order of its lines, kept small: a million are some hundred megabytes of text, not of objects.

    The raw row of a record is the line as it is in the file under `text`, and its cells by column; a line that is no row
    has its text alone.
    """

    def __init__(self, file: CsvFile) -> None:
        self._file = file
        cells = pa.struct(dict.fromkeys(file.columns, pa.string()).items())
        columns = {LINE: pa.int64(), "text": pa.string(), "cells": cells, "faults": pa.list_(FAULT)}
        self._rows = pa.schema(columns.items()).empty_table()

    def add(self, batch: Batch, found: Sequence[Found]) -> None:
        """Put in what is not loaded of the next batch: its rows with a fault, and its lines that are no rows."""
        faults: dict[int, list[Mapping[str, str]]] = defaultdict(list)
        for row, column, rule in sorted(found, key=lambda fault: self._file.columns.index(fault[1])):
            faults[row].append({"column": column, "rule": rule})
        records = [
            {LINE: cells.pop(LINE), "cells": cells, "faults": rules}
            for cells, rules in zip(
                batch.rows.take(pa.array(faults, pa.int64())).to_pylist(), faults.values(), strict=True
            )
        ]
        records += [{LINE: line.line, "faults": [{"column": "", "rule": line.rule}]} for line in batch.unreadable]
        if records:
            in_order = sorted(records, key=lambda record: record[LINE])
            texts = [{**record, "text": batch.block.text(record[LINE])} for record in in_order]
            self._rows = pa.concat_tables([self._rows, pa.Table.from_pylist(texts, schema=self._rows.schema)])

    def _record(self, row: dict[str, Any]) -> Record:
        raw = {"text": row["text"], **(row["cells"] or {})}
        faults = tuple(Fault(fault["column"], fault["rule"], raw[fault["column"] or "text"]) for fault in row["faults"])
        return Record(faults, raw, f"{self._file.name}, line {row[LINE]}")

    def __len__(self) -> int:
        return self._rows.num_rows

    def __iter__(self) -> Any:
        for batch in self._rows.to_batches(max_chunksize=RECORDS_AT_ONCE):
            for row in batch.to_pylist():
                yield self._record(row)

    def __getitem__(self, at: Any) -> Any:
        places = range(len(self))[at]
        if isinstance(places, range):
            return [self[place] for place in places]
        return self._record(self._rows.slice(places, 1).to_pylist()[0])


def shortened(text: str) -> str:
    """Text as a message can hold it."""
    return text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + "…"
