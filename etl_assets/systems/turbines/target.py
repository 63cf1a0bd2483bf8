"""The target database: statistics and what they are made of, a day or several in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.database.locks import advisory_lock, limit_waits
from etl_assets.core.slices.slice import OneOf, Slice
from etl_assets.core.slices.writing import Outcome, Write, write_together
from etl_assets.systems.turbines.contracts import STATISTICS, Bin, Data, Signal
from etl_assets.systems.turbines.days import DAY, day_slice, midnight
from etl_assets.systems.turbines.transform import Statistics, rows_of_day

if TYPE_CHECKING:
    import psycopg

SignalIds = Mapping[tuple[str, str, str], int]
NEW_SIGNALS = """
    INSERT INTO public.signal (id, name, turbine)
    SELECT (SELECT coalesce(max(id), 0) FROM public.signal) + row_number() OVER (ORDER BY place), name, turbine
    FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS wanted (name, turbine, place)
    WHERE NOT EXISTS (SELECT FROM public.signal AS s WHERE s.name = wanted.name AND s.turbine = wanted.turbine)
"""


@dataclass(frozen=True)
class StoredDay:
    """What became of the rows of a day, in each of its two tables.

    Attributes:
        count: bins of ten minutes of a turbine, each with a row per signal.
    """

    day: date
    data: Outcome
    bins: Outcome
    count: int


def store_days(
    database: Database, statistics: Statistics, *, run_id: str = "script", source: str = ""
) -> list[StoredDay]:
    """Replace the statistics of days, for the turbines and signals that the source has something of; all or none.

    What is of others stays: a turbine that the source has nothing of on a day, and signals that this run did not ask for.

    Raises:
        TransientError, PermanentError: as `write_together`; then nothing was changed.
    """
    columns = statistics.columns
    names = tuple(sorted({name for of_day in statistics.turbines.values() for name in of_day}))
    ids = signal_ids(database, turbines=names, columns=columns)
    data = _data(statistics.bins, ids)
    bins = statistics.bins.select(list(Bin.columns)).cast(arrow_schema(Bin))
    given: list[tuple[pa.Table, Slice]] = []
    counts: list[int] = []
    for day, turbines in sorted(statistics.turbines.items()):
        signals = sorted(ids[name, column, what] for name in turbines for column in columns for what in STATISTICS)
        of_bins = day_slice(Bin, day, turbine=OneOf(tuple(turbines)), source_signal=OneOf(columns))
        rows = rows_of_day(bins, day)
        given += [(rows_of_day(data, day), day_slice(Data, day, signal_id=OneOf(tuple(signals)))), (rows, of_bins)]
        counts.append(rows.group_by(["timestamp", "turbine"]).aggregate([]).num_rows)
    outcomes = write_together(database, given, Write("partition", run_id=run_id, source=source))
    days = sorted(statistics.turbines)
    return [StoredDay(*one) for one in zip(days, outcomes[::2], outcomes[1::2], counts, strict=True)]


def signal_ids(database: Database, *, turbines: Sequence[str], columns: Sequence[str]) -> SignalIds:
    """The id of each turbine, column and statistic; signals that are new are added."""
    wanted = [(turbine, column, what) for turbine in turbines for column in columns for what in STATISTICS]
    with database.connect() as connection:
        limit_waits(connection)
        known = _known(connection, turbines)
        if not known.keys() >= set(wanted):
            # Of two that add the same signal the second finds it.
            advisory_lock(connection, Signal.config.table)
            names = [f"{column}_{what}" for _, column, what in wanted]
            connection.execute(NEW_SIGNALS, (names, [turbine for turbine, _, _ in wanted]))
            known = _known(connection, turbines)
    return {key: known[key] for key in wanted}


def days_with_bins(database: Database, *, first: date, last: date) -> dict[date, int]:
    """The days from the first to the last that have statistics, and how many bins."""
    with database.connect() as connection:
        found = connection.execute(
            "SELECT (timestamp AT TIME ZONE 'UTC')::date AS day, count(*) FROM public.bin"
            " WHERE timestamp >= %s AND timestamp < %s GROUP BY 1",
            (midnight(first), midnight(last + DAY)),
        ).fetchall()
    return dict(found)


def _known(connection: "psycopg.Connection[Any]", turbines: Sequence[str]) -> dict[tuple[str, str, str], int]:
    rows = connection.execute(
        "SELECT id, name, turbine FROM public.signal WHERE turbine = ANY(%s)", (list(turbines),)
    ).fetchall()
    return {(turbine, *name.rsplit("_", 1)): number for number, name, turbine in rows}


def _data(bins: pa.Table, ids: SignalIds) -> pa.Table:
    """A row per bin and statistic."""
    pairs = (
        pc.binary_join_element_wise(bins["turbine"], bins["source_signal"], "\n").combine_chunks().dictionary_encode()
    )
    signals = [pair.rsplit("\n", 1) for pair in pairs.dictionary.to_pylist()]
    parts = [
        pa.table(
            {
                "timestamp": bins["timestamp"],
                "signal_id": pa.array([ids[turbine, column, what] for turbine, column in signals]).take(pairs.indices),
                "value": bins[what],
            }
        )
        for what in STATISTICS
    ]
    return pa.concat_tables(parts).cast(arrow_schema(Data))
