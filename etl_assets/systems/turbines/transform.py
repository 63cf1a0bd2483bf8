"""From answers to the raw rows of days, and from these to statistics: pure functions between tables.

A day is one in UTC, half-open like every stretch of time.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts import Contract, Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.slices.slice import Combinations, OneOf, Slice, Span
from etl_assets.errors import ConfigurationError
from etl_assets.systems.turbines.contracts import RawTurbineSignals
from etl_assets.systems.turbines.statistics import DAY_US, OUTPUT, ten_minute_statistics

DAY = timedelta(days=1)
SEPARATOR = ";"  # of the names in `columns_asked`
# So many rows make a transaction that is worth its while; a day of ten turbines has 14,400.
ROWS_TOGETHER = 200_000


@dataclass(frozen=True)
class Minutes:
    """What the source answered for one turbine and one stretch of time.

    Received rows = rows of the table + outside + others + rejected.

    Attributes:
        table: `timestamp` (timestamp[us, UTC]), one float64 column per column asked for (NULL where the source has none,
            null or NaN), `position` (int64, place in the answer, from 0); in order of arrival, only rows in [start, end).
        outside: rows outside of [start, end), left out: some servers include the end.
        records: rows that are rejected: no time or none that can be told, no object. And rows of the table, flagged, of which a cell
            is no number, or infinite: it is NULL.
        records_at: the instant of each, aware, in UTC; None where it cannot be told.
        others: rows of other turbines, left out.
    """

    table: pa.Table
    outside: int
    records: Sequence[Record]
    records_at: Sequence[datetime | None]
    others: int = 0

    @property
    def rejected(self) -> list[Record]:
        """The records of rows that are not in the table."""
        return Split(self.table, self.records).rejected


@dataclass(frozen=True)
class FetchedDay:
    """What the source has of a day.

    Attributes:
        rows: in the contract of `RawTurbineSignals`, in order of turbine, time and arrival; rejected and flagged elements
            beside them, with their turbine where it has a name.
        outside: rows that the source sent although they lie outside of the stretch of days, counted on its first day.
        others: rows of other turbines that it sent, counted there too.
    """

    day: date
    rows: Split[pa.Table]
    outside: int = 0
    others: int = 0


def left_out(outside: int, others: int) -> list[str]:
    """What of an answer is left out, for people."""
    said = []
    if outside:
        said.append(f"{outside:,} {'row lies' if outside == 1 else 'rows lie'} outside of the days asked for, left out")
    if others:
        said.append(
            f"{others:,} {'row is' if others == 1 else 'rows are'} of other turbines than was asked for, left out"
        )
    return said


@dataclass(frozen=True)
class Statistics:
    """The statistics of some whole days.

    Attributes:
        bins: as `ten_minute_statistics` gives them.
        signals: what these bins replace: by day and turbine the signals, in order; of those of which the source has a value, for rows
            without one tell nothing.
        columns: the signals that the source was asked for on these days.
    """

    bins: pa.Table
    signals: Mapping[date, Mapping[str, Sequence[str]]]
    columns: tuple[str, ...]

    def without_value(self, day: date, turbines: Sequence[str]) -> str:
        """The signals of a day of which the source has no value, for people; empty for none.

        Args:
            turbines: that were asked for.
        """
        missing = []
        for turbine in turbines:
            found = self.signals[day].get(turbine, ())
            absent = [name for name in self.columns if name not in found]
            if absent and turbine:
                missing.append(f"{', '.join(absent)} of {turbine}" if found else turbine)
            elif absent:
                missing.append(", ".join(absent))
        return "; ".join(missing)


def nothing_of(day: date, *, turbines: Sequence[str], columns: Sequence[str]) -> Statistics:
    """The statistics of a day that has no values: they replace what there is of turbines and signals."""
    return Statistics(OUTPUT.empty_table(), {day: dict.fromkeys(turbines, tuple(columns))}, tuple(columns))


def with_empty(some: Statistics, turbines: Sequence[str]) -> Statistics:
    """Statistics that replace signals of which there is no value, too.

    Args:
        turbines: that were asked for.
    """
    return replace(some, signals={day: dict.fromkeys(turbines, some.columns) for day in some.signals})


# Days


def midnight(day: date) -> datetime:
    """When a day begins, in UTC."""
    return datetime.combine(day, time(), tzinfo=UTC)


def day_slice(contract: type[Contract], day: date, **bounds: OneOf | Combinations) -> Slice:
    """The rows of a day, or those of them that other columns choose."""
    return Slice(contract, day.isoformat(), {"timestamp": Span(midnight(day), midnight(day + DAY)), **bounds})


def rows_of_day(rows: pa.Table, day: date) -> pa.Table:
    """The rows whose `timestamp` is on the day."""
    at = rows["timestamp"]
    begin, end = (pa.scalar(midnight(instant), at.type) for instant in (day, day + DAY))
    return rows.filter(pc.and_(pc.greater_equal(at, begin), pc.less(at, end)))


def stretches(days: Sequence[date], *, longest: int) -> Iterator[list[date]]:
    """Days that follow each other without a hole, at most so many together."""
    stretch: list[date] = []
    for day in sorted(set(days)):
        if stretch and (day - stretch[-1] != DAY or len(stretch) == longest):
            yield stretch
            stretch = []
        stretch.append(day)
    if stretch:
        yield stretch


def require_days(days: Sequence[date], *, first: date, last: date | None, now: datetime) -> None:
    """Reject days that there can be no statistics of.

    Args:
        first: TURBINES_START_DATE.
        last: TURBINES_END_DATE, if it is set.
        now: the present instant, aware.

    Raises:
        ConfigurationError: for a day before the first, after the last, or that is not over yet; names it and the setting.
    """
    now = now.astimezone(UTC)
    for day in days:
        if day < first:
            raise ConfigurationError(f"{day} is before {first}, the first day: TURBINES_START_DATE says so")
        if last is not None and day > last:
            raise ConfigurationError(f"{day} is after {last}, the last day: TURBINES_END_DATE says so")
        if day >= now.date():
            raise ConfigurationError(
                f"{day} is not over yet: it is {now:%Y-%m-%d %H:%M} in UTC, give a day before that"
            )


# From answers to raw rows


def raw_days(answers: Mapping[str, Minutes], days: Sequence[date], *, columns: Sequence[str]) -> list[FetchedDay]:
    """The answers for consecutive days, divided into these days.

    Args:
        answers: by turbine, each for all of the days.
        days: without a hole between them.
        columns: those that were asked for.
    """
    records: dict[date, list[Record]] = {day: [] for day in days}
    parts: dict[date, list[pa.Table]] = {day: [] for day in days}
    for turbine, answer in answers.items():
        for record, at in zip(answer.records, answer.records_at, strict=True):
            named = replace(record, raw={"turbine": turbine, **record.raw}) if turbine else record
            # One whose time cannot be told belongs to the first day.
            records[at.date() if at else days[0]].append(named)
        for day, rows in zip(days, _divided(answer.table, days), strict=True):
            parts[day].append(raw_rows(rows, turbine=turbine, columns=columns))
    outside = sum(answer.outside for answer in answers.values())
    others = sum(answer.others for answer in answers.values())
    fetched = [FetchedDay(day, Split(pa.concat_tables(parts[day]), records[day])) for day in days]
    return [replace(fetched[0], outside=outside, others=others), *fetched[1:]]


def _divided(rows: pa.Table, days: Sequence[date]) -> Iterator[pa.Table]:
    """The rows of each day in order of time, those of one instant as they came: the same in whatever order the source sends."""
    at = pc.cast(rows["timestamp"], pa.int64()).to_numpy()
    if not np.all(at[1:] >= at[:-1]):
        order = np.argsort(at, kind="stable")
        at, rows = at[order], rows.take(pa.array(order))
    begin = int(midnight(days[0]).timestamp()) * 1_000_000
    edges = np.searchsorted(at, begin + np.arange(len(days) + 1) * DAY_US).tolist()
    return (rows.slice(start, end - start) for start, end in itertools.pairwise(edges))


def raw_rows(rows: pa.Table, *, turbine: str, columns: Sequence[str]) -> pa.Table:
    """Minutes of a turbine in the contract of `RawTurbineSignals`, positions from 0."""
    length, schema = rows.num_rows, arrow_schema(RawTurbineSignals)
    cells = {
        **dict(zip(rows.column_names, rows.columns, strict=True)),
        "turbine": pa.repeat(turbine, length),
        "position": pa.array(np.arange(length)),
        "columns_asked": pa.repeat(SEPARATOR.join(columns), length),
    }
    return pa.table([cells.get(field.name, pa.nulls(length, field.type)) for field in schema], schema=schema)


# From raw rows to statistics


def statistics_of(
    batches: Iterable[pa.RecordBatch], *, no_value: Mapping[str, Sequence[float]] | None = None
) -> Iterator[Statistics]:
    """The statistics of raw signals, some whole days at a time; days without any value are left out.

    Args:
        batches: of `RawTurbineSignals`; all rows of a batch are of one day, and the batches of a day follow each other.
        no_value: by signal, the values that stand for none.
    """
    for together in _whole_days(batches):
        columns = tuple(_columns(together[0]).split(SEPARATOR))
        minutes = pa.Table.from_batches(together).select(["turbine", "timestamp", *columns, "position"])
        bins = ten_minute_statistics(minutes, columns=columns, no_value=no_value or {})
        if bins.num_rows:
            yield Statistics(bins, _signals_with_values(bins), columns)


def _signals_with_values(bins: pa.Table) -> dict[date, dict[str, list[str]]]:
    """By day and turbine the signals that bins have."""
    keys = {"day": bins["timestamp"].cast(pa.date32()), "turbine": bins["turbine"], "signal": bins["source_signal"]}
    there = pa.table(keys).group_by(list(keys)).aggregate([]).sort_by([(name, "ascending") for name in keys])
    found: dict[date, dict[str, list[str]]] = {}
    for one in there.to_pylist():
        found.setdefault(one["day"], {}).setdefault(one["turbine"], []).append(one["signal"])
    return found


def _whole_days(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Days of the same columns, so many that storing them is worth a transaction."""
    together: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        if together and _day(batch) != _day(together[-1]):
            rows = sum(one.num_rows for one in together)
            if rows >= ROWS_TOGETHER or _columns(batch) != _columns(together[-1]):
                yield together
                together = []
        together.append(batch)
    if together:
        yield together


def _columns(batch: pa.RecordBatch) -> str:
    return str(batch["columns_asked"][0].as_py())


def _day(batch: pa.RecordBatch) -> date:
    at: datetime = batch["timestamp"][0].as_py()
    return at.astimezone(UTC).date()
