"""The answers of the source, JSON or Arrow, as minutes: pure functions from bytes to tables.

Both forms, and the two ways in which JSON is read, end in the same judgement of cells, so that they give the same rows. Nothing here opens
a connection; what came in whole over HTTP is still looked at for its own end (that of the array, the stream's mark).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from etl_assets.core.contracts import Column, Fault, Record
from etl_assets.core.contracts.cast import Cast, cast_column
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.sources.http.outcomes import MalformedAnswer, parse_json, refuse_page
from etl_assets.errors import ContractError, PermanentError

TIMESTAMP = "timestamp"
POSITION = "position"
ARROW_STREAM = "application/vnd.apache.arrow.stream"
ACCEPT = f"{ARROW_STREAM}, application/json;q=0.5"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"

_BLANKS = b" \t\r\n"
# The blanks around the comma between two objects of an array that is written the usual ways.
_LONGEST_GAP = 16
_BLOCK_BYTES = 1024 * 1024
_INSTANT = pa.timestamp("us", tz="UTC")

_Cells: TypeAlias = pd.Series | pa.ChunkedArray | pa.Array


class UnknownColumns(PermanentError):
    """The source does not know columns that it was asked for: `columns`."""

    def __init__(self, message: str, *, columns: Sequence[str]) -> None:
        super().__init__(message)
        self.columns = tuple(columns)


@dataclass(frozen=True)
class Question:
    """What an answer is read for.

    Attributes:
        columns: the signals asked for.
        start, end: the stretch of time that is wanted, aware; the end is not in it.
        zone: IANA name of the zone of times that are written without one.
        request: as messages name it.
    """

    columns: tuple[str, ...]
    start: datetime
    end: datetime
    zone: str
    request: str


@dataclass(frozen=True)
class Minutes:
    """What the source answered for one turbine and one stretch of time.

    Received rows = rows of the table + outside + rejected.

    Attributes:
        table: `timestamp` (timestamp[us, UTC]), one float64 column per column asked for (NULL where the source has none,
            null or NaN), `position` (int64, place in the answer, from 0); in order of arrival, only rows in [start, end).
        outside: rows outside of [start, end), left out: some servers include the end.
        rejected: rows that cannot be read: no time or none that can be told, no number, an infinite one, no object.
        rejected_at: the instant of each, aware, in UTC; None where it cannot be told.
    """

    table: pa.Table
    outside: int
    rejected: Sequence[Record]
    rejected_at: Sequence[datetime | None]


@dataclass(frozen=True)
class _Judged:
    """The cells in their types, and what is wrong with them: column and rule by row."""

    instants: pa.Array
    values: Mapping[str, pa.Array]
    faults: Mapping[int, Sequence[tuple[str, str]]]


def read_minutes(content_type: str, body: bytes, question: Question) -> Minutes:
    """The minutes in a body: an Arrow stream if it is declared as one, else JSON whatever is declared.

    A number that is written as text is read; any other text where a number should be rejects its row, as do infinite
    numbers and, in a zone with daylight saving, times without an offset in the hour that occurs twice or not at all.

    Raises:
        MalformedAnswer: if the body is empty, a page, cut off, or not of its form.
        ContractError: if it is no array of rows, none of the rows has a time, or a column of an Arrow stream is of another kind.
        UnknownColumns: if there are rows and none of them has a column asked for.
    """
    if content_type.partition(";")[0].strip().lower() == ARROW_STREAM:
        return arrow_minutes(body, question)
    return quick_minutes(body, question) or exact_minutes(body, question)


def arrow_minutes(body: bytes, question: Question) -> Minutes:
    """The minutes in an Arrow IPC stream; as `read_minutes`."""
    table = _arrow_table(body)
    if table.num_rows:
        _require(question, table.column_names)
    cells = {name: table[name] if table.num_rows else pa.nulls(0) for name in (TIMESTAMP, *question.columns)}
    return _minutes(_judged(cells, question), lambda row: _as_object(table, row), question)


def quick_minutes(body: bytes, question: Question) -> Minutes | None:
    """The minutes in a JSON array that is as it should be; None where only `exact_minutes` can tell."""
    table = _json_table(body, question.columns)
    if table is None:
        return None
    judged = _judged({name: table[name] for name in table.column_names}, question)
    return None if judged.faults else _minutes(judged, _no_row, question)


def exact_minutes(body: bytes, question: Question) -> Minutes:
    """The minutes in any JSON array, value by value; as `read_minutes`. NaN and Infinity count as JSON.

    An element that is no object is a row with nothing in it, and rejected as that.
    """
    elements = parse_json(body, parse_constant=float)
    if not isinstance(elements, list):
        raise ContractError(f"turbines API answered {question.request} with {_kind(elements)}, not with an array")
    objects = [element if isinstance(element, dict) else {} for element in elements]
    if objects:
        _require(question, list(dict.fromkeys(chain.from_iterable(objects))))
    names = (TIMESTAMP, *question.columns)
    cells = {name: pd.Series([row.get(name) for row in objects], dtype=object) for name in names}
    return _minutes(_judged(cells, question), lambda row: elements[row], question)


def _arrow_table(body: bytes) -> pa.Table:
    if not body:
        raise MalformedAnswer("an empty body")
    refuse_page(body)
    if not body.endswith(END_OF_STREAM):
        # Arrow itself takes a stream that breaks off between two batches for a whole one.
        raise MalformedAnswer("an Arrow stream without its end mark: it is cut off, or is none")
    source = pa.BufferReader(body)
    try:
        with pa.ipc.open_stream(source) as reader:
            table = reader.read_all()
            table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise MalformedAnswer(f"a broken Arrow stream ({str(error).splitlines()[0]})") from None
    if source.tell() != len(body):
        raise MalformedAnswer("something behind the end of its Arrow stream")
    if len(set(table.column_names)) != table.num_columns:
        raise MalformedAnswer("an Arrow stream with two columns of one name")
    return table


def _as_object(table: pa.Table, row: int) -> dict[str, Any]:
    """A row as Python has it; a time that Python cannot hold as its count of units."""
    values: dict[str, Any] = {}
    for name in table.column_names:
        cell = table[name][row]
        try:
            values[name] = cell.as_py()
        except (OverflowError, ValueError):
            values[name] = cell.value
    return values


def _json_table(body: bytes, columns: Sequence[str]) -> pa.Table | None:
    """Times as text, and numbers, one row per object; None where only the exact way can tell.

    That is also so where a column has no value in any row: whether the source knows it is then not to be seen.
    """
    lines = _as_lines(body)
    if lines is None:
        return None
    count, text = lines
    schema = pa.schema([(TIMESTAMP, pa.string()), *((name, pa.float64()) for name in columns)])
    try:
        table = arrow_json.read_json(
            pa.BufferReader(pa.py_buffer(text)),
            # One thread: answers are read side by side, and those of a day are small.
            arrow_json.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return None
    whole = table.num_rows == count and all(table[name].null_count < count for name in columns)
    return table if whole else None


def _as_lines(body: bytes) -> tuple[int, np.ndarray] | None:
    """The number of objects in an array of flat ones, and the array with one object per line; None where that is not certain.

    Certain it is where braces alternate and between any two objects there are the same few bytes, a comma among blanks, which
    becomes a line break: Arrow is never to see anything else between them, a null in the place of an object can end the process. A brace in a
    text can still pass for one of an object; then the break is in the text, and Arrow refuses it. What Arrow takes and Python does
    not is left to Python: bytes that are no text, NaN and Infinity in other spellings, depths without end.
    """
    body = body.strip(_BLANKS)
    if not (body.startswith(b"[") and body.endswith(b"}]") and body.isascii()) or body.find(b"[", 1) > 0:
        return None
    # To look for one byte is ten times as fast as for three.
    if any(word[:1] in body and word in body for word in (b"NaN", b"Inf")):
        return None
    text = np.frombuffer(body, np.uint8)[1:-1].copy()
    opened, closed = (np.flatnonzero(text == ord(brace)) for brace in "{}")
    if len(opened) != len(closed) or text[: opened[0]].tobytes().strip(_BLANKS):
        return None
    if len(opened) > 1:
        gaps = opened[1:] - closed[:-1]
        between = text[closed[0] + 1 : opened[1]].tobytes()
        if (gaps != gaps[0]).any() or len(between) > _LONGEST_GAP or between.strip(_BLANKS) != b",":
            return None
        if any((text[closed[:-1] + at] != byte).any() for at, byte in enumerate(between, start=1)):
            return None
        text[closed[:-1] + 1 + between.index(b",")] = ord("\n")
    return len(opened), text


def _judged(cells: Mapping[str, _Cells], question: Question) -> _Judged:
    """Cast times and values by the rules of the contracts, and list what does not fit."""
    number = Column("Value of a signal", kind=Kind.FLOAT, nullable=True)
    casts = {TIMESTAMP: _instants(cells[TIMESTAMP], question)}
    for name in question.columns:
        casts[name] = _cast(cells[name], number, name=name, request=question.request)
    faults: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for name, cast in casts.items():
        for row, rule in cast.faults.items():
            faults[row].append((name, rule))
        wrong, rule = (cast.values.is_null(), "required") if name == TIMESTAMP else (_infinite(cast.values), "finite")
        for row in np.flatnonzero(wrong).tolist() if pc.any(wrong).as_py() else ():
            if row not in cast.faults:
                faults[row].append((name, rule))
    instants = casts.pop(TIMESTAMP).values
    return _Judged(instants, {name: cast.values for name, cast in casts.items()}, faults)


def _infinite(values: pa.Array) -> pa.Array:
    return pc.fill_null(pc.is_inf(values), False)


def _instants(cells: _Cells, question: Question) -> Cast:
    """Times in UTC. Text that is written alike is read in one go; an offset in the text wins over the source's zone."""
    column = Column("Time of a row", zone=question.zone, kind=Kind.TIMESTAMP)
    text: Any = cells
    if isinstance(cells, pd.Series):
        with suppress(pa.ArrowException, UnicodeEncodeError, TypeError):
            text = pa.array(cells, pa.string())
    if not isinstance(text, pd.Series) and pa.types.is_string(text.type):
        for kind in (pa.timestamp("us"), _INSTANT):
            with suppress(pa.ArrowInvalid):
                cells = text.cast(kind)
                break
    return _cast(cells, column, name=TIMESTAMP, request=question.request)


