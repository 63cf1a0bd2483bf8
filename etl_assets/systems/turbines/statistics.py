"""Ten-minute statistics of one-minute signals, with flags: pure functions between tables.

Knows nothing of where the minutes come from and where the statistics go. A series is one turbine on one UTC day: a day is what
is loaded, replaced and loaded again, so all statements about it rest on its own minutes alone, and come out the same whether
it is computed by itself or among others. No flag drops or changes a value, but for one of `out_of_range`: what is no direction is
no value.

| flag | raised in a bin when |
|---|---|
| `gap` | one of its ten minutes has no value |
| `duplicate` | an instant in it came with more than one value of the column, whatever they are |
| `out_of_range` | a value is below `lowest` or above `highest` of `SIGNALS`; of a column on the compass it is left out |
| `frozen` | a value in it is one of at least `FROZEN_SAMPLES` equal ones in a row; see `frozen` |
| `spike` | a value stands out of its surroundings (Hampel identifier) by a physically large step; see `spikes` |
| `low_coverage` | the share of its minutes that have a value is below `LOW_COVERAGE` |

A column that `SIGNALS` does not know has no range and no physical scale, so it is never out of range and never a spike.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from etl_assets.systems.turbines.contracts import FLAGS, SIGNALS, STATISTICS

MINUTE_US = 60_000_000
BIN_US = 10 * MINUTE_US
DAY_US = 144 * BIN_US
SERIES_US = 2 * DAY_US  # a day, and a day of nothing after it: what is near in time is of one series
MICROSECONDS = pa.timestamp("us", tz="UTC")
OUTPUT = pa.schema(
    [
        pa.field("timestamp", MICROSECONDS),
        pa.field("turbine", pa.string()),
        pa.field("source_signal", pa.string()),
        *(pa.field(name, pa.float64()) for name in STATISTICS),
        pa.field("n", pa.int64()),
        pa.field("coverage", pa.float64()),
        pa.field("flags", pa.string()),
    ]
)
# Between these the square of a deviation is a normal float, and so is a sum of them.
SQUARABLE = (1e-140, 1e140)
MEAN_ERROR = 1e-10  # of a mean, absolute or relative: beyond it floats are not enough, and fractions do the sum
EPSILON = float(np.finfo(np.float64).eps)
# A mean vector shorter than this is what rounding leaves of vectors that cancel out.
SHORTEST_MEAN_VECTOR = 1e-9
YAMARTINO = 2 / 3**0.5 - 1

# Two thirds of the samples of a period must be there for its value to count: WMO-No. 8, automatic weather stations.
LOW_COVERAGE = 2 / 3

# An hour without change is the persistence test of WMO's guidelines for automatic weather stations (Zahumenský 2004). Wind and
# power carry the turbulence in every minute, so for them ten equal minutes are as telling as OpenOA's three
# equal ten-minute means (`unresponsive_flag`).
FROZEN_SAMPLES = {"wind_speed": 10, "power": 10}
FROZEN_SAMPLES_ELSE = 60
FROZEN_SILENCE_US = 10 * MINUTE_US  # the longest silence that a run goes on over
# A controller holds these at their maximum for hours: rated power.
LIMITED = frozenset({"power"})
RATED_SHARE = 0.99  # of the maximum: from here on a turbine is at rated power

SPIKE_SAMPLES = 5  # on each side
SPIKE_REACH_US = 10 * MINUTE_US  # and none further away than this
SPIKE_LEAST = 2  # on each side: without a way there and back it cannot be told from a step
SPIKE_MADS = (
    5.0  # Pearson's 3 flag three normal samples in a hundred, as the MAD of eleven is rough; 5 flag one in two hundred
)
MAD_TO_SIGMA = 1.4826  # of a normal distribution
# The least step, in the signal's unit, that no minute takes and the next takes back. Wind: several standard deviations of a
# minute's mean in strong turbulence. Power: the rotor's inertia and the pitch control even gusts out. Air: WMO's limit for the
# change in a minute (Zahumenský 2004). Direction: in wind that turns a rotor a vane stays within a sector.
SPIKE_STEP = {"wind_speed": 5.0, "power": 500.0, "ambient_temperature": 3.0, "wind_direction": 60.0}

# What is written for each number that `flags` gives.
FLAG_NAMES = [
    ";".join(name for bit, name in enumerate(FLAGS) if number >> bit & 1) for number in range(1 << len(FLAGS))
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NOWHERE: Integers = np.empty(0, dtype=np.int64)


def ten_minute_statistics(
    minutes: pa.Table, *, columns: Sequence[str], no_value: Mapping[str, Sequence[float]] = MappingProxyType({})
) -> pa.Table:
    """Mean, min, max, sample standard deviation and flags of each column per turbine and ten-minute bin.

    Bins are [t, t + 10 min) in UTC and labelled by their start. A sample is a row with a value; a bin without one is absent for
    that column, a bin with one has a NULL deviation (ddof = 1). Rows of one turbine and instant are one sample, that of the last
    position that has a value of the column: a source may send the signals of an instant in rows of their own. Different instants are different samples, on the minute or not, so
    a source that gives more than one a minute has bins with n above 10; coverage is the share of the bin's ten minutes in
    which there is a sample, which for one sample a minute is n / 10, and never exceeds 1.

    A column on the compass (`SIGNALS[…].circular`) is averaged on the circle. `mean` is the direction of the mean of the unit
    vectors, in [0, 360); NULL if they cancel out, and `min` and `max` with it. `std` is by Yamartino's formula, see
    `circular_statistics`. `min` and `max` are the samples furthest from the mean counter-clockwise and clockwise, in [0, 360):
    from `min` clockwise to `max` goes the shortest arc that contains the mean and all samples, each on its nearer
    side; across north `min` is the greater number.

    Args:
        minutes: `turbine`, `timestamp` (with a zone), `position` (place in the source's answer), and one column of
            numbers each; any order of rows, several turbines and days.
        columns: those to compute. One that `SIGNALS` does not know is averaged as a plain number.
        no_value: by column, the values that stand for none.

    Returns:
        One row per bin and column that has a sample, in order (timestamp, turbine, source_signal), schema `OUTPUT`. `n` counts
        samples; `flags` are joined by `;`. What a float cannot hold (the deviation of ±1e308) is NULL.

    Raises:
        ValueError: see `ordered`; also if a value is infinite.
    """
    rows = ordered(minutes, columns)
    names = sorted(columns)
    samples = [rows.samples(name, minutes[name], no_value.get(name, ())) for name in names]
    parts = [_column(name, of) for name, of in zip(names, samples, strict=True) if len(of.at)]
    if not parts:
        return OUTPUT.empty_table()
    signal = np.repeat(np.arange(len(names)), [len(of.starts) for of in samples])
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    start, turbine = rows.instants(joined.pop("bin"))
    rank = ((start - start.min()) // BIN_US * len(rows.turbines) + turbine) * len(names) + signal
    order = np.argsort(rank, kind="stable")
    return pa.table(
        {
            "timestamp": pa.array(start[order], MICROSECONDS),
            "turbine": _named(turbine[order], rows.turbines),
            "source_signal": _named(signal[order], names),
            **{name: pa.array(joined[name][order], from_pandas=True) for name in (*STATISTICS, "n", "coverage")},
            "flags": _named(joined["flags"][order], FLAG_NAMES),
        },
        schema=OUTPUT,
    )


def _named(codes: npt.NDArray[np.integer], names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string())).dictionary_decode()


# Samples


@dataclass(frozen=True)
class Samples:
    """The samples of one column that have a value, series after series, in order of time.

    Attributes:
        at: place of each on the line of all series, µs: those of one series are as far apart as in time, those of two at least
            a day; strictly rising.
        values: of the column; none is NaN.
        repeated: places of instants that had more than one value.
        impossible: places of values that cannot be, and were left out.
    """

    at: Integers
    values: Floats
    repeated: Integers
    impossible: Integers

    @cached_property
    def starts(self) -> Integers:
        """The sample with which each bin begins."""
        bins = self.at // BIN_US
        return np.flatnonzero(np.append(True, bins[1:] != bins[:-1])[: len(bins)])

    @cached_property
    def counts(self) -> Integers:
        """Samples of each bin, at least one."""
        return np.diff(self.starts, append=len(self.at))

    @cached_property
    def bins(self) -> Integers:
        """The place at which each bin begins."""
        return self.at[self.starts] // BIN_US * BIN_US

    @cached_property
    def low(self) -> Floats:
        """The least value of each bin."""
        return np.minimum.reduceat(self.values, self.starts)

    @cached_property
    def high(self) -> Floats:
        """The greatest value of each bin."""
        return np.maximum.reduceat(self.values, self.starts)

    @cached_property
    def minutes(self) -> Integers:
        """How many minutes of each bin have a sample."""
        close = np.flatnonzero(self.at[1:] - self.at[:-1] < MINUTE_US)
        again = close[self.at[close] // MINUTE_US == self.at[close + 1] // MINUTE_US]
        return self.counts - np.bincount(self.bin_of(again), minlength=len(self.counts))

    def bins_with(self, places: Integers) -> Flags:
        """For each bin whether one of some places is in it."""
        return np.isin(self.bins, places // BIN_US * BIN_US)

    def bin_of(self, samples: Integers) -> Integers:
        """The number of the bin that each of some samples is in."""
        return np.searchsorted(self.starts, samples, side="right") - 1


@dataclass(frozen=True)
class Ordered:
    """Rows of the input in order of day, turbine, time and position.

    Attributes:
        turbines: their names in order.
        first_day: the earliest day, days since 1970.
        rows: the rows of the input in order; None for as they are, no two of an instant.
        at: the place of each, see `Samples`.
    """

    turbines: Sequence[str]
    first_day: int
    rows: Integers | None
    at: Integers

    def samples(self, name: str, column: pa.ChunkedArray, no_value: Sequence[float] = ()) -> Samples:
        """The samples of a column of the same table; NULL, NaN and some values are none, nor is what is no direction.

        Args:
            name: of the column.
            no_value: the values that stand for none.
        """
        values = column.cast(pa.float64()).to_numpy()
        values = values if self.rows is None else values[self.rows]
        missing, impossible = np.isnan(values), NOWHERE
        if no_value:
            # Sources with shorter floats send the nearest of theirs.
            with np.errstate(over="ignore"):
                short = np.asarray(no_value, np.float32).astype(np.float64)
            missing |= np.isin(values, [*no_value, *short])
        if name in SIGNALS and SIGNALS[name].circular:
            outside = ~missing & ((values < SIGNALS[name].lowest) | (values > SIGNALS[name].highest))
            impossible = self.at[outside]
            missing |= outside
        at, values = (self.at[~missing], values[~missing]) if missing.any() else (self.at, values)
        if self.rows is None:
            return Samples(at, values, NOWHERE, impossible)
        followed = np.append(at[1:] == at[:-1], np.zeros(min(len(at), 1), dtype=bool))
        return Samples(at[~followed], values[~followed], at[followed], impossible)

    def instants(self, places: Integers) -> tuple[Integers, Integers]:
        """The instant, µs since 1970, and the number of the turbine that each of some places stands for."""
        series, time_of_day = np.divmod(places, SERIES_US)
        day, turbine = np.divmod(series, len(self.turbines))
        return (day + self.first_day) * DAY_US + time_of_day, turbine


def ordered(minutes: pa.Table, columns: Sequence[str]) -> Ordered:
    """Put minutes in order.

    Args:
        minutes: `turbine`, `timestamp` (with a zone), `position` and the columns, in any order of rows.
        columns: that will be asked for.

    Raises:
        ValueError: if timestamps are naive or too far apart, a column is missing or asked for twice, or a turbine, timestamp or
            position is NULL.
    """
    _check(minutes, columns)
    encoded = minutes["turbine"].cast(pa.string()).combine_chunks().dictionary_encode()
    turbines, number = np.unique(np.array(encoded.dictionary.to_pylist(), object), return_inverse=True)
    turbine = number[encoded.indices.to_numpy()]
    times = minutes["timestamp"].cast(MICROSECONDS).cast(pa.int64()).to_numpy()
    days = times // DAY_US
    first_day, last_day = (int(days.min()), int(days.max())) if len(days) else (0, 0)
    if (last_day - first_day + 1) * len(turbines) >= 2**63 // SERIES_US:
        raise ValueError(
            f"{last_day - first_day + 1} days lie between the first and the last timestamp of {len(turbines)} turbines: "
            "compute stretches of time that belong together"
        )
    at = times + ((days - first_day) * len(turbines) + turbine) * SERIES_US - days * DAY_US
    if (at[1:] > at[:-1]).all():
        return Ordered(turbines.tolist(), first_day, None, at)
    rows = np.lexsort((minutes["position"].cast(pa.int64()).to_numpy(), at))
    return Ordered(turbines.tolist(), first_day, rows, at[rows])


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


# Statistics


def _column(name: str, samples: Samples) -> dict[str, npt.NDArray[np.generic]]:
    """The columns of the output for one column of the source, NaN for NULL, by bin in the order of the samples.

    Args:
        name: of the column.
        samples: of the column, at least one.
    """
    infinite = np.isinf(samples.low) | np.isinf(samples.high)
    if infinite.any():
        raise ValueError(f"{name} has an infinite value in {infinite.sum()} bins: reject such rows before")
    circular = name in SIGNALS and SIGNALS[name].circular
    found = circular_statistics(samples) if circular else plain_statistics(samples)
    return {
        "bin": samples.bins,
        **dict(zip(STATISTICS, found, strict=True)),
        "n": samples.counts,
        "coverage": samples.minutes * MINUTE_US / BIN_US,
        "flags": flags(name, samples),
    }


def plain_statistics(samples: Samples) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, min, max and sample standard deviation of each bin.

    In two passes, corrected for the rounding of the mean (Chan, Golub, LeVeque 1983): a large offset costs no digits.
    The few bins in which floats are not enough, as values that cancel out or whose squares overflow, are computed with fractions.

    Args:
        samples: of one column, of at least one bin; all finite.

    Returns:
        One value each per bin, NaN where there is none.
    """
    starts, n, low, high = samples.starts, samples.counts, samples.low, samples.high
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        rough = np.add.reduceat(samples.values, starts) / n
        deviations = samples.values - np.repeat(rough, n)
        rest = np.add.reduceat(deviations, starts) / n
        mean = np.clip(rough + rest, low, high)
        np.square(deviations, out=deviations)
        squares = np.add.reduceat(deviations, starts) - n * np.square(rest)
        std = np.sqrt(np.maximum(squares, 0) / (n - 1))
        spread = high - low
        bound = MEAN_ERROR * np.maximum(np.abs(mean), 1)
        enough = (spread > SQUARABLE[0]) & (spread < SQUARABLE[1]) & (n * EPSILON * spread <= bound)
    same = low == high
    mean[same] = low[same]
    std[same] = np.where(n[same] > 1, 0.0, np.nan)
    for i in np.flatnonzero(~enough & ~same):
        mean[i], std[i] = _exact(samples.values[starts[i] : starts[i] + n[i]].tolist())
    return mean, low, high, std


def _exact(values: list[float]) -> tuple[float, float]:
    try:
        return statistics.mean(values), statistics.stdev(values)
    except OverflowError:
        return statistics.mean(values), np.nan


def circular_statistics(samples: Samples) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, ends of the arc, and standard deviation of directions in degrees; see `ten_minute_statistics`.

    The deviation is Yamartino's (1984, J. Climate Appl. Meteor. 23, 1362), the one that the EPA recommends for wind direction
    (EPA-454/R-99-005, 6.2.1) and that data loggers compute: asin(ε) · (1 + (2/√3 - 1) · ε³), where ε² = 1 - R² and R is the
    length of the mean of the unit vectors. It has no ddof; of one sample it is NULL like every other. Directions all round
    the compass have 103.9°.

    Args:
        samples: of one column, of at least one bin; all finite.

    Returns:
        One value each per bin, NaN where there is none.
    """
    starts, n = samples.starts, samples.counts
    directions = _compass(samples.values)
    east, north = (np.add.reduceat(part(np.radians(directions)), starts) / n for part in (np.sin, np.cos))
    mean = _compass(np.degrees(np.arctan2(east, north)))
    away = np.mod(directions - np.repeat(mean, n) + 180, 360) - 180
    # 1 - R from the deviations: from R itself, nearly 1, a calm vane would be left with half of its digits.
    short = np.add.reduceat(2 * np.square(np.sin(np.radians(away) / 2)), starts) / n
    epsilon = np.sqrt(np.clip(short * (2 - short), 0, 1))
    std = np.degrees(np.arcsin(epsilon) * (1 + YAMARTINO * epsilon**3))
    left, right = (_where_reached(directions, away, end.reduceat(away, starts), n) for end in (np.minimum, np.maximum))
    same = left == right
    mean[same], std[same] = left[same], 0.0
    std[n == 1] = np.nan
    undefined = np.hypot(east, north) < SHORTEST_MEAN_VECTOR
    for found in (mean, left, right):
        found[undefined] = np.nan
    return mean, left, right, std


def _compass(degrees: Floats) -> Floats:
    """In [0, 360): the remainder of a tiny negative number rounds to 360."""
    turned = np.mod(degrees, 360)
    turned[turned >= 360] = 0.0
    return turned


def _where_reached(directions: Floats, away: Floats, extreme: Floats, n: Integers) -> Floats:
    """The sample of each bin that is as far away as its extreme, exactly as it came."""
    reached = np.flatnonzero(away == np.repeat(extreme, n))
    found = np.empty(len(n))
    found[np.repeat(np.arange(len(n)), n)[reached]] = directions[reached]
    return found


# Flags


def flags(column: str, samples: Samples) -> Integers:
    """The flags of each bin of one column, one bit each in the order of `FLAGS`; as `_column`."""
    outside = samples.bins_with(samples.impossible)
    if column in SIGNALS:
        outside |= (samples.low < SIGNALS[column].lowest) | (samples.high > SIGNALS[column].highest)
    spiky = np.bincount(samples.bin_of(spikes(column, samples)), minlength=len(samples.starts)) > 0
    found = {
        "gap": samples.minutes * MINUTE_US < BIN_US,
        "duplicate": samples.bins_with(samples.repeated),
        "out_of_range": outside,
        "frozen": frozen(column, samples, believable=~(outside | spiky)),
        "spike": spiky,
        "low_coverage": samples.minutes * MINUTE_US < LOW_COVERAGE * BIN_US,
    }
    return np.sum([found[name].astype(np.int64) << bit for bit, name in enumerate(FLAGS)], axis=0)


def frozen(column: str, samples: Samples, *, believable: Flags) -> Flags:
    """The bins that a run of equal values touches: at least `FROZEN_SAMPLES` in a row.

    A run goes on over missing minutes, up to `FROZEN_SILENCE_US`. A value that the signal may rest at (`SIGNALS[…].resting`) is
    not frozen. Nor is power at rated: within 1 % of the maximum that the day has in believable bins, if it also has values below
    that; a day that knows one value only has no maximum to speak of, and is frozen.

    Args:
        column: name of the source's column.
        samples: of that column.
        believable: the bins whose values may count as the maximum.
    """
    held = np.flatnonzero(samples.values[1:] == samples.values[:-1])
    held = held[samples.at[held + 1] - samples.at[held] <= FROZEN_SILENCE_US]
    first = held[np.diff(held, prepend=-2) != 1]
    last = held[np.diff(held, append=len(samples.at) + 1) != 1] + 1
    long = last - first + 1 >= FROZEN_SAMPLES.get(column, FROZEN_SAMPLES_ELSE)
    first, last = first[long], last[long]
    values = samples.values[first]
    alive = np.isin(values, SIGNALS[column].resting if column in SIGNALS else ())
    if column in LIMITED and len(first):
        alive |= _at_rated(values, samples.at[first] // SERIES_US, samples, believable)
    begin, end = (np.bincount(samples.bin_of(some[~alive]), minlength=len(samples.starts)) for some in (first, last))
    return np.cumsum(begin) - np.cumsum(end) + end > 0


def _at_rated(values: Floats, series: Integers, samples: Samples, believable: Flags) -> Flags:
    """Whether values, each of a series given by its number, are the maximum at which that series was held."""
    of_bin = samples.at[samples.starts] // SERIES_US
    known = np.flatnonzero(np.diff(of_bin, prepend=-1))
    highest = np.maximum.reduceat(np.where(believable, samples.high, -np.inf), known)
    lowest = np.minimum.reduceat(np.where(believable, samples.low, np.inf), known)
    number = np.searchsorted(of_bin[known], series)
    rated = RATED_SHARE * highest[number]
    return (rated > 0) & (values >= rated) & (lowest[number] < rated)


def spikes(column: str, samples: Samples) -> Integers:
    """The samples that stand out of their surroundings, rising.

    The surroundings are up to `SPIKE_SAMPLES` samples on each side, none further away than `SPIKE_REACH_US`, and at least
    `SPIKE_LEAST`: the first and last minutes of a day and those beside a long gap are not judged. A spike is

    - more than `SPIKE_MADS` scaled MADs away from the median of itself and its surroundings (Hampel 1974, Pearson 2002), and
    - at least `SPIKE_STEP` above, or at least as much below, the medians of both sides: a level that stays is a step, not a
      spike. Where the MAD is 0, as beside a resting turbine, this alone decides.

    So a spike has at most five samples, as the median of more is among them. On the compass each step is taken the shorter way.

    Args:
        column: name of the source's column; one without a `SPIKE_STEP` has no spikes.
        samples: of that column.
    """
    if column not in SPIKE_STEP:
        return np.empty(0, dtype=np.int64)
    step = SPIKE_STEP[column]
    circular = column in SIGNALS and SIGNALS[column].circular
    values = np.unwrap(samples.values, period=360) if circular else samples.values
    with np.errstate(over="ignore", invalid="ignore"):
        found = _candidates(values, step)
        places = found[:, None] + np.arange(-SPIKE_SAMPLES, SPIKE_SAMPLES + 1)
        present = (places >= 0) & (places < len(values))
        places = np.clip(places, 0, len(values) - 1)
        present &= np.abs(samples.at[places] - samples.at[found, None]) <= SPIKE_REACH_US
        away = np.where(present, values[places] - values[found, None], np.inf)
        left, right = away[:, :SPIKE_SAMPLES], away[:, SPIKE_SAMPLES + 1 :]
        judged = np.minimum(*(np.isfinite(side).sum(axis=1) for side in (left, right))) >= SPIKE_LEAST
        found, left, right, away = found[judged], left[judged], right[judged], away[judged]
        to_left, to_right = _medians(left), _medians(right)
        stands_out = (np.minimum(to_left, to_right) >= step) | (np.maximum(to_left, to_right) <= -step)
        found, away = found[stands_out], away[stands_out]
        median = _medians(away)
        scale = MAD_TO_SIGMA * _medians(np.abs(away - median[:, None]))
        return found[np.abs(median) > SPIKE_MADS * scale]


def _candidates(values: Floats, step: float) -> Integers:
    """Samples that one sample on each side at least is a step away from, in one direction: spikes are among them.

    Rejects nearly all samples of a healthy signal in a few passes, so that medians are taken of few.
    """
    low = np.concatenate((np.full(SPIKE_SAMPLES, -np.inf), values, np.full(SPIKE_SAMPLES, -np.inf)))
    above = values - step >= _both_sides(low, np.minimum, np.maximum)
    low[:SPIKE_SAMPLES] = low[-SPIKE_SAMPLES:] = np.inf
    below = values + step <= _both_sides(low, np.maximum, np.minimum)
    return np.flatnonzero(above | below)


def _both_sides(padded: Floats, extreme: np.ufunc, weaker: np.ufunc) -> Floats:
    """The extremes of the five samples before and of the five after each, whichever is weaker."""
    two = extreme(padded[:-1], padded[1:])
    four = extreme(two[:-2], two[2:])
    five = extreme(four[:-1], padded[SPIKE_SAMPLES - 1 :])
    return weaker(five[: -SPIKE_SAMPLES - 1], five[SPIKE_SAMPLES + 1 :])


def _medians(rows: Floats) -> Floats:
    """The median of the finite values of each row; each has one."""
    ranked = np.sort(rows, axis=1)
    n = np.isfinite(rows).sum(axis=1)
    row = np.arange(len(rows))
    return ranked[row, (n - 1) // 2] / 2 + ranked[row, n // 2] / 2


def summary(
    bins: pa.Table, *, columns: Sequence[str] = (), turbines: Sequence[str] = (), days: Sequence[date] = ()
) -> dict[str, dict[str, int]]:
    """How many bins each column has and lacks, and how many carry each flag: for the metadata of what was loaded.

    Args:
        bins: as `ten_minute_statistics` gives them.
        columns, turbines, days: what was asked for; whatever of these is in no row is missing all the same. Without them, what
            is in the rows counts as asked for.

    Returns:
        For each column, in order of name: `bins`; `missing`, of the 144 a day of every turbine and UTC day; and each of `FLAGS`.
    """
    names = sorted({*columns, *bins["source_signal"].unique().to_pylist()})
    wanted = {day.toordinal() - date(1970, 1, 1).toordinal() for day in days}
    found_days = np.unique(bins["timestamp"].cast(pa.int64()).to_numpy() // DAY_US).tolist()
    series = len({*turbines, *bins["turbine"].unique().to_pylist()}) * len({*wanted, *found_days})
    counts = bins.group_by(["source_signal", "flags"]).aggregate([([], "count_all")]).to_pylist()
    result = {}
    for name in names:
        mine = [(row["flags"].split(";"), row["count_all"]) for row in counts if row["source_signal"] == name]
        present = sum(count for _, count in mine)
        flagged = {flag: sum(count for raised, count in mine if flag in raised) for flag in FLAGS}
        result[name] = {"bins": present, "missing": series * (DAY_US // BIN_US) - present, **flagged}
    return result
