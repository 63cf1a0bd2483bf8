"""The rows of a file of events: text of 61 fields between TABs, without a header, without quoting.

The rules, for a file of LF-ended lines of UTF-8 (the end of the last one may be missing):

* Every line is a row, the first one too, and an empty one. A quotation mark is a letter like others, and so is a blank.
* A row has 61 fields, and none has a NUL or a carriage return in it. An empty field is NULL, `NA` is text.
* Numbers, days and instants are read strictly (`values`), codes stay text.
* A row that breaks a rule, of these or of the contract, is rejected with all its faults. Of the others with one id the last
  is kept: a bad row neither takes the place of a good one nor gives way to it.
* A file in which more than half of the rows are bad is refused whole, as is one that has been saved again by another
  program, as far as that shows: by a byte-order mark, a header, line ends of CRLF (`detection`). A single bad row, of 61 fields of
  clean text that are not another program's, refuses no file, though it has no other row.
* So is a file with a line that is longer than any row, or with so many that most cannot be rows.
* A file without a byte has no rows: an interval without events.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from etl_assets.core.contracts import Fault, Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split_arrow, to_frame
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.files import Reason, file_name
from etl_assets.systems.events.format.detection import (
    is_of_another_format,
    mostly_bad,
    mostly_broken,
    reject_at_sight,
    reject_long_line,
)
from etl_assets.systems.events.format.values import READERS, cast

INTERVAL, ID = "file_interval", "global_event_id"
# The columns of a file in their order, which is that of the contract: it has no header that would name them.
RAW_COLUMNS: Mapping[str, str] = {
    name: column.kind.name.lower() for name, column in RawEvents.columns.items() if name != INTERVAL
}
NAMES = tuple(RAW_COLUMNS)
# What no field has in it, by the rule that it breaks.
FORBIDDEN = {"\0": "no NUL", "\r": "no carriage return", "\n": "no line feed"}
# What stands in a table of texts for a line that is no text: one field, which is too few.
NO_ROW = b"?"
# How our own tables spell a day and an instant: so they are in the raw row of a record that the contract has rejected.
SPELT = {
    "date": re.compile(r"(\d{4})-(\d\d)-(\d\d)"),
    "timestamp": re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:Z|\+00:00)"),
}


@dataclass(frozen=True)
class _Read:
    """The lines of a file, as far as they can be read.

    Attributes:
        rows: in the schema of `RawEvents`, in the order of the file.
        numbers: of the line of each row, from 1.
        records: of the other lines, by their numbers.
    """

    rows: pa.Table
    numbers: NDArray[np.int64]
    records: Mapping[int, Record]


def raw_events(content: bytes, *, interval: datetime) -> Split[pa.Table]:
    """The rows of a file of events that can be read; whether they keep the contract is not judged here.

    Args:
        content: the file, uncompressed.
        interval: the interval that it is of.

    Returns:
        Rows in the schema of `RawEvents`, in the order of the file, each id once; received = valid + rejected + deduplicated.
        The raw row of a record has `file_interval` and the fields by name, None where empty; a line that is not 61 fields of text
        is there as `text`.

    Raises:
        FileRejected: if it is not a file of events, or one that is no longer as it was; says what it seems to be.
    """
    read = _read(content, interval)
    rows = _last_of_each(read.rows)
    return Split(rows, list(read.records.values()), read.rows.num_rows - rows.num_rows)


def valid_events(content: bytes, *, interval: datetime) -> Split[pa.Table]:
    """The rows of a file of events that keep the contract, each id once; for the others see `raw_events`.

    Raises:
        FileRejected: as `raw_events`, and if more than half of the rows are bad by both together, unless there is one row only.
    """
    read, name = _read(content, interval), file_name(interval)
    judged = split_arrow(RawEvents, read.rows, source=name)
    # By their place among the rows that were read, with which the sources end.
    places = [int(record.source.rpartition(" ")[2]) for record in judged.records]
    broken = {
        number: replace(record, source=_source(interval, number))
        for number, record in zip(read.numbers[places].tolist(), judged.records, strict=True)
    }
    records = [record for _, record in sorted([*read.records.items(), *broken.items()], key=lambda item: item[0])]
    received = read.rows.num_rows + len(read.records)
    if 2 * len(records) > received > 1:
        raise mostly_broken(name, bad=len(records), rows=received, example=next(iter(broken.values())))
    rows = _last_of_each(judged.valid)
    return Split(rows, records, judged.valid.num_rows - rows.num_rows)


def _read(content: bytes, interval: datetime) -> _Read:
    """The lines of a file; raises FileRejected as `raw_events`."""
    name = file_name(interval)
    reject_at_sight(content, name)
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    reject_long_line(lines, name)
    texts, bad = _texts(lines)
    numbers = np.delete(np.arange(1, len(lines) + 1), [number - 1 for number in bad])
    table, readable = _typed(texts, interval)
    bad |= dict.fromkeys(numbers[~readable].tolist(), "values")
    if 2 * len(bad) > len(lines):
        kinds = list(bad.values())
        kind: Reason = max(("fields", "encoding", "values"), key=kinds.count)
        number = min(number for number in bad if bad[number] == kind)
        example = _record(lines[number - 1], number, interval)
        if len(lines) > 1 or kind != "values" or is_of_another_format(example.raw):
            raise mostly_bad(name, bad=len(bad), rows=len(lines), kind=kind, example=example)
    records = {number: _record(lines[number - 1], number, interval) for number in sorted(bad)}
    rows = table if readable.all() else table.filter(pa.array(readable))
    return _Read(rows, numbers[readable], records)


def corrected_events(raw: Sequence[Mapping[str, Any]], stored: pd.DataFrame) -> Split[pd.DataFrame]:
    """Lines that were in quarantine, as rows of their files.

    Args:
        raw: `file_interval`, and the fields by name or the whole line as `text`; corrected.
        stored: the rows of the same files that are stored. A line whose event is among them, as another row, is rejected: the
            feed has corrected it since.
    """
    rows, records = [arrow_schema(RawEvents).empty_table()], []
    for row in raw:
        line = (row["text"] if "text" in row else "\t".join(_spelt(name, row.get(name)) for name in NAMES)).encode()
        faults, _ = _judged(line)
        if faults:
            records.append(Record(tuple(faults), row))
            continue
        corrected = raw_events(line + b"\n", interval=datetime.fromisoformat(row[INTERVAL])).valid
        if _is_stored_otherwise(to_frame(corrected), stored):
            records.append(Record((Fault(ID, "the file has this event by now", row.get(ID)),), row))
        else:
            rows.append(corrected)
    return Split(to_frame(pa.concat_tables(rows)), records)


def _is_stored_otherwise(corrected: pd.DataFrame, stored: pd.DataFrame) -> bool:
    """Whether the event of the one corrected row is stored as another row."""
    same = stored[stored[ID].isin(corrected[ID])]
    return len(same) > 0 and not same[list(corrected.columns)].reset_index(drop=True).equals(corrected)


def _spelt(name: str, value: Any) -> str:
    """A value as the feed writes it."""
    text = "" if value is None else str(value)
    ours = SPELT[RAW_COLUMNS[name]].fullmatch(text) if RAW_COLUMNS[name] in SPELT else None
    return "".join(ours.groups()) if ours else text


def _texts(lines: Sequence[bytes]) -> tuple[list[pa.StringArray], dict[int, Reason]]:
    """The fields by column, NULL where they are empty, and by number from 1 the lines that have no 61 fields of text."""
    bad: dict[int, Reason] = {
        number: "encoding" if line.count(b"\t") == len(NAMES) - 1 else "fields"
        for number, line in enumerate(lines, 1)
        if not _is_text(line)
    }
    if len(bad) == len(lines):
        return [pa.array([], pa.string()) for _ in NAMES], bad

    def left_out(row: csv.InvalidRow) -> str:
        bad.setdefault(row.number, "fields")
        return "skip"

    clean = [NO_ROW if number in bad else line for number, line in enumerate(lines, 1)] if bad else lines
    content = b"\n".join(clean)
    table = csv.read_csv(
        pa.py_buffer(content),
        # One block, one thread: files are small, several may be read side by side, and rows have their numbers.
        read_options=csv.ReadOptions(use_threads=False, column_names=NAMES, block_size=len(content) + 1),
        parse_options=csv.ParseOptions(
            delimiter="\t", quote_char=False, double_quote=False, escape_char=False, invalid_row_handler=left_out
        ),
        convert_options=csv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(NAMES, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    return [column.combine_chunks() for column in table.columns], bad


def _is_text(line: bytes) -> bool:
    """Whether a line is text that Arrow reads as one row: not empty, without NUL and carriage return, in UTF-8."""
    if not line or b"\0" in line or b"\r" in line:
        return False
    try:
        return line.isascii() or bool(line.decode())
    except UnicodeDecodeError:
        return False


def _typed(texts: list[pa.StringArray], interval: datetime) -> tuple[pa.Table, NDArray[np.bool_]]:
    """The rows of these fields in the contract's schema, and in which of them all fields could be read."""
    schema = arrow_schema(RawEvents)
    columns = {INTERVAL: pa.repeat(pa.scalar(interval, schema.field(INTERVAL).type), len(texts[0]))}
    readable = np.ones(len(texts[0]), bool)
    for name, fields in zip(NAMES, texts, strict=True):
        values = cast(fields, RAW_COLUMNS[name], schema.field(name).type)
        columns[name] = values
        if values.null_count > fields.null_count:
            readable &= ~pc.and_(values.is_null(), fields.is_valid()).to_numpy(zero_copy_only=False)
    readable &= columns[ID].is_valid().to_numpy(zero_copy_only=False)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema), readable


