"""The source of the turbines' signals: its API, what it answers as minutes, and days from it.

It answers in JSON or Arrow. Both forms, and the two ways in which JSON is read, end in the same judgement of cells, so that they give
the same rows. What came in whole over HTTP is still looked at for its own end (that of the array, the stream's mark).
"""

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from typing import Any, TypeAlias
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from etl_assets.core.contracts import Column, Fault, Record
from etl_assets.core.contracts.cast import Cast, cast_column
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.database.connections import Database
from etl_assets.core.prefetch import prefetched
from etl_assets.core.slices.lock import Lock
from etl_assets.core.sources.http.client import ApiClient, ApiRefused, Limits
from etl_assets.core.sources.http.outcomes import MalformedAnswer, parse_json, refuse_page
from etl_assets.errors import ConfigurationError, ContractError, PermanentError
from etl_assets.systems.turbines.contracts import SIGNALS, RawTurbineSignals
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.transform import DAY, FetchedDay, Minutes, day_slice, midnight, raw_days, stretches

# A request costs more than the minutes of a day; the answer to a longer one has to be held in memory.
LONGEST_STRETCH_DAYS = 16
_PATH = "/data"
# What the source answers, with a 400, when it knows none of the columns.
_UNKNOWN = "invalid column names"
TIMESTAMP, POSITION = "timestamp", "position"
ARROW_STREAM = "application/vnd.apache.arrow.stream"
ACCEPT = f"{ARROW_STREAM}, application/json;q=0.5"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
# Between two objects of an array: a comma among blanks.
_GAP = re.compile(rb"}[ \t\r\n]*,[ \t\r\n]*{")
_BLOCK_BYTES = 1024 * 1024
_INSTANT = pa.timestamp("us", tz="UTC")
_VALUE = Column("Value of a signal", kind=Kind.FLOAT, nullable=True)

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


class TurbinesApi(threading.local):
    """The API over the source database; each thread that uses it has a connection of its own.

    Args:
        base_url: where the API is.
        zone: IANA name of the zone in which the source writes times without an offset, and reads those of a request.
        limits: time-outs and retries of each call.

    Raises:
        ConfigurationError: if the base URL cannot be right.
    """

    def __init__(self, base_url: str, *, zone: str = "UTC", limits: Limits | None = None) -> None:
        self._zone = ZoneInfo(zone)
        self._client = ApiClient("turbines", base_url, url_variable="TURBINES_API_URL", limits=limits or Limits())

    @classmethod
    def from_settings(cls, settings: TurbinesSettings, *, limits: Limits | None = None) -> "TurbinesApi":
        """The API that the settings name.

        Raises:
            ConfigurationError: if its URL is not set, or cannot be right.
        """
        url, zone = settings.required("turbines_api_url"), settings.required("turbines_zone")
        return cls(url, zone=zone, limits=limits)

    def minutes(self, *, start: datetime, end: datetime, columns: Sequence[str], turbine: str = "") -> Minutes:
        """The minutes of one turbine in [start, end), each answer whole or not at all.

        Args:
            start, end: aware, in any zone.
            columns: the signals to ask for.
            turbine: which one; empty for the only one of a source that knows none.

        Raises:
            ApiUnavailable, ApiRefused: as the client classifies; a 200 that is cut off, a page or of no known form
                counts as no answer and is asked for again.
            ContractError: if the answer is no array of rows, or a column of an Arrow stream is of another kind.
            UnknownColumns: if the source does not know a column, or sends rows without it.
            ValueError: if a time is naive, nothing lies between the two, or no column is named that can be one.
        """
        wanted = tuple(dict.fromkeys(columns))
        if not wanted or not {TIMESTAMP, POSITION, ""}.isdisjoint(wanted):
            raise ValueError(f"columns {list(columns)!r}: name at least one, and only signals")
        first, last = self._local_bounds(start, end)
        params = {"start_timestamp": first.isoformat(), "end_timestamp": last.isoformat(), "columns": wanted}
        if turbine:
            params["turbine"] = turbine
        request = f"GET {_PATH}?{urlencode(params, doseq=True, safe=':')}"
        question = Question(wanted, start, end, self._zone.key, request)
        try:
            return self._client.get_parsed(
                _PATH, lambda kind, body: read_minutes(kind, body, question), params=params, accept=ACCEPT
            )
        except ApiRefused as error:
            if _UNKNOWN not in str(error).lower():
                raise
        raise UnknownColumns(
            f"turbines API, {request}: the source knows none of {', '.join(wanted)}: ask for columns that it has",
            columns=wanted,
        )

    def _local_bounds(self, start: datetime, end: datetime) -> tuple[datetime, datetime]:
        """Naive bounds in the source's zone between which it has all times in [start, end).

        Where the clocks change near a bound, this is up to the change more than what is wanted: an hour that occurs twice
        has bounds on both sides of it.
        """
        if start.utcoffset() is None or end.utcoffset() is None or not start < end:
            raise ValueError(f"from {start} to {end}: give two aware times, the earlier one first")
        start, end = start.astimezone(UTC), end.astimezone(UTC)
        first = min(self._offset(at) for at in (start, min(start + DAY, end)))
        last = max(self._offset(at) for at in (max(end - DAY, start), end))
        return (start + first).replace(tzinfo=None), (end + last).replace(tzinfo=None)

    def _offset(self, at: datetime) -> timedelta:
        return at.astimezone(self._zone).utcoffset() or timedelta()


