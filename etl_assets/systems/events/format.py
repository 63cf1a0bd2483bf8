"""The rows of a file of events: text of 61 fields between TABs, without a header, without quoting.

The rules, for a file of LF-ended lines of UTF-8 (the end of the last one may be missing):

* Every line is a row, the first one too, and an empty one. A quotation mark is a letter like others, and so is a blank.
* A row has 61 fields, and none has a NUL or a carriage return in it. An empty field is NULL, `NA` is text.
* Numbers, days and instants are read strictly (`READERS`), codes stay text.
* A row that breaks a rule, of these or of the contract, is rejected with all its faults. Of the others with one id the last
  is kept: a bad row neither takes the place of a good one nor gives way to it.
* A file in which more than half of the rows are bad is refused whole, as is one that has been saved again by another
  program, as far as that shows: by a byte-order mark, a header, line ends of CRLF. A single bad row, of 61 fields of
  clean text that are not another program's, refuses no file, though it has no other row.
* So is a file with a line that is longer than any row, or with so many that most cannot be rows.
* A file without a byte has no rows: an interval without events.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any, NamedTuple

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
from etl_assets.systems.events.files import FileRejected, Reason, file_name, instant, quoted

INTERVAL, ID = "file_interval", "global_event_id"
# The columns of a file in their order, which is that of the contract: it has no header that would name them.
RAW_COLUMNS: Mapping[str, str] = {
    name: column.kind.name.lower() for name, column in RawEvents.columns.items() if name != INTERVAL
}
NAMES = tuple(RAW_COLUMNS)
FIELDS = len(NAMES)
# What no field has in it, by the rule that it breaks.
FORBIDDEN = {"\0": "no NUL", "\r": "no carriage return", "\n": "no line feed"}
# How our own tables spell a day and an instant: so they are in the raw row of a record that the contract has rejected.
SPELT = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d):(\d\d)(?:Z|\+00:00))?")


class _Read(NamedTuple):
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
    lines = [int(read.numbers[int(record.source.rpartition(" ")[2])]) for record in judged.records]
    broken = {
        line: replace(record, source=_source(interval, line))
        for line, record in zip(lines, judged.records, strict=True)
    }
    records = [record for _, record in sorted([*read.records.items(), *broken.items()], key=lambda item: item[0])]
    received = read.rows.num_rows + len(read.records)
    if 2 * len(records) > received > 1:
        fault = (example := next(iter(broken.values()))).faults[0]
        cell = fault.column if fault.raw is None else f"{fault.column} {quoted(str(fault.raw))}"
        raise _mostly_bad(name, len(records), received, example, f"{cell}, ", {}, "values")
    rows = _last_of_each(judged.valid)
    return Split(rows, records, judged.valid.num_rows - rows.num_rows)


def _read(content: bytes, interval: datetime) -> _Read:
    """The lines of a file; raises FileRejected as `raw_events`."""
    name = file_name(interval)
    _reject_at_sight(content, name)
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    _reject_long_line(lines, name)
    bad: dict[int, Reason] = {
        number: "encoding" if tabs == FIELDS - 1 else "fields"
        for number, line in enumerate(lines, 1)
        if (tabs := line.count(b"\t")) != FIELDS - 1 or not _is_text(line)
    }
    numbers = np.delete(np.arange(1, len(lines) + 1), [number - 1 for number in bad])
    table, readable = _typed(_texts([lines[number - 1] for number in numbers] if bad else lines), interval)
    bad |= dict.fromkeys(numbers[~readable].tolist(), "values")
    if 2 * len(bad) > len(lines):
        kinds = list(bad.values())
        kind: Reason = max(("fields", "encoding", "values"), key=kinds.count)
        number = min(number for number in bad if bad[number] == kind)
        example = _record(lines[number - 1], number, interval)
        if len(lines) > 1 or kind != "values" or _told(example.raw, "values")[2] == "format":
            fault = example.faults[0]
            cell = f"{fault.column} {quoted(fault.raw)}, " if fault.column and fault.raw else ""
            raise _mostly_bad(name, len(bad), len(lines), example, cell, example.raw, kind)
    records = {number: _record(lines[number - 1], number, interval) for number in sorted(bad)}
    return _Read(table if readable.all() else table.filter(pa.array(readable)), numbers[readable], records)


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
    ours = SPELT.fullmatch(text) if RAW_COLUMNS[name] in ("date", "timestamp") else None
    return "".join(filter(None, ours.groups())) if ours else text


def _is_text(line: bytes) -> bool:
    """Whether a line is text that Arrow reads as one row: without NUL and carriage return, in UTF-8."""
    if b"\0" in line or b"\r" in line:
        return False
    try:
        return line.isascii() or bool(line.decode())
    except UnicodeDecodeError:
        return False


def _texts(lines: list[bytes]) -> list[pa.StringArray]:
    """The fields of rows by column, NULL where they are empty."""
    if not lines:
        return [pa.array([], pa.string()) for _ in NAMES]
    content = b"\n".join(lines)
    table = csv.read_csv(
        pa.py_buffer(content),
        # One block, one thread: files are small, and several may be read side by side.
        read_options=csv.ReadOptions(use_threads=False, column_names=NAMES, block_size=len(content) + 1),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False, double_quote=False, escape_char=False),
        convert_options=csv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(NAMES, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    return [column.combine_chunks() for column in table.columns]


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
    if len(fields) != FIELDS:
        counted = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        faults.append(Fault("", f"{counted}, not {FIELDS}", text))
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


# The fields of a row as values, strictly: what a file of the feed does not write is not guessed at. No blanks around a number, no plus
# before it, no underscores, nothing infinite; a day is one of the calendar. Whether a value can be right is judged by the contract.

WHOLE = re.compile(r"(-?)0*([0-9]{1,19})")
NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
DAY = re.compile(r"[0-9]{8}")

# Of text in these letters alone Arrow reads what is read here, or fails.
LETTERS = {"int": b"-0123456789", "float": b"-.0123456789eE"}


def whole(text: str) -> int:
    """A whole number of 64 bits; raises ValueError with the rule that the text breaks, as do all here."""
    matched = WHOLE.fullmatch(text)
    if matched is None:
        raise ValueError("not a whole number")
    value = int(matched[1] + matched[2])
    if not -(2**63) <= value < 2**63:
        raise ValueError("not an integer of 64 bits")
    return value


def number(text: str) -> float:
    """A finite number, with an exponent or without."""
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError("not a number")
    return value


def day(text: str) -> date:
    """A day of the calendar, YYYYMMDD."""
    if DAY.fullmatch(text):
        with contextlib.suppress(ValueError):
            return date.fromisoformat(text)
    raise ValueError("not a day (YYYYMMDD)")


READERS: Mapping[str, Callable[[str], Any]] = {
    "int": whole,
    "float": number,
    "text": str,
    "date": day,
    "timestamp": instant,
}


def cast(texts: pa.StringArray, kind: str, target: pa.DataType) -> pa.Array:
    """A column of fields as values, NULL where a field is empty and where it cannot be read.

    Args:
        texts: the fields, NULL where they are empty.
        kind: of the values, by the names of `READERS`.
        target: the Arrow type that the kind has.
    """
    if kind == "text":
        return texts
    written = texts.buffers()[2]
    if kind in LETTERS and not (written and written.to_pybytes().translate(None, LETTERS[kind])):
        with contextlib.suppress(pa.ArrowInvalid):
            values = texts.cast(target)
            if pc.all(pc.is_finite(values), min_count=0).as_py() is not False:
                return values
    return _each(texts, READERS[kind], target)


def _each(texts: pa.StringArray, read: Callable[[str], Any], target: pa.DataType) -> pa.Array:
    """The values, each different text read once: a file has few days, and one instant."""
    coded = texts.dictionary_encode()
    values: list[Any] = []
    for text in coded.dictionary.to_pylist():
        try:
            values.append(read(text))
        except ValueError:
            values.append(None)
    return pa.array(values, target).take(coded.indices)


# Files that are rejected whole: text that is not a file of the feed, and what it is instead, as far as that can be told.

MARKS = (
    (b"\xef\xbb\xbf", "begins with a byte-order mark"),
    (b"\xff\xfe", "is text in UTF-16"),
    (b"\xfe\xff", "is text in UTF-16"),
)
# A name of a column, by which no event begins: the id of an event is a number.
NAME_OF_COLUMN = re.compile(rb"[\"']?[A-Za-z_][A-Za-z0-9_ ]*[\"']?")
FIELDS_OF_1_0 = (57, 58)
SPREADSHEET = "a spreadsheet, or another program, has saved it again"
OWN_FILE = "take the file as the feed has it"
SEPARATORS = ((";", "semicolons"), (",", "commas"))
# A line without a TAB and with so many of another separator has its fields between those.
MANY = 40
# A row has a TAB behind each field but the last, an id, and a line feed.
SHORTEST_ROW_BYTES = FIELDS + 1
# Up to this size a file is judged line by line, which says more of it; beyond, lines that are hardly any bytes cost memory a
# hundred times their own.
LARGE_BYTES = 2**20
# Rows have some 400 bytes. A longer line than this would be a record that no quarantine should have to hold.
LONGEST_LINE_BYTES = 2**20
# Of a long line so much is looked at to tell what it is.
HEAD_BYTES = 2**16
ROUNDED = re.compile(r"[0-9][.,][0-9]+E\+?[0-9]+", re.IGNORECASE)


def _reject_at_sight(content: bytes, name: str) -> None:
    """Raises FileRejected for a file that begins as no file of the feed does, though its other rows may be in order.

    A file with a byte-order mark or a header is refused as one that has been saved again: nobody can tell what else that has changed.
    A large one is refused if more than half of its lines are bad by their number: not all can be long enough for a row.
    """
    for mark, what in MARKS:
        if content.startswith(mark):
            raise FileRejected(name, f"{what}: {SPREADSHEET}", OWN_FILE, "format")
    first = content[:4096].partition(b"\n")[0]
    for separator in (b"\t", b";", b","):
        names = first.split(separator)
        if len(names) > 1 and all(NAME_OF_COLUMN.fullmatch(cell) for cell in names[:3]):
            words = quoted(first.decode("utf-8", "backslashreplace"))
            if len(names) < MANY:
                raise FileRejected(
                    name, f"begins with {words}, where a file of the feed has an event", OWN_FILE, "format"
                )
            what = f"begins with a header, {words}, which no file of the feed has"
            raise FileRejected(name, f"{what}: {SPREADSHEET}", OWN_FILE, "format")
    if len(content) > LARGE_BYTES:
        lines = content.count(b"\n") + (not content.endswith(b"\n"))
        if lines > 2 * ((len(content) + 1) // SHORTEST_ROW_BYTES):
            counted = f"has {lines:,} lines in {len(content):,} bytes, too short for rows of {FIELDS} fields"
            raise _rejected(name, counted, {"text": _head(first)}, "fields")


def _reject_long_line(lines: Sequence[bytes], name: str) -> None:
    """Raises FileRejected for a file with a line that is longer than any row."""
    longest = max(map(len, lines), default=0)
    if longest > LONGEST_LINE_BYTES:
        number = next(number for number, line in enumerate(lines) if len(line) == longest)
        counted = f"line {number + 1:,} has {longest:,} bytes, and no row is as long"
        raise _rejected(name, counted, {"text": _head(lines[number])}, "fields")


def _head(line: bytes) -> str:
    return line[:HEAD_BYTES].decode("utf-8", "backslashreplace")


def _mostly_bad(
    name: str, bad: int, rows: int, example: Record, cell: str, raw: Mapping[str, Any], kind: Reason
) -> FileRejected:
    """The refusal of a file in which more than half of the rows are bad: then not they are wrong, but the file.

    Args:
        example: the first that is bad as most of them are, and in which cell.
        raw: what tells of which program or format the file is.
        kind: how most of these are bad.
    """
    where = f"{example.source.rpartition(', ')[2]}: {cell}{example.faults[0].rule}"
    return _rejected(name, f"{bad:,} of {rows:,} rows cannot be taken ({where})", raw, kind)


def _rejected(name: str, counted: str, raw: Mapping[str, Any], kind: Reason) -> FileRejected:
    """The refusal of a file by what was counted in it, and by what one of its lines seems to be."""
    what, remedy, reason = _told(raw, kind)
    return FileRejected(name, f"{counted}; {what}" if what else counted, remedy, reason)


def _told(raw: Mapping[str, Any], kind: Reason) -> tuple[str, str, Reason]:
    """What a file is by the raw row of one of its lines, what to do, and the reason."""
    line: str = raw.get("text") or ""
    separated = line.count("\t") + 1
    if line.lstrip().startswith("<"):
        return "it is a web page", "ask the feed again, or whatever stands before it", "format"
    if separated in FIELDS_OF_1_0:
        remedy = f"take the file of format 2.0, which has {FIELDS} fields"
        return "it is a file of format 1.0", remedy, "format"
    for separator, words in SEPARATORS:
        if separated == 1 and line.count(separator) >= MANY:
            return f"its fields are separated by {words}: {SPREADSHEET}", OWN_FILE, "format"
    if (raw.get("source_url") or "").endswith("\r") or ROUNDED.fullmatch(raw.get("date_added") or ""):
        return SPREADSHEET, OWN_FILE, "format"
    return "", f"it is no file of events, or damaged: {OWN_FILE}", kind
