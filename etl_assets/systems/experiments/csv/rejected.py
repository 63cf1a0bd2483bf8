"""Rows that are not loaded, kept small: a million of them are some hundred megabytes of text, not of objects."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa

from etl_assets.core.contracts import Fault, Record
from etl_assets.systems.experiments.csv.files import Batch, CsvFile

# A row of a batch, one of the file's columns, and the rule that its cell breaks.
Found = tuple[int, str, str]

RECORDS_AT_ONCE = 4096
FAULT = pa.struct([pa.field("column", pa.string()), pa.field("rule", pa.string())])


class Rejected(Sequence[Record]):
    """The records of a file, in the order of its lines, each made when it is asked for.

    The raw row of a record is the line as it is in the file under `text`, and its cells by column; a line that is no row
    has its text alone.
    """

    def __init__(self, file: CsvFile) -> None:
        self._file = file
        cells = pa.struct([pa.field(name, pa.string()) for name in file.columns])
        self._schema = pa.schema(
            {"line": pa.int64(), "text": pa.string(), "cells": cells, "faults": pa.list_(FAULT)}.items()
        )
        self._rows = self._schema.empty_table()

    def add(self, batch: Batch, found: Sequence[Found]) -> None:
        """Put in what is not loaded of the next batch: its rows with a fault, and its lines that are no rows."""
        if found or batch.unreadable:
            added = [part for part in (self._broken(batch, found), self._unreadable(batch)) if part.num_rows]
            in_order = added[0] if len(added) == 1 else pa.concat_tables(added).sort_by("line")
            self._rows = pa.concat_tables([self._rows, in_order])

    def _broken(self, batch: Batch, found: Sequence[Found]) -> pa.Table:
        place = {name: at for at, name in enumerate(self._file.columns)}
        ordered = sorted(found, key=lambda fault: (fault[0], place[fault[1]]))
        rows, starts = np.unique(np.array([row for row, _, _ in ordered], dtype=np.int64), return_index=True)
        taken = batch.rows.take(pa.array(rows))
        faults = pa.StructArray.from_arrays(
            [
                pa.array([name for _, name, _ in ordered], pa.string()),
                pa.array([r for _, _, r in ordered], pa.string()),
            ],
            fields=list(FAULT),
        )
        cells = taken.select(list(self._file.columns)).to_struct_array()
        return pa.table(
            [
                taken["line"],
                pa.array([batch.text(row) for row in rows.tolist()], pa.string()),
                cells.cast(self._schema.field("cells").type),
                pa.ListArray.from_arrays(pa.array(np.append(starts, len(ordered)), pa.int32()), faults),
            ],
            schema=self._schema,
        )

    def _unreadable(self, batch: Batch) -> pa.Table:
        lines = [
            {"line": line.line, "text": line.text, "faults": [{"column": "", "rule": line.rule}]}
            for line in batch.unreadable
        ]
        return pa.Table.from_pylist(lines, schema=self._schema)

    def _record(self, row: dict[str, Any]) -> Record:
        raw = {"text": row["text"], **(row["cells"] or {})}
        faults = tuple(Fault(fault["column"], fault["rule"], raw[fault["column"] or "text"]) for fault in row["faults"])
        return Record(faults, raw, f"{self._file.name}, line {row['line']}")

    def __len__(self) -> int:
        return self._rows.num_rows

    def __iter__(self) -> Iterator[Record]:
        for batch in self._rows.to_batches(max_chunksize=RECORDS_AT_ONCE):
            for row in batch.to_pylist():
                yield self._record(row)

    @overload
    def __getitem__(self, at: int) -> Record: ...

    @overload
    def __getitem__(self, at: slice) -> list[Record]: ...

    def __getitem__(self, at: int | slice) -> Record | list[Record]:
        chosen = range(len(self))[at]
        if isinstance(chosen, range):
            return [self[one] for one in chosen]
        return self._record(self._rows.slice(chosen, 1).to_pylist()[0])