def _cast(cells: _Cells, column: Column, *, name: str, request: str) -> Cast:
    try:
        return cast_column(cells, column)
    except ContractError as error:
        raise ContractError(f"turbines API, {request}: {str(error).replace('column ', f'column {name}', 1)}") from None


def _minutes(judged: _Judged, element: Callable[[int], Any], question: Question) -> Minutes:
    """Divide judged rows into those that are wanted, those outside of the time asked for, and those that cannot be read."""
    start, end = (pa.scalar(bound, _INSTANT) for bound in (question.start, question.end))
    inside = pc.and_(pc.greater_equal(judged.instants, start), pc.less(judged.instants, end))
    # A row whose time cannot be told may belong here.
    wanted = pc.fill_null(inside, True).to_numpy(zero_copy_only=False)
    bad = [row for row in sorted(judged.faults) if wanted[row]]
    kept = wanted.copy()
    kept[bad] = False
    table = pa.table(
        {TIMESTAMP: judged.instants, **judged.values, POSITION: np.arange(len(wanted), dtype=np.int64)}
    ).filter(pa.array(kept))
    rejected = [_record(row, element(row), judged.faults[row], question) for row in bad]
    rejected_at = judged.instants.take(pa.array(bad, pa.int64())).to_pylist()
    return Minutes(table, int(np.count_nonzero(~wanted)), rejected, rejected_at)


def _record(row: int, element: Any, faults: Sequence[tuple[str, str]], question: Question) -> Record:
    source = f"{question.request}, element {row}"
    if not isinstance(element, dict):
        return Record((Fault("element", "not an object", element),), {"element": element}, source)
    return Record(tuple(Fault(name, rule, element.get(name)) for name, rule in faults), element, source)


def _require(question: Question, came: Sequence[str]) -> None:
    if came and TIMESTAMP not in came:
        raise ContractError(
            f"turbines API, {question.request}: no row has a {TIMESTAMP}, there is {', '.join(came)}: the source answers in"
            " another form than it did"
        )
    missing = [name for name in question.columns if name not in came]
    # Rows without anything are rejected one by one.
    if came and missing:
        raise UnknownColumns(
            f"turbines API, {question.request}: no row has {' or '.join(missing)}, there is {', '.join(came)}:"
            " ask for columns that the source has",
            columns=missing,
        )


def _no_row(row: int) -> Any:
    raise AssertionError(f"row {row} is rejected where none is")


def _kind(document: Any) -> str:
    names = {dict: "an object", str: "text", type(None): "null"}
    return names.get(type(document), str(document)[:40])
