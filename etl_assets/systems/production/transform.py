"""Records of a stream as rows of its table, judged.

Arrow reads all lines at once, more than a million a second. What it refuses, and rows in which something is missing or out of the
ordinary, are read line by line; what becomes of a record is the same either way.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts import Column, Contract, Fault, Record, Split
from etl_assets.core.contracts.arrow import ARROW_TYPES, arrow_schema
from etl_assets.core.contracts.cast import NUMBER, cast_column
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.contracts.epoch import instants
from etl_assets.core.contracts.validation import broken_rules, split_arrow
from etl_assets.core.sources.nesting import bounded_nesting
from etl_assets.errors import PermanentError
from etl_assets.systems.production.contracts import Stream

SEQUENCE = "sequence"
DOUBTFUL = "doubtful"
# So many lines at least are read one by one where Arrow refuses one of them; so many at most are divided in the middle.
FEW_LINES, SECTION_LINES = 16, 1000
BLOCK_BYTES = 1 << 20
# What the numbers are that a source writes for values of other kinds.
AS_NUMBER = {Kind.TIMESTAMP: Kind.FLOAT, Kind.ID: Kind.INT}
NUMBER_TEXT = re.compile(NUMBER)
EPOCH = datetime.fromtimestamp(0, UTC)


def parsed(stream: Stream, lines: bytes, *, first: int) -> Split[pa.Table]:
    """Rows of the stream's table, from lines as its API gives them.

    Numbers may be text, and ids may be whole numbers. A time is Unix time (`contracts.epoch`), or ISO 8601 text with its zone. A value that is null or NaN is
    NULL. Whatever else is not as the contract says rejects its record: infinity, truth values, a field that is missing or
    there twice, a record that is no object, a line that is not JSON. Other fields are ignored.

    Args:
        lines: one record per line: `{"sequence": N, "record": {…}}`, or `{"sequence": N, "text": "…"}` for one that is not JSON.
        first: sequence of the first record; the others follow without a hole.

    Returns:
        Valid rows in the contract's schema, in the order of their sequence, and a record per rejected row. Its raw row has
        the contract's columns, so that it can be corrected and replayed, and the text received under `record`.

    Raises:
        PermanentError: if a line says another sequence than its place.
    """
    contract, text = stream.contract, _Text(lines)
    if not len(text):
        return Split(arrow_schema(contract).empty_table())
    read = pa.concat_tables(_read(stream, text, range(first, first + len(text))))
    doubtful = read[DOUBTFUL].to_numpy()
    table = read.select(list(contract.columns))
    doubtful[[row for _, _, row in broken_rules(contract, table)]] = True
    if not doubtful.any():
        return Split(table.cast(arrow_schema(contract)))
    rows = table.filter(pa.array(~doubtful)).cast(arrow_schema(contract))
    at = np.flatnonzero(doubtful).tolist()
    rest = _read_each(stream, [text[row : row + 1].rstrip(b"\n") for row in at], [first + row for row in at])
    valid = pa.concat_tables([rows, rest.valid])
    return Split(valid.sort_by(SEQUENCE) if rest.valid.num_rows else rows, rest.records)


class _Text:
    """Lines, by their numbers from 0.

    Attributes:
        alone: for each line whether it begins and ends as an object does: Arrow takes several objects on one line, and one on
            several.
    """

    def __init__(self, lines: bytes) -> None:
        data = lines.replace(b"\r\n", b"\n") if b"\r" in lines else lines
        self._data = data if data.endswith(b"\n") or not data else data + b"\n"
        view = np.frombuffer(self._data, np.uint8)
        self._starts = np.append(0, np.flatnonzero(view == ord("\n")) + 1)
        self.alone = (view[self._starts[:-1]] == ord("{")) & (view[self._starts[1:] - 2] == ord("}"))

    def __len__(self) -> int:
        return len(self.alone)

    def __getitem__(self, lines: slice) -> bytes:
        start, stop, _ = lines.indices(len(self))
        return self._data[self._starts[start] : self._starts[stop]]


def _read(stream: Stream, text: _Text, sequences: range, start: int = 0) -> Iterator[pa.Table]:
    """Typed columns of the lines from `start` on, as many as there are sequences, with a column `DOUBTFUL`.

    What Arrow refuses is divided until it takes all but a few lines, which are doubtful then.
    """
    stop = start + len(sequences)
    found = _by_arrow(stream, text[start:stop]) if text.alone[start:stop].all() else None
    if found is not None and found[SEQUENCE].equals(pa.chunked_array([pa.array(sequences)])):
        yield _typed(stream, found)
    elif len(sequences) <= FEW_LINES:
        nothing = {column.name: pa.nulls(len(sequences), column.type) for column in arrow_schema(stream.contract)}
        yield pa.table(nothing | {DOUBTFUL: np.ones(len(sequences), dtype=bool)})
    else:
        size = SECTION_LINES if len(sequences) > SECTION_LINES else -(-len(sequences) // 2)
        for at in range(0, len(sequences), size):
            yield from _read(stream, text, sequences[at : at + size], start + at)


def _by_arrow(stream: Stream, text: bytes) -> pa.Table | None:
    """The lines as Arrow reads them, if each field has in all of them the form that it has in the first."""
    import pyarrow.json

    if b"-NaN" in text:
        return None
    first = _load(text[: text.index(b"\n")])
    record = first.get("record") if isinstance(first, dict) else None
    given = record if isinstance(record, dict) else {}
    types = []
    for name, column in stream.fields.items():
        kind = stream.contract.columns[column].kind
        number = ARROW_TYPES[AS_NUMBER.get(kind, kind)]
        types.append(pa.field(name, pa.string() if isinstance(given.get(name), str) else number))
    schema = pa.schema([pa.field(SEQUENCE, pa.int64()), pa.field("record", pa.struct(types))])
    try:
        if not text.isascii():
            text.decode()  # Arrow does not look whether it is UTF-8
        return pyarrow.json.read_json(
            pa.BufferReader(text),
            # One thread is faster than two, and leaves the other processor to the database.
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (UnicodeDecodeError, pa.ArrowException):
        return None


def _typed(stream: Stream, found: pa.Table) -> pa.Table:
    """Fields as columns of the contract's types; a row is doubtful where there is nothing, or nothing that fits."""
    columns = {SEQUENCE: found[SEQUENCE].combine_chunks()}
    doubtful = np.zeros(found.num_rows, dtype=bool)
    for name, values in zip(stream.fields.values(), found["record"].combine_chunks().flatten(), strict=True):
        columns[name] = _as_type(values, stream.contract.columns[name])
        # NaN becomes NULL, and is as good as any number.
        number = pa.types.is_floating(values.type) and pa.types.is_floating(columns[name].type)
        doubtful |= (values if number else columns[name]).is_null().to_numpy(zero_copy_only=False)
    return pa.table({name: columns[name] for name in stream.contract.columns} | {DOUBTFUL: doubtful})


