"""The statistics of one signal of one turbine on one day, and the axis on which they are drawn: a plain one, or the compass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from etl_assets.core.charts.numbers import raised
from etl_assets.systems.turbines.contracts import FLAGS, STATISTICS
from etl_assets.systems.turbines.statistics import BIN_US, DAY_US

BINS = DAY_US // BIN_US
BIN_MINUTES = BIN_US // 60_000_000
MISSING = "missing"
MARKS = (MISSING, *FLAGS)
FULL_CIRCLE = 360
POINTS = {0: "N", 90: "E", 180: "S", 270: "W"}
COMPASS_STEPS = (2, 5, 10, 15, 30, 45, 90)
COMPASS_INTERVALS = 5
# Sizes of values that are written out on an axis.
WRITTEN_OUT = (1e-3, 1e7)

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """Statistics as they are drawn, NaN where there is none.

    Attributes:
        domain: ends of the axis, in the units of the values.
        values: `mean`, `low` and `high` (the ends of the range), `less` and `more` (a standard deviation away), in units of
            `scale`. On the compass `low` is below the mean and `high` above it, whatever lies between them.
        above, below: bins that go on beyond the axis.
        scale: what is written behind the unit, as `× 10⁹`; empty for values as they are.
        labels: what is written at which value; none: as the engine finds it.
        turns: what is added to all values to draw what reaches over an edge of the compass at the other edge too.
    """

    domain: tuple[float, float]
    values: dict[str, Numbers]
    above: Mask
    below: Mask
    scale: str = ""
    labels: dict[int, str] | None = None
    turns: tuple[float, ...] = (0.0,)


def day_series(rows: pd.DataFrame) -> pd.DataFrame:
    """The bins of one signal of one turbine by their place in the day, 144 of them.

    Args:
        rows: columns of `statistics.OUTPUT`, of one day; none for a signal without bins.

    Returns:
        `mean`, `min`, `max`, `std` (NaN where not defined), `n` and `coverage` (0 where there is no bin), and whether each of
        `MARKS` holds.
    """
    place = rows["timestamp"].dt.hour * 6 + rows["timestamp"].dt.minute // BIN_MINUTES
    series = rows[[*STATISTICS, "n", "coverage", "flags"]].set_index(place).reindex(range(BINS))
    flags = [str(text).split(";") for text in series.pop("flags")]
    series = series.astype(float)
    series["n"], series["coverage"] = series["n"].fillna(0).astype("int64"), series["coverage"].fillna(0.0)
    series[MISSING] = series["n"] == 0
    for flag in FLAGS:
        series[flag] = [flag in raised_here for raised_here in flags]
    return series


def axis_of(series: pd.DataFrame, *, circular: bool) -> Axis | None:
    """Where the statistics of a signal go; None if there is nothing to draw."""
    if not np.isfinite(series["mean"]).any():
        return None
    return _compass(series) if circular else _plain(series)


def _plain(series: pd.DataFrame) -> Axis:
    """An axis on which the believable bins fill the chart: a wild value is not to flatten the day."""
    mean, std, low, high = (series[name].to_numpy() for name in ("mean", "std", "min", "max"))
    with np.errstate(over="ignore"):
        values = {"mean": mean, "low": low, "high": high, "less": mean - std, "more": mean + std}
    believable = np.isfinite(mean) & ~series["out_of_range"].to_numpy()
    drawn = believable if believable.any() else np.isfinite(mean)
    finite = np.concatenate([part[drawn] for part in values.values()])
    finite = finite[np.isfinite(finite)]
    size = float(np.abs(finite).max())
    written_out = size == 0 or WRITTEN_OUT[0] <= size < WRITTEN_OUT[1]
    # The smallest floats of all have no power of ten of their own.
    exponent = 0 if written_out else max(math.floor(math.log10(size)), -307)
    values = {name: part / 10.0**exponent for name, part in values.items()}
    bottom, top = float(finite.min()) / 10.0**exponent, float(finite.max()) / 10.0**exponent
    even = top - bottom <= 1e-9 * max(abs(bottom), abs(top))
    pad = (abs(bottom) / 10 or 1.0) if even else (top - bottom) * 0.05
    domain = (bottom - pad, top + pad)
    scale = f"× 10{raised(exponent)}" if exponent else ""
    return Axis(domain, values, values["high"] > domain[1], values["low"] < domain[0], scale)


def _compass(series: pd.DataFrame) -> Axis:
    """An axis of at most the full circle, cut open where the wind did not come from, so that north is a value like any other."""
    mean, std = series["mean"].to_numpy(), series["std"].to_numpy()
    to_low, to_high = _arc(mean - series["min"].to_numpy()), _arc(series["max"].to_numpy() - mean)
    left, right = np.fmax(to_low, std), np.fmax(to_high, std)
    cut, whole = _cut(mean - left, mean + right)
    mean = np.mod(mean - cut, FULL_CIRCLE) + cut
    low, high = float(np.nanmin(mean - left)), float(np.nanmax(mean + right))
    pad = 0.0 if whole or high - low >= FULL_CIRCLE else max((high - low) * 0.05, 1.0)
    domain = (cut, cut + FULL_CIRCLE) if whole else (low - pad, high + pad)
    values = {"mean": mean, "low": mean - to_low, "high": mean + to_high, "less": mean - std, "more": mean + std}
    none = np.zeros(len(mean), dtype=bool)
    turns = (-float(FULL_CIRCLE), 0.0, float(FULL_CIRCLE)) if whole else (0.0,)
    return Axis(domain, values, none, none, labels=_directions(*domain), turns=turns)


def _arc(degrees: Numbers) -> Numbers:
    """How far it is clockwise: at most half a circle from a mean to an end, so that what is more is nothing, rounded."""
    turned = np.mod(degrees, FULL_CIRCLE)
    return np.where(turned > FULL_CIRCLE * 0.75, 0.0, turned)


def _cut(begin: Numbers, end: Numbers) -> tuple[float, bool]:
    """The middle of the widest part of the compass that no arc touches; where all is touched, the middle of the least touched.

    Args:
        begin, end: of the arcs clockwise, in degrees, NaN for none.

    Returns:
        Where to cut, and whether arcs lie across it.
    """
    touched = np.zeros(FULL_CIRCLE)
    for first, last in zip(begin, end, strict=True):
        if last - first >= FULL_CIRCLE - 1:
            touched += 1
        elif not math.isnan(first):
            touched[np.arange(math.floor(first), math.floor(last) + 1) % FULL_CIRCLE] += 1
    free = touched == touched.min()
    start = 0 if free.all() else int(np.flatnonzero(~free)[0])
    begin_, end_ = max(runs(np.roll(free, -start)), key=lambda run: run[1] - run[0])
    return (start + (begin_ + end_) / 2) % FULL_CIRCLE, bool(touched.min() > 0)


def _directions(low: float, high: float) -> dict[int, str]:
    """What is written at which degrees between two.

    >>> _directions(-50, 1)
    {-45: '315°', -30: '330°', -15: '345°', 0: 'N 0°'}
    """
    step = next((step for step in COMPASS_STEPS if (high - low) / step <= COMPASS_INTERVALS), COMPASS_STEPS[-1])
    degrees = [mark * step for mark in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return {at: f"{POINTS.get(at % FULL_CIRCLE, '')} {at % FULL_CIRCLE}°".strip() for at in degrees}


def runs(mask: Mask | Sequence[bool]) -> list[tuple[int, int]]:
    """Stretches of bins in which it holds, as half-open ranges.

    >>> runs(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(np.asarray(mask, dtype=np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def clock(bin_number: int) -> str:
    """When a bin begins, as on a clock; the end of the day is 24:00."""
    return f"{bin_number * BIN_MINUTES // 60:02d}:{bin_number * BIN_MINUTES % 60:02d}"
