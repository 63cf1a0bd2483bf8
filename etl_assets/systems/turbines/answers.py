"""What the turbines' source answers, as minutes.

It answers in JSON or Arrow. Both forms, and the two ways in which JSON is read, end in the same judgement of cells, so that they give
the same rows. What came in whole over HTTP is still looked at for its own end (that of the array, the stream's mark).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from etl_assets.core.contracts import Column, Fault, Record
from etl_assets.core.contracts.cast import Cast, cast_column
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.contracts.epoch import instants
from etl_assets.core.sources.http.outcomes import MalformedAnswer, parse_array, refuse_page
from etl_assets.errors import ContractError, PermanentError
from etl_assets.systems.turbines.transform import Minutes

TIMESTAMP, POSITION = "timestamp", "position"
ARROW_STREAM = "application/vnd.apache.arrow.stream"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
# Between two objects of an array: a comma among blanks.
_GAP = re.compile(rb"}[ \t\r\n]*,[ \t\r\n]*{")
_TIME_IS_NUMBER = re.compile(rb'"timestamp"[ \t\r\n]*:[ \t\r\n]*([-0-9])?')
# Fewer digits may be a date.
_NUMBER = re.compile(r"\s*[+-]?\d{9,20}(\.\d*)?\s*", re.ASCII)
_BLOCK_BYTES = 1024 * 1024
_INSTANT = pa.timestamp("us", tz="UTC")
_VALUE = Column("Value of a signal", kind=Kind.FLOAT, nullable=True)
_SHOWN = 60

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
        turbine: the one that is asked for; empty for the only one of a source that knows none.
        turbine_field: the field in which a row may name its turbine.
        late: how much later than a minute begins its row is labelled.
        spelling: how the source spells signals, where it does not as we do.
    """

    columns: tuple[str, ...]
    start: datetime
    end: datetime
    zone: str
    request: str
    turbine: str = ""
    turbine_field: str = "turbine"
    late: timedelta = timedelta()
    spelling: Mapping[str, str] = field(default_factory=dict)

    def spelled(self, column: str) -> str:
        """A signal as the source spells it."""
        return self.spelling.get(column, column)


@dataclass(frozen=True)
class Page:
    """What a page of an answer has.

    Attributes:
        minutes: of the turbine that is asked for; positions and elements are counted from the page's beginning.
        columns: those that came, as the source spells them.
        turbines: how many rows name which turbine.
        count: all rows.
    """

    minutes: Minutes
    columns: Sequence[str]
    turbines: Counter[str]
    count: int


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
    return _page(cells, table.num_rows, lambda row: _as_object(table, row), question)


def quick_page(body: bytes, question: Question) -> Page | None:
    """The rows in a JSON array that is as it should be; None where only `exact_page` can tell."""
    table = _json_table(body, question)
    if table is None:
        return None
    cells = {name: table[name] for name in table.column_names if table[name].null_count < table.num_rows}
    page = _page(cells, table.num_rows, lambda _: None, question)
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
    return _page(cells, len(objects), lambda row: elements[row], question)


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


# Cells


def _page(cells: Mapping[str, _Cells], count: int, element: Callable[[int], Any], question: Question) -> Page:
    """Judge cells by the rules of the contracts.

    Rows of other turbines, and outside of the time asked for, are left out, bad ones among them too.

    Args:
        cells: by column as the source spells it; of all that came, also of those that are not asked for.
        count: rows.
        element: what came for a row.
    """
    nothing = pa.nulls(count)
    names = _turbines(cells.get(question.turbine_field, nothing))
    mine = pc.fill_null(pc.equal(names, question.turbine), True) if question.turbine else pa.repeat(True, count)
    casts = {TIMESTAMP: _instants(cells.get(TIMESTAMP, nothing), question)}
    for name in question.columns:
        casts[name] = _value(cells.get(question.spelled(name), nothing), name, question)
    at = casts[TIMESTAMP].values
    start, end = (pa.scalar(bound, _INSTANT) for bound in (question.start, question.end))
    # A row whose time cannot be told may belong here.
    inside = pc.fill_null(pc.and_(pc.greater_equal(at, start), pc.less(at, end)), True)
    wanted = pc.and_(inside, mine).to_numpy(zero_copy_only=False)
    timed = at.is_valid().to_numpy(zero_copy_only=False)
    faults = _faults(casts, np.flatnonzero(wanted & ~timed).tolist())
    bad = [row for row in sorted(faults) if wanted[row]]
    columns = {name: cast.values for name, cast in casts.items()}
    table = pa.table({**columns, POSITION: np.arange(count, dtype=np.int64)}).filter(pa.array(wanted & timed))
    minutes = Minutes(
        table,
        int(np.count_nonzero(mine.to_numpy(zero_copy_only=False) & ~wanted)),
        [_record(row, element(row), faults[row], question, "flagged" if timed[row] else "rejected") for row in bad],
        at.take(pa.array(bad, pa.int64())).to_pylist(),
        count - pc.sum(mine, min_count=0).as_py(),
    )
    named = {one["values"]: one["counts"] for one in names.drop_null().value_counts().to_pylist()}
    return Page(minutes, list(cells), Counter(named), count)