def _last_of_each(table: pa.Table) -> pa.Table:
    """Without the rows whose id a later one has too."""
    ids = table[ID].to_numpy()
    if (np.diff(ids) > 0).all():  # as the feed has them
        return table
    _, from_the_end = np.unique(ids[::-1], return_index=True)
    return table if len(from_the_end) == len(ids) else table.take(pa.array(np.sort(len(ids) - 1 - from_the_end)))


def _record(line: bytes, number: int, interval: datetime) -> Record:
    """The record of a bad line, with all its faults."""
    faults, raw = _judged(line)
    return Record(tuple(faults), {INTERVAL: interval.isoformat(), **raw}, _source(interval, number))


def _source(interval: datetime, line: int) -> str:
    """Where a row came from, its line counted from 1."""
    return f"{file_name(interval)}, line {line}"


def _judged(line: bytes) -> tuple[list[Fault], dict[str, Any]]:
    """The faults of a line, and its raw row."""
    text = line.decode("utf-8", "backslashreplace")
    fields = text.split("\t")
    faults = []
    if len(fields) != len(NAMES):
        counted = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        faults.append(Fault("", f"{counted}, not {len(NAMES)}", text))
    try:
        line.decode()
    except UnicodeDecodeError as error:
        faults.append(Fault("", f"not UTF-8 text: byte {error.start + 1} is 0x{line[error.start]:02x}", text))
    if faults:
        return faults, {"text": text}
    raw = {name: field or None for name, field in zip(NAMES, fields, strict=True)}
    return [Fault(name, rule, field) for name, field in raw.items() for rule in _broken(name, field)], raw


def _broken(name: str, field: str | None) -> Iterator[str]:
    """The rules that a field breaks."""
    if field is None:
        if name == ID:
            yield "required"
        return
    forbidden = [rule for letter, rule in FORBIDDEN.items() if letter in field]
    yield from forbidden
    if not forbidden:
        try:
            READERS[RAW_COLUMNS[name]](field)
        except ValueError as error:
            yield str(error)
