"""What the turbines' source answers, as minutes.

It answers in JSON or Arrow. Both forms, and the two ways in which JSON is read, end in the same judgement of cells (`cells`), so that
they give the same rows. What came in whole over HTTP is still looked at for its own end (that of the array, the stream's mark).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from etl_assets.core.sources.http.outcomes import MalformedAnswer, parse_array, refuse_page
from etl_assets.errors import ContractError, PermanentError
from etl_assets.systems.turbines.cells import POSITION, TIMESTAMP, Page, Question, page_of
from etl_assets.systems.turbines.transform import Minutes

ARROW_STREAM = "application/vnd.apache.arrow.stream"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
# Between two objects of an array: a comma among blanks.
_GAP = re.compile(rb"}[ \t\r\n]*,[ \t\r\n]*{")
_TIME_IS_NUMBER = re.compile(rb'"timestamp"[ \t\r\n]*:[ \t\r\n]*([-0-9])?')
_BLOCK_BYTES = 1024 * 1024
_SHOWN = 60


class UnknownColumns(PermanentError):
    """The source does not know columns that it was asked for: `columns`."""

    def __init__(self, message: str, *, columns: Sequence[str]) -> None:
        super().__init__(message)
        self.columns = tuple(columns)


def minutes_of(pages: Sequence[Page], question: Question) -> Minutes:
    """The minutes of a whole answer.

    Raises:
        ContractError: if none of the rows has a time.
        UnknownColumns: if there are rows and none of them has a column asked for.
        PermanentError: if all rows are of other turbines, or nothing of any of them can be read.
    """
    _require_columns(question, list(dict.fromkeys(chain.from_iterable(page.columns for page in pages))))
    _require_turbine(question, pages)
    firsts = np.cumsum([0, *(page.count for page in pages[:-1])]).tolist()
    placed = [
        _placed(page, number, first, question)
        for number, (page, first) in enumerate(zip(pages, firsts, strict=True), 1)
    ]
    whole = Minutes(
        pa.concat_tables(minutes.table for minutes in placed),
        sum(minutes.outside for minutes in placed),
        list(chain.from_iterable(minutes.records for minutes in placed)),
        list(chain.from_iterable(minutes.records_at for minutes in placed)),
        sum(minutes.others for minutes in placed),
    )
    _require_something(question, whole)
    return whole


def _placed(page: Page, number: int, first: int, question: Question) -> Minutes:
    """The minutes of a page with their places in the whole answer."""
    minutes = page.minutes
    if number == 1:
        return minutes
    at = minutes.table.column_names.index(POSITION)
    positions = pc.add(minutes.table[POSITION], first)
    begin = f"{question.request}, page {number}"
    records = [
        replace(record, source=begin + record.source.removeprefix(question.request)) for record in minutes.records
    ]
    return replace(minutes, table=minutes.table.set_column(at, POSITION, positions), records=records)


def _require_columns(question: Question, came: Sequence[str]) -> None:
    # Rows without anything are rejected one by one.
    if not came:
        return
    if TIMESTAMP not in came:
        raise ContractError(
            f"turbines API, {question.request}: no row has a {TIMESTAMP}, there is {', '.join(came)}: the source answers in"
            " another form than it did"
        )
    missing = [name for name in question.columns if question.spelled(name) not in came]
    if missing:
        raise UnknownColumns(
            f"turbines API, {question.request}: no row has {' or '.join(missing)}, there is {', '.join(came)}:"
            " ask for columns that the source has",
            columns=missing,
        )


def _require_turbine(question: Question, pages: Sequence[Page]) -> None:
    came = sum((page.turbines for page in pages), Counter[str]())
    named = ", ".join(sorted(came)[:10]) + (", …" if len(came) > 10 else "")
    if not question.turbine and len(came) > 1:
        raise PermanentError(
            f"turbines API, {question.request}: rows of several turbines came ({named}): set TURBINES to those that are wanted"
        )
    # A row that names none counts as one of the turbine that was asked for.
    if 0 < sum(page.minutes.others for page in pages) == sum(page.count for page in pages):
        raise PermanentError(
            f"turbines API, {question.request}: only rows of other turbines came ({named}), none of {question.turbine}:"
            " the source does not heed `turbine=`, or names it otherwise: correct TURBINES"
        )


def _require_something(question: Question, whole: Minutes) -> None:
    """Refuse an answer of which each row has a fault, and none a value."""
    rows = whole.table.num_rows + len(whole.rejected)
    if len(whole.records) < max(rows, 1):
        return
    if any(whole.table[name].null_count < whole.table.num_rows for name in question.columns):
        return
    fault = whole.records[0].faults[0]
    shown = str(fault.raw) if len(str(fault.raw)) <= _SHOWN else f"{str(fault.raw)[:_SHOWN]}…"
    raise PermanentError(
        f"turbines API, {question.request}: none of the {rows:,} rows could be read, the first for its {fault.column}"
        f" {shown!r}, {fault.rule}: the source answers in another form than it did"
    )


# Bodies


def read_page(content_type: str, body: bytes, question: Question) -> Page:
    """The rows in a body: an Arrow stream if it is declared as one, else JSON whatever is declared.

    A number that is written as text is read. Of a row in which something else stands where a number should, or an infinite
    number, that cell is NULL, and recorded. A row whose time cannot be told is rejected: also one without an offset in the hour
    that occurs twice, or not at all, in a zone with daylight saving.

    Raises:
        MalformedAnswer: if the body is empty, a page, cut off, or not of its form.
        OtherForm: if it is no array.
        ContractError: if a column of an Arrow stream is of another kind.
    """
    if content_type.partition(";")[0].strip().lower() == ARROW_STREAM:
        return arrow_page(body, question)
    return quick_page(body, question) or exact_page(body, question)


def arrow_page(body: bytes, question: Question) -> Page:
    """The rows in an Arrow IPC stream; as `read_page`."""
    table = _arrow_table(body)
    cells = {name: table[name] for name in table.column_names} if table.num_rows else {}
    return page_of(cells, table.num_rows, lambda row: _as_object(table, row), question)


def quick_page(body: bytes, question: Question) -> Page | None:
    """The rows in a JSON array that is as it should be; None where only `exact_page` can tell."""
    table = _json_table(body, question)
    if table is None:
        return None
    cells = {name: table[name] for name in table.column_names if table[name].null_count < table.num_rows}
    page = page_of(cells, table.num_rows, lambda _: None, question)
    return None if page.minutes.records else page


def exact_page(body: bytes, question: Question) -> Page:
    """The rows in any JSON array, value by value; as `read_page`. NaN and Infinity count as JSON.

    An element that is no object is a row with nothing in it, and rejected as that.
    """
    elements = parse_array(body, parse_constant=float)
    objects = [element if isinstance(element, dict) else {} for element in elements]
    names = dict.fromkeys(chain.from_iterable(objects))
    wanted = {TIMESTAMP, question.turbine_field, *map(question.spelled, question.columns)}
    cells = {
        name: pd.Series([row.get(name) for row in objects], dtype=object) if name in wanted else pa.nulls(0)
        for name in names
    }
    return page_of(cells, len(objects), lambda row: elements[row], question)


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


def _json_table(body: bytes, question: Question) -> pa.Table | None:
    """Times as text or numbers, values, and names of turbines, one row per object; None where only the exact way can tell.

    That is also so where a column has no value in any row: whether the source knows it is then not to be seen.
    """
    lines = _as_lines(body)
    if lines is None:
        return None
    count, columns = lines.count(b"{"), [question.spelled(name) for name in question.columns]
    first = _TIME_IS_NUMBER.search(body)
    time = pa.float64() if first and first[1] else pa.string()
    values = [(name, pa.float64()) for name in columns]
    schema = pa.schema([(TIMESTAMP, time), (question.turbine_field, pa.string()), *values])
    try:
        table = arrow_json.read_json(
            # Without the brackets of the array.
            pa.BufferReader(pa.py_buffer(lines).slice(1, len(lines) - 2)),
            # One thread: answers are read side by side, and those of a day are small.
            arrow_json.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return None
    whole = table.num_rows == count and all(table[name].null_count < count for name in columns)
    return table if whole else None


def _as_lines(body: bytes) -> bytes | None:
    """An array of flat objects with a line break between any two of them; None where it is not certain to be one.

    Certain it is where between any two objects there are the same few bytes, a comma among blanks, which become a line break: Arrow
    is never to see anything else between them, a null in the place of an object can end the process. A brace in a text can still
    pass for one of an object; then the break is in the text, and Arrow refuses it. What Arrow takes and Python does not is left
    to Python: bytes that are no text, NaN and Infinity in other spellings, depths without end.
    """
    body = body.strip(b" \t\r\n")
    if not (re.match(rb"\[[ \t\r\n]*{", body) and body.endswith(b"}]") and body.isascii()) or body.find(b"[", 1) > 0:
        return None
    # To look for one byte is ten times as fast as for three.
    if any(word[:1] in body and word in body for word in (b"NaN", b"Inf")):
        return None
    found = _GAP.search(body)
    lines = body.replace(found[0], b"}\n{") if found else body
    # To count one byte is several times as fast as to count the few of a gap.
    gaps = lines.count(b"\n") if b"\n" not in body else body.count(found[0]) if found else 0
    return lines if body.count(b"{") == body.count(b"}") == gaps + 1 else None
