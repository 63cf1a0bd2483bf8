"""From answers to the raw rows of days, and from these to statistics: pure functions between tables."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts import Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.systems.turbines.answers import Minutes
from etl_assets.systems.turbines.contracts import RawTurbineSignals
from etl_assets.systems.turbines.days import DAY, midnight
from etl_assets.systems.turbines.statistics import DAY_US, ten_minute_statistics

SEPARATOR = ";"  # of the names in `columns_asked`
# So many rows make a transaction that is worth its while; a day of ten turbines has 14,400.
ROWS_TOGETHER = 200_000


@dataclass(frozen=True)
class FetchedDay:
    """What the source has of a day.

    Attributes:
        rows: in the contract of `RawTurbineSignals`, in order of turbine, time and arrival; rejected elements beside them.
        outside: rows that the source sent although they lie outside of the stretch of days, counted on its first day.
    """

    day: date
    rows: Split[pa.Table]
    outside: int = 0


@dataclass(frozen=True)
class Statistics:
    """The statistics of some whole days.

    Attributes:
        bins: as `ten_minute_statistics` gives them.
        turbines: by day, those of which the source has values; rows without any value tell nothing of a turbine.
        columns: the signals that the source was asked for on these days.
    """

    bins: pa.Table
    turbines: Mapping[date, Sequence[str]]
    columns: tuple[str, ...]


def raw_days(answers: Mapping[str, Minutes], days: Sequence[date], *, columns: Sequence[str]) -> list[FetchedDay]:
    """The answers for consecutive days, divided into these days.

    Args:
        answers: by turbine, each for all of the days.
        days: without a hole between them.
        columns: those that were asked for.
    """
    records: dict[date, list[Record]] = {day: [] for day in days}
    for answer in answers.values():
        for record, at in zip(answer.rejected, answer.rejected_at, strict=True):
            # One whose time cannot be told belongs to the first day.
            records[at.date() if at else days[0]].append(record)
    rows: dict[date, list[pa.Table]] = {day: [] for day in days}
    for turbine, answer in answers.items():
        for day, table in zip(days, _divided(answer.table, days), strict=True):
            rows[day].append(_raw(table, turbine=turbine, columns=columns))
    outside = [sum(answer.outside for answer in answers.values()), *[0] * (len(days) - 1)]
    return [
        FetchedDay(day, Split(pa.concat_tables(rows[day]), records[day]), more)
        for day, more in zip(days, outside, strict=True)
    ]


def _divided(rows: pa.Table, days: Sequence[date]) -> Iterator[pa.Table]:
    """The rows of each day in order of time, those of one instant as they came: the same in whatever order the source sends."""
    at = pc.cast(rows["timestamp"], pa.int64()).to_numpy()
    if not np.all(at[1:] >= at[:-1]):
        order = np.argsort(at, kind="stable")
        at, rows = at[order], rows.take(pa.array(order))
    begin = int(midnight(days[0]).timestamp()) * 1_000_000
    edges = np.searchsorted(at, begin + np.arange(len(days) + 1) * DAY_US).tolist()
    return (rows.slice(start, end - start) for start, end in itertools.pairwise(edges))


def _raw(rows: pa.Table, *, turbine: str, columns: Sequence[str]) -> pa.Table:
    schema = arrow_schema(RawTurbineSignals)
    cells = {name: rows[name] for name in rows.column_names if name in schema.names} | {
        "turbine": pa.repeat(turbine, rows.num_rows),
        "position": pa.array(np.arange(rows.num_rows)),
        "columns_asked": pa.repeat(SEPARATOR.join(columns), rows.num_rows),
    }
    return pa.table({field.name: cells.get(field.name, pa.nulls(rows.num_rows, field.type)) for field in schema}).cast(
        schema
    )


def statistics_of(batches: Iterable[pa.RecordBatch]) -> Iterator[Statistics]:
    """The statistics of raw signals, some whole days at a time; days without any value are left out.

    Args:
        batches: of `RawTurbineSignals`; all rows of a batch are of one day, and the batches of a day follow each other.
    """
    for together in _whole_days(batches):
        columns = tuple(_columns(together[0]).split(SEPARATOR))
        minutes = pa.Table.from_batches(together).select(["turbine", "timestamp", *columns, "position"])
        bins = ten_minute_statistics(minutes, columns=columns)
        if bins.num_rows:
            yield Statistics(bins, _turbines(bins), columns)


def _whole_days(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Days of the same columns, so many that storing them is worth a transaction."""
    together: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        begins = not together or _day(batch) != _day(together[-1])
        if together and begins and (rows >= ROWS_TOGETHER or _columns(batch) != _columns(together[-1])):
            yield together
            together, rows = [], 0
        together.append(batch)
        rows += batch.num_rows
    if together:
        yield together


def _turbines(bins: pa.Table) -> dict[date, list[str]]:
    """By day the turbines that have a bin, in order."""
    days = bins["timestamp"].cast(pa.date32())
    pairs = pa.table({"day": days, "turbine": bins["turbine"]}).group_by(["day", "turbine"]).aggregate([])
    found: dict[date, list[str]] = {}
    for pair in pairs.sort_by("turbine").to_pylist():
        found.setdefault(pair["day"], []).append(pair["turbine"])
    return found


def rows_of_day(rows: pa.Table, day: date) -> pa.Table:
    """The rows whose `timestamp` is on the day, in UTC."""
    at = rows["timestamp"]
    begin, end = (pa.scalar(midnight(instant), at.type) for instant in (day, day + DAY))
    return rows.filter(pc.and_(pc.greater_equal(at, begin), pc.less(at, end)))


def _columns(batch: pa.RecordBatch) -> str:
    return str(batch["columns_asked"][0].as_py())


def _day(batch: pa.RecordBatch) -> date:
    at: datetime = batch["timestamp"][0].as_py()
    return at.astimezone(UTC).date()
