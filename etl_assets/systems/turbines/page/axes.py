"""What is drawn of a signal's statistics, and on which axis: a plain one, or the compass laid out around where the wind was."""

import math
from dataclasses import dataclass

import numpy as np

from etl_assets.core.charts.axes import Axis, Numbers, value_axis
from etl_assets.systems.turbines.page.series import Mask, Series

FULL_CIRCLE = 360
POINTS = {0: "N", 90: "E", 180: "S", 270: "W"}
COMPASS_STEPS = (2, 5, 10, 15, 30, 45, 90)
COMPASS_INTERVALS = 5


@dataclass(frozen=True)
class Laid:
    """Statistics as they go onto an axis.

    Attributes:
        axis: of values.
        mean, low, high, less, more: the mean, the ends of the range, and the mean less and plus a standard deviation; NaN where
            there is none. On the compass `low` is below the mean and `high` above it, whatever lies between them.
        beyond: bins that go on above or below the axis.
        turns: what is added to all of them to draw what reaches over an edge of the compass at the other edge too.
    """

    axis: Axis
    mean: Numbers
    low: Numbers
    high: Numbers
    less: Numbers
    more: Numbers
    beyond: tuple[Mask, Mask]
    turns: tuple[float, ...] = (0.0,)


def laid_out(series: Series, *, circular: bool) -> Laid | None:
    """Where the statistics of a signal go; None if there is nothing to draw."""
    if not np.isfinite(series.mean).any():
        return None
    return _round(series) if circular else _plain(series)


def _plain(series: Series) -> Laid:
    """An axis on which the believable bins fill the chart: a wild value is not to flatten the day."""
    with np.errstate(over="ignore"):
        less, more = series.mean - series.std, series.mean + series.std
    believable = ~series.marks["out_of_range"] & np.isfinite(series.mean)
    shown = believable if believable.any() else np.isfinite(series.mean)
    values = np.concatenate([part[shown] for part in (series.low, series.high, less, more)])
    axis = value_axis(values[np.isfinite(values)], intervals=4)
    top, bottom = axis.high * 10.0**axis.exponent, axis.low * 10.0**axis.exponent
    return Laid(axis, series.mean, series.low, series.high, less, more, (series.high > top, series.low < bottom))


def _round(series: Series) -> Laid:
    """An axis of at most the full circle, cut open where the wind did not come from, so that north is a value like any other."""
    mean = series.mean
    to_low, to_high = _arc(mean - series.low), _arc(series.high - mean)
    left, right = np.fmax(to_low, series.std), np.fmax(to_high, series.std)
    cut, whole = _cut(mean - left, mean + right)
    mean = np.mod(mean - cut, FULL_CIRCLE) + cut
    ends = (cut, cut + FULL_CIRCLE) if whole else (float(np.nanmin(mean - left)), float(np.nanmax(mean + right)))
    turns = (-float(FULL_CIRCLE), 0.0, float(FULL_CIRCLE)) if whole else (0.0,)
    none = np.zeros(len(mean), dtype=bool)
    return Laid(
        _compass(*ends), mean, mean - to_low, mean + to_high, mean - series.std, mean + series.std, (none, none), turns
    )


def _arc(degrees: Numbers) -> Numbers:
    """How far it is clockwise: at most half a circle from a mean to an end, so that what is more is nothing, rounded."""
    turned = np.mod(degrees, FULL_CIRCLE)
    return np.where(turned > FULL_CIRCLE * 0.75, 0.0, turned)


def _cut(begin: Numbers, end: Numbers) -> tuple[float, bool]:
    """The middle of the widest stretch of the compass that no arc touches; where all is touched, the middle of the least touched.

    Args:
        begin, end: of the arcs clockwise, in degrees, NaN for none.

    Returns:
        Where to cut, and whether arcs lie across it.
    """
    touched = np.zeros(FULL_CIRCLE + 1)
    for first, last in zip(begin, end, strict=True):
        if math.isnan(first):
            continue
        if last - first >= FULL_CIRCLE - 1:
            touched[:-1] += 1
            continue
        cells = np.arange(math.floor(first), math.floor(last) + 1) % FULL_CIRCLE
        touched[cells] += 1
    touched = touched[:-1]
    free = touched == touched.min()
    start = int(np.flatnonzero(~free)[0]) if not free.all() else 0
    edges = np.flatnonzero(np.diff(np.roll(free, -start).astype(np.int8), prepend=0, append=0))
    widths = edges[1::2] - edges[::2]
    widest = int(np.argmax(widths))
    return float((start + edges[::2][widest] + widths[widest] / 2) % FULL_CIRCLE), bool(touched.min() > 0)


def _compass(low: float, high: float) -> Axis:
    pad = 0.0 if high - low >= FULL_CIRCLE else max((high - low) * 0.05, 1.0)
    low, high = low - pad, high + pad
    step = next((step for step in COMPASS_STEPS if (high - low) / step <= COMPASS_INTERVALS), COMPASS_STEPS[-1])
    marks = range(math.ceil(low / step), math.floor(high / step) + 1)
    return Axis(low, high, tuple((float(mark * step), _direction(mark * step)) for mark in marks))


def _direction(degrees: int) -> str:
    """A direction on the compass.

    >>> _direction(-45), _direction(360)
    ('315°', 'N 0°')
    """
    turned = degrees % FULL_CIRCLE
    return f"{POINTS.get(turned, '')} {turned}°".strip()