def _as_type(values: pa.Array, column: Column) -> pa.Array:
    """A field of all records in its column's type, NULL where nothing fits."""
    if column.kind is not Kind.TIMESTAMP:
        return cast_column(values, column).values
    if pa.types.is_string(values.type):
        try:
            values = values.cast(pa.float64())
        except pa.ArrowInvalid:
            return cast_column(values, column).values
    micros, good = instants(values.to_numpy(zero_copy_only=False))
    return pa.array(micros, mask=~good).cast(ARROW_TYPES[Kind.TIMESTAMP])


@dataclass
class _Line:
    """One record, read by itself.

    Attributes:
        text: what was received for it.
        cells: by column; none if it is no record at all.
        faults: those that can be seen before its cells are judged.
    """

    sequence: int
    text: str
    cells: dict[str, Any]
    faults: tuple[Fault, ...] = ()

    def raw(self, contract: type[Contract]) -> dict[str, Any]:
        """The row for quarantine: cells as they were received, times in a form that the contract reads."""
        cells = {name: self.cells.get(name) for name in contract.columns}
        times = {name: cell.isoformat() for name, cell in cells.items() if isinstance(cell, datetime)}
        return {**cells, **times, SEQUENCE: self.sequence, "record": self.text}


class _Ambiguous(dict[str, Any]):
    """A JSON object in which names stand twice."""

    names: frozenset[str] = frozenset()