def locked_days(
    api: TurbinesApi, database: Database, days: Sequence[date], *, turbines: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[FetchedDay, Lock]]:
    """As `fetched_days`, for who stores them: the lock of each day in the raw layer is held since before its turbines were asked.

    Args:
        database: where the raw layer has its heads.

    Raises:
        TransientError: as `locked`, and as `fetched_days`.
    """
    locks: list[Lock] = []

    def take(stretch: Sequence[date]) -> None:
        lock = Lock(database, [day_slice(RawTurbineSignals, day) for day in stretch])
        locks.append(lock)
        lock.begin()

    try:
        for fetched in fetched_days(api, days, turbines=turbines, columns=columns, before=take):
            while not locks[0].covers(day_slice(RawTurbineSignals, fetched.day)):
                locks.pop(0).close()
            yield fetched, locks[0]
    finally:
        for lock in locks:
            lock.close()


def fetched_days(
    api: TurbinesApi,
    days: Sequence[date],
    *,
    turbines: Sequence[str],
    columns: Sequence[str],
    before: Callable[[Sequence[date]], None] = lambda _: None,
) -> Iterator[FetchedDay]:
    """Each day, in order, whole: every turbine has answered for it. The next stretch is fetched while this one is stored.

    Args:
        turbines: their names; none for a source that has one and knows no names.
        columns: the signals to ask for; a repeated one counts as one.
        before: is given the days of a stretch before the source is asked for them.

    Raises:
        ConfigurationError: for a column that no signal of ours is.
        ApiUnavailable, ApiRefused, ContractError, UnknownColumns: as `TurbinesApi.minutes`.
    """
    require_columns(columns)
    columns = tuple(dict.fromkeys(columns))

    def fetched(stretch: Sequence[date]) -> list[FetchedDay]:
        start, end = midnight(stretch[0]), midnight(stretch[-1] + DAY)
        before(stretch)
        answers = {name: api.minutes(start=start, end=end, columns=columns, turbine=name) for name in turbines or ("",)}
        return raw_days(answers, stretch, columns=columns)

    for ready in prefetched(fetched(stretch) for stretch in stretches(days, longest=LONGEST_STRETCH_DAYS)):
        yield from ready


