"""The target database of the turbines' statistics: where it is, and what is stored in it, a day or several in one transaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.servers import beside_platform
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.reading import read
from etl_assets.core.slices.slice import Combinations, OneOf, Slice
from etl_assets.core.slices.writing import Outcome, Write, write, write_together
from etl_assets.systems.turbines.contracts import STATISTICS, Bin, Data, RawTurbineSignals, Signal
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.transform import DAY, Statistics, day_slice, midnight, rows_of_day

TARGET = "alvo"
SignalIds = Mapping[tuple[str, str, str], int]


def turbines_target(settings: TurbinesSettings | None = None) -> Database:
    """The target database; by default one beside the platform's, on the same server."""
    settings = settings or TurbinesSettings.load()
    if settings.turbines_target_url is not None:
        url: str | Callable[[], str] = settings.required("turbines_target_url")
    else:
        url = beside_platform(settings, TARGET, variable="TURBINES_TARGET_URL")
    variable = "ETL_POSTGRES_URL" if settings.turbines_target_url is None else "TURBINES_TARGET_URL"
    return Database(url, name="target", migrate=settings.etl_migrate, variable=variable)


DATABASES = {"target": turbines_target}


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
    database: Database, statistics: Statistics, *, inputs: Inputs, run_id: str = "script", source: str = ""
) -> list[StoredDay]:
    """Replace the statistics of days, for the turbines and signals that the source has something of; all or none.

    What is of others stays: turbines and signals that the source has no value of on a day, or that this run did not ask for.

    Args:
        inputs: the raw signals of these days.

    Raises:
        TransientError, PermanentError: as `write_together`; then nothing was changed.
    """
    columns, of_days = statistics.columns, sorted(statistics.signals.items())
    ids = signal_ids(database, turbines=sorted({name for _, of_day in of_days for name in of_day}), columns=columns)
    data = _data(statistics.bins, ids)
    bins = statistics.bins.select(list(Bin.columns)).cast(arrow_schema(Bin))
    given: list[tuple[pa.Table, Slice]] = []
    counts: list[int] = []
    for day, of_day in of_days:
        pairs = tuple((turbine, column) for turbine, found in of_day.items() for column in found)
        signals = sorted(ids[*pair, what] for pair in pairs for what in STATISTICS)
        of_data = day_slice(Data, day, signal_id=OneOf(tuple(signals)))
        of_bins = day_slice(Bin, day, turbine=Combinations(("turbine", "source_signal"), pairs))
        rows = rows_of_day(bins, day)
        given += [(rows_of_day(data, day), of_data), (rows, of_bins)]
        counts.append(rows.group_by(["timestamp", "turbine"]).aggregate([]).num_rows)
    inputs.go_by_partition(RawTurbineSignals)
    how = Write("partition", run_id=run_id, source=source, inputs=inputs)
    outcomes = write_together(database, given, how)
    rows_of_days = zip(of_days, outcomes[::2], outcomes[1::2], counts, strict=True)
    return [StoredDay(day, in_data, in_bins, count) for (day, _), in_data, in_bins, count in rows_of_days]


def signal_ids(database: Database, *, turbines: Sequence[str], columns: Sequence[str]) -> SignalIds:
    """The id of each turbine, column and statistic; signals that are new are added."""
    wanted = {
        (f"{column}_{what}", name): (name, column, what)
        for name in turbines
        for column in columns
        for what in STATISTICS
    }
    known = _known_signals(database)
    if not wanted.keys() <= known.keys():
        # Of two that add the same signal the second finds it.
        with locked(database, [Slice(Signal)]) as lock:
            known = _known_signals(database)
            first = max(known.values(), default=0) + 1
            new = [key for key in wanted if key not in known]
            known |= {key: number for number, key in enumerate(new, first)}
            rows = [{"id": known[name, turbine], "name": name, "turbine": turbine} for name, turbine in new]
            table = pa.Table.from_pylist(rows, arrow_schema(Signal))
            write(database, table, [Slice(Signal)], Write("upsert", source="signals asked for", lock=lock))
    return {wanted[key]: number for key, number in known.items() if key in wanted}


def _known_signals(database: Database) -> dict[tuple[str, str], int]:
    """The ids by name and turbine."""
    rows = read(database, [Slice(Signal)]).to_pylist()
    return {(row["name"], row["turbine"]): row["id"] for row in rows}


def _data(bins: pa.Table, ids: SignalIds) -> pa.Table:
    """A row per bin and statistic."""
    both = pc.binary_join_element_wise(bins["turbine"], bins["source_signal"], "\n")
    pairs = both.combine_chunks().dictionary_encode()
    signals = [pair.rsplit("\n", 1) for pair in pairs.dictionary.to_pylist()]
    parts = []
    for what in STATISTICS:
        of_pairs = pa.array([ids[turbine, column, what] for turbine, column in signals])
        columns = [bins["timestamp"], of_pairs.take(pairs.indices), bins[what]]
        parts.append(pa.table(columns, ["timestamp", "signal_id", "value"]))
    return pa.concat_tables(parts).cast(arrow_schema(Data))


def days_with_bins(database: Database, *, first: date, last: date) -> dict[date, int]:
    """The days from the first to the last that have statistics, and how many bins."""
    with database.connect() as connection:
        found = connection.execute(
            "SELECT (timestamp AT TIME ZONE 'UTC')::date AS day, count(*) FROM public.bin"
            " WHERE timestamp >= %s AND timestamp < %s GROUP BY 1",
            (midnight(first), midnight(last + DAY)),
        ).fetchall()
    return dict(found)
