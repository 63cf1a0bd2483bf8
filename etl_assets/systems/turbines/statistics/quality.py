"""Flags: what is suspicious in a ten-minute bin of a signal. No flag drops or changes a value.

| flag | raised in a bin when |
|---|---|
| `gap` | one of its ten minutes has no value |
| `duplicate` | an instant in it came more than once, whatever the values |
| `out_of_range` | a value is below `lowest` or above `highest` of `SIGNALS` |
| `frozen` | a value in it is one of at least `FROZEN_SAMPLES` equal ones in a row; see `frozen` |
| `spike` | a value stands out of its surroundings (Hampel identifier) by a physically large step; see `spikes` |
| `low_coverage` | the share of its minutes that have a value is below `LOW_COVERAGE` |

What runs and surroundings are is judged within one turbine and UTC day, across its bins: see `samples` for why. A column that
`SIGNALS` does not know has no range and no physical scale, so it is never out of range and never a spike.
"""

import functools
from collections.abc import Sequence
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from etl_assets.systems.turbines.contracts import FLAGS, SIGNALS
from etl_assets.systems.turbines.statistics.samples import (
    BIN_US,
    DAY_US,
    MINUTE_US,
    SERIES_US,
    Flags,
    Floats,
    Integers,
    Samples,
)

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


def flags(
    column: str, samples: Samples, *, low: Floats, high: Floats, covered: Integers, repeated: Integers
) -> npt.NDArray[np.int64]:
    """The flags of each bin of one column, one bit each in the order of `FLAGS`.

    Args:
        column: name of the source's column.
        samples: of that column, of at least one bin.
        low, high: least and greatest value of each bin.
        covered: minutes of each bin in which there is a sample.
        repeated: places of the bins in which an instant came more than once.
    """
    outside = np.zeros(len(low), dtype=bool)
    if column in SIGNALS:
        outside = (low < SIGNALS[column].lowest) | (high > SIGNALS[column].highest)
    spiky = _bins_with(samples, spikes(column, samples))
    found = {
        "gap": covered * MINUTE_US < BIN_US,
        "duplicate": np.isin(samples.bins(), repeated),
        "out_of_range": outside,
        "frozen": frozen(column, samples, low=low, high=high, believable=~(outside | spiky)),
        "spike": spiky,
        "low_coverage": covered * MINUTE_US < LOW_COVERAGE * BIN_US,
    }
    return np.sum([found[name].astype(np.int64) << bit for bit, name in enumerate(FLAGS)], axis=0)


@functools.cache
def flag_names() -> tuple[str, ...]:
    """What is written for each number that `flags` gives."""
    return tuple(
        ";".join(name for bit, name in enumerate(FLAGS) if number >> bit & 1) for number in range(1 << len(FLAGS))
    )


def minutes_with_value(samples: Samples) -> Integers:
    """How many minutes of each bin have a sample."""
    close = np.flatnonzero(samples.at[1:] - samples.at[:-1] < MINUTE_US)
    minutes = samples.at[close] // MINUTE_US, samples.at[close + 1] // MINUTE_US
    again = close[minutes[0] == minutes[1]]
    return samples.counts - np.bincount(samples.bin_of(again), minlength=len(samples.counts))


def frozen(column: str, samples: Samples, *, low: Floats, high: Floats, believable: Flags) -> Flags:
    """The bins that a run of equal values touches: at least `FROZEN_SAMPLES` in a row.

    A run goes on over missing minutes, up to `FROZEN_SILENCE_US`. A value that the signal may rest at (`SIGNALS[…].resting`) is
    not frozen. Nor is power at rated: within 1 % of the maximum that the day has in believable bins, if it also has values below
    that; a day that knows one value only has no maximum to speak of, and is frozen.

    Args:
        column: name of the source's column.
        samples: of that column.
        low, high: least and greatest value of each bin.
        believable: the bins whose values may count as the maximum.
    """
    first, last = _runs(samples, FROZEN_SAMPLES.get(column, FROZEN_SAMPLES_ELSE))
    values = samples.values[first]
    alive = np.isin(values, SIGNALS[column].resting if column in SIGNALS else ())
    if column in LIMITED and len(first):
        alive |= _at_rated(values, samples.at[first] // SERIES_US, samples, low=low, high=high, believable=believable)
    begin, end = samples.bin_of(first[~alive]), samples.bin_of(last[~alive])
    edges = np.zeros(len(samples.starts) + 1, dtype=np.int64)
    np.add.at(edges, begin, 1)
    np.add.at(edges, end + 1, -1)
    return np.cumsum(edges[:-1]) > 0


def _runs(samples: Samples, least: int) -> tuple[Integers, Integers]:
    """First and last sample of each run of at least so many equal values."""
    held = np.flatnonzero(samples.values[1:] == samples.values[:-1])
    held = held[samples.at[held + 1] - samples.at[held] <= FROZEN_SILENCE_US]
    cuts = np.flatnonzero(held[1:] - held[:-1] != 1)
    first, last = held[np.concatenate(([0], cuts + 1))[: len(held)]], held[np.append(cuts, -1)[: len(held)]] + 1
    long = last - first + 1 >= least
    return first[long], last[long]


def _at_rated(
    values: Floats, series: Integers, samples: Samples, *, low: Floats, high: Floats, believable: Flags
) -> Flags:
    """Whether values, each of a series given by its number, are the maximum at which that series was held."""
    of_bin = samples.at[samples.starts] // SERIES_US
    known = np.flatnonzero(np.diff(of_bin, prepend=-1))
    highest = np.maximum.reduceat(np.where(believable, high, -np.inf), known)
    lowest = np.minimum.reduceat(np.where(believable, low, np.inf), known)
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


def _bins_with(samples: Samples, found: Integers) -> Flags:
    return np.bincount(samples.bin_of(found), minlength=len(samples.starts)) > 0


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
