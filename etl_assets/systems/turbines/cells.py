"""Cells of an answer of the turbines' source, judged: times, values, names of turbines, whatever form they came in."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts import Column, Fault, Record
from etl_assets.core.contracts.cast import Cast, cast_column
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.contracts.epoch import instants
from etl_assets.errors import ContractError
from etl_assets.systems.turbines.transform import Minutes

TIMESTAMP, POSITION = "timestamp", "position"
# Fewer digits may be a date.
_NUMBER = re.compile(r"\s*[+-]?\d{9,20}(\.\d*)?\s*", re.ASCII)
_INSTANT = pa.timestamp("us", tz="UTC")
_VALUE = Column("Value of a signal", kind=Kind.FLOAT, nullable=True)

Cells: TypeAlias = pd.Series | pa.ChunkedArray | pa.Array


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


def page_of(cells: Mapping[str, Cells], count: int, element: Callable[[int], Any], question: Question) -> Page:
    """Judge cells by the rules of the contracts.

    Rows of other turbines, and outside of the time asked for, are left out, bad ones among them too.

    Args:
        cells: by column as the source spells it; of all that came, also of those that are not asked for.
        count: rows.
        element: what came for a row.
    """
    nothing = pa.nulls(count)
    names = _turbines(cells.get(question.turbine_field, pa.nulls(0)))
    mine = np.ones(count, dtype=bool)
    if question.turbine and len(names):
        mine = pc.fill_null(pc.equal(names, question.turbine), True).to_numpy(zero_copy_only=False)
    casts = {TIMESTAMP: _instants(cells.get(TIMESTAMP, nothing), question)}
    for name in question.columns:
        casts[name] = _value(cells.get(question.spelled(name), nothing), name, question)
    at = casts[TIMESTAMP].values
    start, end = (pa.scalar(bound, _INSTANT) for bound in (question.start, question.end))
    # A row whose time cannot be told may belong here.
    inside = pc.fill_null(pc.and_(pc.greater_equal(at, start), pc.less(at, end)), True)
    wanted = inside.to_numpy(zero_copy_only=False) & mine
    timed = at.is_valid().to_numpy(zero_copy_only=False)
    faults = _faults(casts, np.flatnonzero(wanted & ~timed).tolist())
    bad = [row for row in sorted(faults) if wanted[row]]
    columns = {name: cast.values for name, cast in casts.items()}
    table = pa.table({**columns, POSITION: np.arange(count, dtype=np.int64)}).filter(pa.array(wanted & timed))
    minutes = Minutes(
        table,
        int(np.count_nonzero(mine & ~wanted)),
        [_record(row, element(row), faults[row], question, "flagged" if timed[row] else "rejected") for row in bad],
        at.take(pa.array(bad, pa.int64())).to_pylist(),
        count - int(np.count_nonzero(mine)),
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


def _turbines(cells: Cells) -> pa.Array:
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


def _value(cells: Cells, name: str, question: Question) -> Cast:
    """Values of a signal; what is no number, or infinite, is NULL and a fault."""
    cast = _cast(cells, _VALUE, name, question)
    infinite = pc.fill_null(pc.is_inf(cast.values), False)
    if not pc.any(infinite, min_count=0).as_py():
        return cast
    faults = dict.fromkeys(np.flatnonzero(infinite).tolist(), "finite")
    return Cast(pc.if_else(infinite, None, cast.values), {**faults, **cast.faults})


def _instants(cells: Cells, question: Question) -> Cast:
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


def _alike(cells: Cells) -> Cells:
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


def _numbers(cells: Cells) -> np.ndarray | None:
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


def _cast(cells: Cells, column: Column, name: str, question: Question) -> Cast:
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
