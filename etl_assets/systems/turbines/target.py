"""The target database: statistics and what they are made of, a day or several in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.database.locks import advisory_lock, limit_waits
from etl_assets.core.slices.slice import OneOf, Slice, Span
from etl_assets.core.slices.writing import Outcome, Write, write_together
from etl_assets.systems.turbines.contracts import Bin, Data, Signal
from etl_assets.systems.turbines.days import DAY, day_slice, midnight
from etl_assets.systems.turbines.signals import STATISTICS


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
    database: Database,
    bins: pa.Table,
    turbines: Mapping[date, Sequence[str]],
    *,
    columns: Sequence[str],
    run_id: str = "script",
    source: str = "",
) -> list[StoredDay]:
    """Replace the statistics of days, for the turbines and signals that there is something to say of; all or none.

    What others asked for stays: a turbine that the source says nothing of on a day, and signals that this run did not
    ask for.

    Args:
        bins: as `ten_minute_statistics` gives them, of these days.
        turbines: by day those that the source has rows of; each day has at least one.
        columns: the signals that were asked for.

    Raises:
        TransientError, PermanentError: as `write_together`; then nothing was changed.
    """
    names = tuple(sorted({name for of_day in turbines.values() for name in of_day}))
    ids = signal_ids(database, turbines=names, columns=columns)
    data = _data(bins, ids)
    made_of = bins.select(list(Bin.columns)).cast(arrow_schema(Bin))
    given: list[tuple[pa.Table, Slice]] = []
    counts: list[int] = []
    for day, of_day in sorted(turbines.items()):
        signals = tuple(sorted(ids[name, column, what] for name in of_day for column in columns for what in STATISTICS))
        of_data = day_slice(Data, day, signal_id=OneOf(signals))
        of_bins = day_slice(Bin, day, turbine=OneOf(tuple(of_day)), source_signal=OneOf(tuple(columns)))
        rows = _within(made_of, of_bins)
        given += [(_within(data, of_data), of_data), (rows, of_bins)]
        counts.append(rows.group_by(["timestamp", "turbine"]).aggregate([]).num_rows)
    outcomes = write_together(database, given, Write("partition", run_id=run_id, source=source))
    return [StoredDay(*one) for one in zip(sorted(turbines), outcomes[::2], outcomes[1::2], counts, strict=True)]


def signal_ids(
    database: Database, *, turbines: Sequence[str], columns: Sequence[str]
) -> dict[tuple[str, str, str], int]:
    """The id of each turbine, column and statistic; signals that are new are entered."""
    wanted = [(turbine, column, what) for turbine in turbines for column in columns for what in STATISTICS]
    with database.connect() as connection:
        limit_waits(connection)
        known = _known(connection, turbines)
        missing = [key for key in wanted if key not in known]
        if missing:
            # Of two that enter the same signal the second finds it.
            advisory_lock(connection, Signal.config.table)
            known = _known(connection, turbines)
            missing = [key for key in wanted if key not in known]
            next_id = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM public.signal").fetchone()[0]  # type: ignore[index]
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO public.signal (id, name, turbine) VALUES (%s, %s, %s)",
                    [(next_id + i, f"{column}_{what}", turbine) for i, (turbine, column, what) in enumerate(missing)],
                )
            known |= {key: next_id + i for i, key in enumerate(missing)}
    return {key: known[key] for key in wanted}


def days_there(database: Database, *, first: date, last: date) -> dict[date, int]:
    """The days from the first to the last that have statistics, and how many bins."""
    with database.connect() as connection:
        found = connection.execute(
            "SELECT (timestamp AT TIME ZONE 'UTC')::date AS day, count(*) FROM public.bin"
            " WHERE timestamp >= %s AND timestamp < %s GROUP BY 1",
            (midnight(first), midnight(last + DAY)),
        ).fetchall()
    return dict(found)


def _known(connection: object, turbines: Sequence[str]) -> dict[tuple[str, str, str], int]:
    rows = connection.execute(  # type: ignore[attr-defined]
        "SELECT id, name, turbine FROM public.signal WHERE turbine = ANY(%s)", (list(turbines),)
    ).fetchall()
    return {(turbine, *name.rsplit("_", 1)): number for number, name, turbine in rows}


def _data(bins: pa.Table, ids: Mapping[tuple[str, str, str], int]) -> pa.Table:
    """A row per bin and statistic."""
    pairs = pc.binary_join_element_wise(bins["turbine"], bins["source_signal"], "\n")
    coded = (
        pairs.combine_chunks().dictionary_encode() if bins.num_rows else pa.array([], pa.string()).dictionary_encode()
    )
    of_pair = np.array(
        [[ids[(*pair.rsplit("\n", 1), what)] for what in STATISTICS] for pair in coded.dictionary.to_pylist()],
        dtype=np.int64,
    ).reshape(-1, len(STATISTICS))
    signal = of_pair[coded.indices.to_numpy(zero_copy_only=False)]
    return pa.table(
        {
            "timestamp": pa.concat_arrays([chunk for _ in STATISTICS for chunk in bins["timestamp"].chunks])
            if bins.num_rows
            else pa.array([], bins.schema.field("timestamp").type),
            "signal_id": pa.array(signal.T.ravel()),
            "value": pa.chunked_array([chunk for what in STATISTICS for chunk in bins[what].chunks], pa.float64()),
        }
    ).cast(arrow_schema(Data))


def _within(rows: pa.Table, piece: Slice) -> pa.Table:
    """The rows of a day; all of them are of the turbines and signals that were asked for."""
    day = piece.bounds["timestamp"]
    assert isinstance(day, Span)
    at = rows["timestamp"]
    kind = at.type
    inside = pc.and_(
        pc.greater_equal(at, pa.scalar(day.start, kind)),
        pc.less(at, pa.scalar(day.end, kind)),
    )
    return rows.filter(inside)
