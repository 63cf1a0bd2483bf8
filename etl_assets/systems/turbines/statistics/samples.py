"""Minutes of several turbines and days as arrays: in order, each instant once, cut into ten-minute bins.

Knows nothing of what is computed from them. What follows on from what is decided here: a series is one turbine on one UTC day.
A day is what is loaded, replaced and loaded again, so all statements about it rest on its own minutes alone and comes out
the same whether it is computed by itself or among others.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MINUTE_US = 60_000_000
BIN_US = 10 * MINUTE_US
DAY_US = 144 * BIN_US
SERIES_US = 2 * DAY_US  # a day, and a day of nothing after it: what is near in time is of one series
BLOCK = 1 << 17  # samples that are worked on at a time: what is made of them stays in the processor's cache
MICROSECONDS = pa.timestamp("us", tz="UTC")

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Samples:
    """The samples of one column that have a value, series after series, in order of time.

    Attributes:
        at: place of each on the line of all series, µs: those of one series are as far apart as in time, those of two at least
            a day; strictly rising.
        values: of the column; none is NaN.
        starts: the sample with which each bin begins.
        counts: samples of each bin, at least one.
    """

    at: Integers
    values: Floats
    starts: Integers
    counts: Integers

    def bins(self) -> Integers:
        """The place at which each bin begins."""
        return self.at[self.starts] // BIN_US * BIN_US

    def bin_of(self, samples: Integers) -> Integers:
        """The number of the bin that each of some samples is in."""
        return np.searchsorted(self.starts, samples, side="right") - 1

    def blocks(self) -> Iterator["Samples"]:
        """All samples in order, some series at a time."""
        bins = np.flatnonzero(np.diff(self.at[self.starts] // SERIES_US)) + 1
        edges = np.searchsorted(self.starts[bins], np.arange(BLOCK, len(self.at), BLOCK))
        cuts = [0, *bins[np.unique(edges[edges < len(bins)])].tolist(), len(self.starts)]
        for first, last in itertools.pairwise(cuts if len(self.at) else ()):
            begin = self.starts[first]
            end = self.starts[last] if last < len(self.starts) else len(self.at)
            yield Samples(
                at=self.at[begin:end],
                values=self.values[begin:end],
                starts=self.starts[first:last] - begin,
                counts=self.counts[first:last],
            )


@dataclass(frozen=True)
class Ordered:
    """Rows of the input in order of day, turbine and time, each instant of a turbine once.

    Attributes:
        turbines: their names in order.
        first_day: the earliest day, days since 1970.
        rows: the rows of the input that count, in order; None for all as they are.
        at: the place of each, see `Samples`.
        starts: the row with which each bin begins.
        repeated: places of the bins in which an instant came more than once, rising.
    """

    turbines: tuple[str, ...]
    first_day: int
    rows: Integers | None
    at: Integers
    starts: Integers
    repeated: Integers

    def samples(self, column: pa.ChunkedArray) -> Samples:
        """The samples of a column of the same table; NULL and NaN are none."""
        values = column.cast(pa.float64()).to_numpy()
        if self.rows is not None:
            values = values[self.rows]
        missing = np.isnan(values)
        at, starts = self.at, self.starts
        if missing.any():
            at, values = at[~missing], values[~missing]
            starts = bin_starts(at)
        return Samples(at, values, starts, np.diff(starts, append=len(at)))

    def instants(self, places: Integers) -> tuple[Integers, Integers]:
        """The instant, µs since 1970, and the number of the turbine that each of some places stands for."""
        series, time_of_day = np.divmod(places, SERIES_US)
        day, turbine = np.divmod(series, len(self.turbines))
        return (day + self.first_day) * DAY_US + time_of_day, turbine


def bin_starts(at: Integers) -> Integers:
    """The positions with which bins begin in rising places."""
    bins = at // BIN_US
    return np.flatnonzero(np.concatenate((np.ones(min(1, len(at)), dtype=bool), bins[1:] != bins[:-1])))


def ordered(minutes: pa.Table, columns: Sequence[str]) -> Ordered:
    """Put minutes in order; of rows of one turbine and instant the one with the last position counts, as a whole.

    Args:
        minutes: `turbine`, `timestamp` (with a zone), `position` and the columns, in any order of rows.
        columns: that will be asked for.

    Raises:
        ValueError: if timestamps are naive or too far apart, a column is missing or asked for twice, or a turbine, timestamp or
            position is NULL.
    """
    _check(minutes, columns)
    turbines, turbine = _turbines(minutes["turbine"])
    times = minutes["timestamp"].cast(MICROSECONDS).cast(pa.int64()).to_numpy()
    if not len(times):
        return Ordered(turbines, 0, None, times, times, times)
    days = times // DAY_US
    first_day, last_day = int(days.min()), int(days.max())
    if (last_day - first_day + 1) * len(turbines) >= 2**63 // SERIES_US:
        raise ValueError(
            f"{last_day - first_day + 1} days lie between the first and the last timestamp of {len(turbines)} turbines: "
            "compute stretches of time that belong together"
        )
    at = times + ((days - first_day) * len(turbines) + turbine) * SERIES_US - days * DAY_US
    if (at[1:] > at[:-1]).all():
        return Ordered(turbines, first_day, None, at, bin_starts(at), at[:0])
    rows = _sorted(at, minutes["position"].cast(pa.int64()).to_numpy())
    at = at[rows]
    followed = np.append(at[1:] == at[:-1], False)
    repeated = np.unique(at[followed] // BIN_US * BIN_US)
    rows, at = rows[~followed], at[~followed]
    return Ordered(turbines, first_day, rows, at, bin_starts(at), repeated)


def _check(minutes: pa.Table, columns: Sequence[str]) -> None:
    if len(set(columns)) < len(columns):
        raise ValueError(f"columns are asked for twice: {', '.join(columns)}")
    missing = [name for name in ("turbine", "timestamp", "position", *columns) if name not in minutes.column_names]
    if missing:
        raise ValueError(f"minutes lack {', '.join(missing)}: they have {', '.join(minutes.column_names)}")
    kind = minutes.schema.field("timestamp").type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise ValueError(f"timestamp is {kind}: give the times a zone")
    for name in ("turbine", "timestamp", "position"):
        if minutes[name].null_count:
            raise ValueError(f"{minutes[name].null_count} minutes have no {name}: leave them out before")


def _turbines(column: pa.ChunkedArray) -> tuple[tuple[str, ...], Integers]:
    """Names in order, and the number of each row's."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    rank = np.empty(len(names), dtype=np.int64)
    rank[sorted(range(len(names)), key=lambda i: names[i])] = np.arange(len(names))
    return tuple(sorted(names)), rank[encoded.indices.to_numpy()]


def _sorted(at: Integers, position: Integers) -> Integers:
    """Rows in order of place and, of one place, of position; of equal positions in the order given."""
    rows = np.argsort(at, kind="stable")
    places = at[rows]
    equal = places[1:] == places[:-1]
    # Sorting by two keys takes twice as long as by one: it is done where the first leaves something open.
    tied = np.flatnonzero(np.append(equal, False) | np.insert(equal, 0, False))
    members = rows[tied]
    rows[tied] = members[np.lexsort((position[members], places[tied]))]
    return rows
