"""Ten-minute statistics of one-minute signals: mean, min, max, standard deviation, coverage and flags.

Knows nothing of where the minutes come from and where the statistics go. What raises a flag is in `quality`.
"""

import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from etl_assets.systems.turbines.contracts import SIGNALS, STATISTICS
from etl_assets.systems.turbines.statistics.quality import flag_names, flags, minutes_with_value
from etl_assets.systems.turbines.statistics.samples import (
    BIN_US,
    MICROSECONDS,
    MINUTE_US,
    Floats,
    Integers,
    Ordered,
    Samples,
    ordered,
)

MINUTES_PER_BIN = BIN_US // MINUTE_US
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


def ten_minute_statistics(minutes: pa.Table, *, columns: Sequence[str]) -> pa.Table:
    """Mean, min, max, sample standard deviation and flags of each column per turbine and ten-minute bin.

    Bins are [t, t + 10 min) in UTC and labelled by their start. A sample is a row with a value; a bin without one is absent for
    that column, a bin with one has a NULL deviation (ddof = 1). Rows of one turbine and instant are one sample, that of the last
    position, and none if that one has no value. Different instants are different samples, on the minute or not, so
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

    Returns:
        One row per bin and column that has a sample, in order (timestamp, turbine, source_signal), schema `OUTPUT`. `n` counts
        samples; `flags` are those of `quality`, joined by `;`. What a float cannot hold (the deviation of ±1e308) is NULL.

    Raises:
        ValueError: see `samples.ordered`; also if a value is infinite.
    """
    rows = ordered(minutes, columns)
    names = sorted(columns)
    parts, signals = [], []
    for number, name in enumerate(names):
        for block in rows.samples(minutes[name]).blocks():
            parts.append(_column(rows, block, name))
            signals.append(np.full(len(block.starts), number))
    if not parts:
        return OUTPUT.empty_table()
    signal = np.concatenate(signals)
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
            "flags": _named(joined["flags"][order], flag_names()),
        },
        schema=OUTPUT,
    )


def _named(codes: npt.NDArray[np.integer], names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string())).dictionary_decode()


def _column(rows: Ordered, samples: Samples, name: str) -> dict[str, npt.NDArray[np.generic]]:
    """The columns of the output for one column of the source, NaN for NULL, by bin in the order of the samples.

    Args:
        rows: of which the samples are.
        samples: of the column, of at least one bin.
        name: of the column.
    """
    low = np.minimum.reduceat(samples.values, samples.starts)
    high = np.maximum.reduceat(samples.values, samples.starts)
    infinite = np.isinf(low) | np.isinf(high)
    if infinite.any():
        raise ValueError(f"{name} has an infinite value in {infinite.sum()} bins: reject such rows before")
    circular = name in SIGNALS and SIGNALS[name].circular
    found = circular_statistics(samples) if circular else plain_statistics(samples, low, high)
    covered = minutes_with_value(samples)
    return {
        "bin": samples.bins(),
        **dict(zip(STATISTICS, found, strict=True)),
        "n": samples.counts,
        "coverage": covered / MINUTES_PER_BIN,
        "flags": flags(name, samples, low=low, high=high, covered=covered, repeated=rows.repeated),
    }


def plain_statistics(samples: Samples, low: Floats, high: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, min, max and sample standard deviation of each bin.

    In two passes, corrected for the rounding of the mean (Chan, Golub, LeVeque 1983): a large offset costs no digits.
    The few bins in which floats are not enough, as values that cancel out or whose squares overflow, are computed with fractions.

    Args:
        samples: of one column, of at least one bin; all finite.
        low, high: least and greatest value of each bin.

    Returns:
        One value each per bin, NaN where there is none.
    """
    starts, n = samples.starts, samples.counts
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
