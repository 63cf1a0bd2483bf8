"""Days from the source: asked for in stretches, divided into days, the next stretch fetched while this one is stored."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts import Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.prefetch import prefetched
from etl_assets.errors import ConfigurationError
from etl_assets.systems.turbines.api import Minutes, TurbinesApi
from etl_assets.systems.turbines.contracts import RawTurbineSignals
from etl_assets.systems.turbines.days import DAY, midnight, stretches
from etl_assets.systems.turbines.signals import SIGNALS

# A request costs more than the minutes of a day; the answer to a longer one has to be held in memory.
LONGEST_STRETCH_DAYS = 16
DAY_US = 86_400_000_000
BETWEEN = ";"  # of the names in `columns_asked`


@dataclass(frozen=True)
class FetchedDay:
    """What the source said of a day.

    Attributes:
        rows: in the contract of `RawTurbineSignals`, in order of turbine, time and arrival; rejected elements beside them.
        outside: rows that the source sent although they lie outside what was asked for, on the stretch's first day.
    """

    day: date
    rows: Split[pa.Table]
    outside: int = field(default=0)


def fetched_days(
    api: TurbinesApi, days: Sequence[date], *, turbines: Sequence[str], columns: Sequence[str]
) -> Iterator[FetchedDay]:
    """Each day, in order, whole: every turbine was asked and answered for it.

    Args:
        turbines: their names; none for a source that has one and knows no names.
        columns: the signals to ask for; one that is named again counts once.

    Raises:
        ConfigurationError: for a column that no signal of ours is.
        ApiUnavailable, ApiRefused, ContractError, UnknownColumns: as `TurbinesApi.minutes`.
    """
    require_columns(columns)
    columns = tuple(dict.fromkeys(columns))
    asked = stretches(days, longest=LONGEST_STRETCH_DAYS)
    fetched = (list(_fetched(api, some, turbines=turbines or ("",), columns=columns)) for some in asked)
    for ready in prefetched(fetched):
        yield from ready


def require_columns(columns: Sequence[str]) -> None:
    """Refuse columns that no signal of ours is.

    Raises:
        ConfigurationError: names them, and those that are known.
    """
    unknown = [name for name in columns if name not in SIGNALS]
    if unknown or not columns:
        raise ConfigurationError(
            f"{', '.join(unknown) or 'no column'}: the columns are {', '.join(SIGNALS)} (turbines/signals.py)"
        )


def _fetched(
    api: TurbinesApi, stretch: Sequence[date], *, turbines: Sequence[str], columns: Sequence[str]
) -> Iterator[FetchedDay]:
    start, end = midnight(stretch[0]), midnight(stretch[-1] + DAY)
    answers = {name: api.minutes(start=start, end=end, columns=columns, turbine=name) for name in turbines}
    by_turbine = {name: _by_day(answer, stretch) for name, answer in answers.items()}
    records = _records_by_day(answers.values(), stretch)
    outside = sum(answer.outside for answer in answers.values())
    for number, day in enumerate(stretch):
        rows = [
            _raw(days[number], turbine=name, columns=columns)
            for name, days in by_turbine.items()
            if days[number].num_rows
        ]
        table = pa.concat_tables(rows) if rows else arrow_schema(RawTurbineSignals).empty_table()
        yield FetchedDay(day, Split(table, records.get(day, ())), outside if number == 0 else 0)


def _records_by_day(answers: Iterable[Minutes], stretch: Sequence[date]) -> Mapping[date, Sequence[Record]]:
    """The rejected elements of each day; one whose time cannot be told is in the books of the first."""
    records: dict[date, list[Record]] = {}
    for answer in answers:
        for record, at in zip(answer.rejected, answer.rejected_at, strict=True):
            records.setdefault(at.date() if at else stretch[0], []).append(record)
    return records


def _by_day(answer: Minutes, stretch: Sequence[date]) -> list[pa.Table]:
    """The rows of each day in order of time, those of one instant as they came: the same in whatever order the source sends."""
    at = pc.cast(answer.table["timestamp"], pa.int64()).to_numpy()
    rows = answer.table
    if not np.all(at[1:] >= at[:-1]):
        order = np.argsort(at, kind="stable")
        at, rows = at[order], rows.take(pa.array(order))
    first = int(midnight(stretch[0]).timestamp()) * 1_000_000
    ends = np.searchsorted((at - first) // DAY_US, np.arange(len(stretch)), side="right")
    starts = np.concatenate([[0], ends[:-1]])
    return [rows.slice(int(a), int(b - a)) for a, b in zip(starts, ends, strict=True)]


def _raw(rows: pa.Table, *, turbine: str, columns: Sequence[str]) -> pa.Table:
    schema = arrow_schema(RawTurbineSignals)
    made = {
        "turbine": pa.repeat(turbine, rows.num_rows),
        "position": pa.array(np.arange(rows.num_rows)),
        "columns_asked": pa.repeat(BETWEEN.join(columns), rows.num_rows),
    }
    cells = [
        rows[name] if name in rows.column_names and name not in made else made.get(name, pa.nulls(rows.num_rows, kind))
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(dict(zip(schema.names, cells, strict=True))).cast(schema)