def _faults(casts: Mapping[str, Cast], without_time: Iterable[int]) -> dict[int, list[tuple[str, str]]]:
    """The faults of each row that has any: column and rule, that of the time first."""
    faults: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for row in without_time:
        faults[row].append((TIMESTAMP, casts[TIMESTAMP].faults.get(row, "required")))
    for name, cast in casts.items():
        for row, rule in cast.faults.items() if name != TIMESTAMP else ():
            faults[row].append((name, rule))
    return faults


def _turbines(cells: _Cells) -> pa.Array:
    """The names of turbines as text."""
    if not isinstance(cells, pd.Series) and pa.types.is_null(cells.type):
        return pa.nulls(len(cells), pa.string())
    if not isinstance(cells, pd.Series) and pa.types.is_string(cells.type):
        names = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
        return pc.if_else(pc.equal(names, ""), None, names)
    return pa.array(map(_name, cells.tolist() if isinstance(cells, pd.Series) else cells.to_pylist()), pa.string())


def _name(cell: Any) -> str | None:
    if cell is None or cell == "" or cell != cell:
        return None
    text = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
    return text.encode("utf-8", "replace").decode()


def _value(cells: _Cells, name: str, question: Question) -> Cast:
    """Values of a signal; what is no number, or infinite, is NULL and a fault."""
    cast = _cast(cells, _VALUE, name, question)
    infinite = pc.fill_null(pc.is_inf(cast.values), False)
    if not pc.any(infinite, min_count=0).as_py():
        return cast
    faults = dict.fromkeys(np.flatnonzero(infinite).tolist(), "finite")
    return Cast(pc.if_else(infinite, None, cast.values), {**faults, **cast.faults})


def _instants(cells: _Cells, question: Question) -> Cast:
    """When the minutes begin, in UTC. Numbers are Unix times; an offset in a text wins over the source's zone."""
    column = Column("Time of a row", zone=question.zone, kind=Kind.TIMESTAMP)
    numbers = _numbers(cells)
    if numbers is None:
        cast = _cast(_alike(cells), column, TIMESTAMP, question)
        if cast.faults and not isinstance(cells, pd.Series) and pa.types.is_string(cells.type):
            # Numbers may be among the texts.
            return _instants(pd.Series(cells.to_pylist(), dtype=object), question)
    else:
        micros, good = instants(numbers)
        is_number = ~np.isnan(numbers)
        texts = cells.mask(is_number, None) if isinstance(cells, pd.Series) else pa.nulls(len(numbers))
        read = _cast(texts, column, TIMESTAMP, question)
        known = pa.array(micros, mask=~(is_number & good)).cast(_INSTANT)
        beyond = dict.fromkeys(np.flatnonzero(is_number & ~good).tolist(), "not a time")
        cast = Cast(pc.coalesce(known, read.values), {**beyond, **read.faults})
    if not question.late:
        return cast
    return Cast(pc.subtract(cast.values, pa.scalar(question.late, pa.duration("us"))), cast.faults)


def _alike(cells: _Cells) -> _Cells:
    """Text that is written alike as times, in one go."""
    text: Any = cells
    if isinstance(cells, pd.Series):
        with suppress(pa.ArrowException, UnicodeEncodeError, TypeError):
            text = pa.array(cells, pa.string())
    if not isinstance(text, pd.Series) and pa.types.is_string(text.type):
        for kind in (pa.timestamp("us"), _INSTANT):
            with suppress(pa.ArrowInvalid):
                return text.cast(kind)
    return cells


def _numbers(cells: _Cells) -> np.ndarray | None:
    """The numbers among cells, NaN for any other; None if there are none."""
    if isinstance(cells, pd.Series):
        found = np.array([_number(cell) for cell in cells], dtype=np.float64)
        return None if np.isnan(found).all() else found
    if pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type):
        return np.asarray(pc.fill_null(cells.cast(pa.float64(), safe=False), np.nan))
    return None


def _number(cell: Any) -> float:
    is_number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    try:
        return float(cell) if is_number or (isinstance(cell, str) and _NUMBER.fullmatch(cell)) else np.nan
    except OverflowError:
        return np.inf


def _cast(cells: _Cells, column: Column, name: str, question: Question) -> Cast:
    try:
        return cast_column(cells, column)
    except ContractError as error:
        text = str(error).replace("column ", f"column {name}", 1)
        raise ContractError(f"turbines API, {question.request}: {text}") from None


def _record(
    row: int,
    element: Any,
    faults: Sequence[tuple[str, str]],
    question: Question,
    outcome: Literal["rejected", "flagged"],
) -> Record:
    source = f"{question.request}, element {row}"
    if not isinstance(element, dict):
        return Record((Fault("element", "not an object", element),), {"element": element}, source)
    found = tuple(
        Fault(spelled, rule, element.get(spelled)) for spelled, rule in ((question.spelled(n), r) for n, r in faults)
    )
    return Record(found, element, source, outcome)