def _read_each(stream: Stream, lines: Sequence[bytes], sequences: Sequence[int]) -> Split[pa.Table]:
    """The lines one by one."""
    contract = stream.contract
    read = [_line(stream, line, sequence) for line, sequence in zip(lines, sequences, strict=True)]
    for name, column in contract.columns.items():
        if column.kind is Kind.TIMESTAMP:
            _set_instants(read, name)
    whole = [line for line in read if line.cells]
    columns = {name: pd.Series([line.cells.get(name) for line in whole], dtype=object) for name in contract.columns}
    columns[SEQUENCE] = pd.Series([line.sequence for line in whole], dtype="int64")
    judged = split_arrow(contract, pd.DataFrame(columns), raw=[{SEQUENCE: line.sequence} for line in whole])
    broken = {record.raw[SEQUENCE]: record.faults for record in judged.records}
    records = []
    for line in read:
        seen = {fault.column for fault in line.faults}
        others = (fault for fault in broken.get(line.sequence, ()) if fault.column not in seen)
        if faults := (*line.faults, *others):
            records.append(Record(faults, line.raw(contract), f"stream {stream.name}, sequence {line.sequence}"))
    rejected = pa.array([record.raw[SEQUENCE] for record in records], pa.int64())
    return Split(judged.valid.filter(pc.invert(pc.is_in(judged.valid[SEQUENCE], value_set=rejected))), records)


def _set_instants(read: Sequence[_Line], name: str) -> None:
    """Put times in the place of the numbers of a column; what is no time stays, and is rejected for that."""
    found = [(line, number) for line in read if (number := _number(line.cells.get(name))) is not None]
    micros, good = instants(np.array([number for _, number in found], dtype=np.float64))
    for (line, _), instant, is_time in zip(found, micros.tolist(), good.tolist(), strict=True):
        if is_time:
            line.cells[name] = EPOCH + timedelta(microseconds=instant)


def _number(cell: Any) -> float | None:
    """The number that a cell is or spells."""
    spelled = isinstance(cell, str) and NUMBER_TEXT.fullmatch(cell.strip())
    is_number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    try:
        return float(cell) if spelled or is_number else None
    except OverflowError:
        return None


def _line(stream: Stream, line: bytes, sequence: int) -> _Line:
    """One line, as far as it can be read.

    Raises:
        PermanentError: if it says another sequence than its place.
    """
    text, found = line.decode(errors="backslashreplace"), _load(line)
    claimed = found.get(SEQUENCE) if isinstance(found, dict) else None
    if type(claimed) is int and claimed != sequence:
        raise PermanentError(
            f"stream {stream.name}: the record in place {sequence} says that it is {claimed}: its API must number records"
            " from 1 without a hole; correct that, then begin anew with `etl-assets production reset --yes`"
        )
    if claimed is None or (isinstance(found, _Ambiguous) and found.names & {SEQUENCE, "record"}):
        fault = Fault("record", "not a line of the stream: not JSON, or without sequence", text)
        return _Line(sequence, text, {}, (fault,))
    if isinstance(found.get("text"), str) and "record" not in found:
        return _Line(sequence, found["text"], {}, (Fault("record", "not JSON", found["text"]),))
    head, record = f'{{"sequence":{sequence},"record":', found.get("record")
    text = text.strip()[len(head) : -1] if text.startswith(head) else text
    if not isinstance(record, dict):
        return _Line(sequence, text, {}, (Fault("record", "not an object", record),))
    twice = record.names if isinstance(record, _Ambiguous) else frozenset()
    cells = {column: record.get(name) for name, column in stream.fields.items()}
    faults = tuple(
        Fault(column, f"field {name} is {'there twice' if name in record else 'missing'}", cells[column])
        for name, column in stream.fields.items()
        if name not in record or name in twice
    )
    return _Line(sequence, text, cells, faults)


def _load(line: bytes) -> Any:
    """The line as JSON; None if it is not."""
    try:
        with bounded_nesting():
            return DECODER.decode(line.decode())
    except ValueError:
        return None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        found = _Ambiguous(found)
        found.names = frozenset(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_members)