def require_columns(columns: Sequence[str]) -> None:
    """Reject columns that no signal of ours is.

    Raises:
        ConfigurationError: names them, and those that are known.
    """
    unknown = [name for name in columns if name not in SIGNALS]
    if unknown or not columns:
        raise ConfigurationError(
            f"{', '.join(unknown) or 'no column'}: the columns are {', '.join(SIGNALS)} (turbines/contracts.py)"
        )


# Answers


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
    return _minutes(cells, lambda row: _as_object(table, row), question)


def quick_minutes(body: bytes, question: Question) -> Minutes | None:
    """The minutes in a JSON array that is as it should be; None where only `exact_minutes` can tell."""
    table = _json_table(body, question.columns)
    if table is None:
        return None
    minutes = _minutes({name: table[name] for name in table.column_names}, lambda _: None, question)
    return None if minutes.rejected else minutes


def exact_minutes(body: bytes, question: Question) -> Minutes:
    """The minutes in any JSON array, value by value; as `read_minutes`. NaN and Infinity count as JSON.

    An element that is no object is a row with nothing in it, and rejected as that.
    """
    elements = parse_json(body, parse_constant=float)
    if not isinstance(elements, list):
        kind = {dict: "an object", str: "text", type(None): "null"}.get(type(elements), str(elements)[:40])
        raise ContractError(f"turbines API answered {question.request} with {kind}, not with an array")
    objects = [element if isinstance(element, dict) else {} for element in elements]
    if objects:
        _require(question, list(dict.fromkeys(chain.from_iterable(objects))))
    names = (TIMESTAMP, *question.columns)
    cells = {name: pd.Series([row.get(name) for row in objects], dtype=object) for name in names}
    return _minutes(cells, lambda row: elements[row], question)


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
    count = lines.count(b"{")
    schema = pa.schema([(TIMESTAMP, pa.string()), *((name, pa.float64()) for name in columns)])
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


def _minutes(cells: Mapping[str, _Cells], element: Callable[[int], Any], question: Question) -> Minutes:
    """Judge cells by the rules of the contracts; rows outside of the time asked for are left out, bad ones among the others rejected.

    Args:
        cells: times and values, by column.
        element: what came for a row.
    """
    casts = {TIMESTAMP: _instants(cells[TIMESTAMP], question)}
    for name in question.columns:
        casts[name] = _cast(cells[name], _VALUE, name, question)
    faults: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for name, cast in casts.items():
        for row, rule in cast.faults.items():
            faults[row].append((name, rule))
        is_time = name == TIMESTAMP
        wrong = cast.values.is_null() if is_time else pc.fill_null(pc.is_inf(cast.values), False)
        for row in np.flatnonzero(wrong).tolist() if pc.any(wrong).as_py() else ():
            if row not in cast.faults:
                faults[row].append((name, "required" if is_time else "finite"))
    instants = casts[TIMESTAMP].values
    start, end = (pa.scalar(bound, _INSTANT) for bound in (question.start, question.end))
    inside = pc.and_(pc.greater_equal(instants, start), pc.less(instants, end))
    # A row whose time cannot be told may belong here.
    wanted = pc.fill_null(inside, True).to_numpy(zero_copy_only=False)
    bad = [row for row in sorted(faults) if wanted[row]]
    kept = wanted.copy()
    kept[bad] = False
    columns = {name: cast.values for name, cast in casts.items()}
    table = pa.table({**columns, POSITION: np.arange(len(wanted), dtype=np.int64)}).filter(pa.array(kept))
    rejected = [_record(row, element(row), faults[row], question) for row in bad]
    rejected_at = instants.take(pa.array(bad, pa.int64())).to_pylist()
    return Minutes(table, int(np.count_nonzero(~wanted)), rejected, rejected_at)


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
    return _cast(cells, column, TIMESTAMP, question)


def _cast(cells: _Cells, column: Column, name: str, question: Question) -> Cast:
    try:
        return cast_column(cells, column)
    except ContractError as error:
        text = str(error).replace("column ", f"column {name}", 1)
        raise ContractError(f"turbines API, {question.request}: {text}") from None


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
