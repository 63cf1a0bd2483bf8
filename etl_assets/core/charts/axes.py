"""Axes for charts that are drawn into a page: where a value goes, and which round values are named beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from etl_assets.core.charts.numbers import MINUS, quantity, raised

Numbers = npt.NDArray[np.float64]

TICKS = 4
LONGEST_LABEL = 9
# Values between these are written out; others share a power of ten that the axis names.
WRITTEN_OUT = (1e-3, 1e6)
DAY_S = 86_400
# Distance of ticks in seconds, and how such a tick is written.
STEPS_S = (
    *((seconds, "%H:%M:%S") for seconds in (1, 5, 15, 30)),
    *((minutes * 60, "%H:%M") for minutes in (1, 5, 15, 30, 60, 180, 360)),
    (12 * 3600, "%d %b %H:%M"),
    *((days * DAY_S, "%d %b") for days in (1, 2, 4, 7, 14)),
)
STEPS_MONTHS = (1, 3, 6)
STEPS_YEARS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in units of the drawing, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A range of values.

    Attributes:
        low, high: ends of the range, in units of 10 ** exponent.
        marks: values on the axis with their labels, in the same units.
    """

    low: float
    high: float
    marks: tuple[tuple[float, str], ...]
    exponent: int = 0

    @property
    def unit(self) -> str:
        """What is written behind the name of the axis where its labels are not the values themselves."""
        return f" (× 10{raised(self.exponent)})" if self.exponent else ""

    def places(self, values: Any, start: float, end: float) -> Numbers:
        """Where values go on a line from start to end; what is undefined stays so."""
        scaled = np.asarray(values, dtype=np.float64) / 10.0**self.exponent
        return start + (scaled - self.low) / (self.high - self.low) * (end - start)

    def ticks(self, start: float, end: float) -> tuple[Tick, ...]:
        """The marks on a line from start to end."""
        span = self.high - self.low
        return tuple(Tick(start + (mark - self.low) / span * (end - start), label) for mark, label in self.marks)


def value_axis(values: Numbers, *, intervals: int = TICKS) -> Axis:
    """An axis for finite values of any size, in about so many intervals; values that are all equal are in its middle."""
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    written_out = size == 0 or WRITTEN_OUT[0] <= size < WRITTEN_OUT[1]
    # The smallest floats of all have no power of ten of their own.
    exponent = 0 if written_out else max(math.floor(math.log10(size)), -307)
    low, high = low / 10.0**exponent, high / 10.0**exponent
    span = high - low
    if span <= max(abs(low), abs(high)) * 1e-12:
        pad = abs(low) / 10 or 1.0
        return Axis(low - pad, high + pad, ((low, quantity(low)),), exponent)
    pad = span * 0.05
    return Axis(low - pad, high + pad, _round_marks(low, high, pad, intervals), exponent)


def _round_marks(low: float, high: float, pad: float, intervals: int) -> tuple[tuple[float, str], ...]:
    step = _round_step((high - low) / intervals)
    first, last = math.ceil((low - pad) / step), math.floor((high + pad) / step)
    if first >= last:
        # A scale needs two marks to be one.
        return _round_marks(low, high, pad, intervals + 1)
    decimals = max(0, -math.floor(math.log10(step)))
    labels = [f"{count * step:,.{decimals}f}".replace("-", MINUS) for count in range(first, last + 1)]
    if max(map(len, labels)) > LONGEST_LABEL:
        # A small difference between large values: the digits that differ have no room.
        return (low, "lowest"), (high, "highest")
    return tuple((count * step, label) for count, label in zip(range(first, last + 1), labels, strict=True))


def _round_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least as large."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def time_axis(times: pd.DatetimeIndex) -> Axis:
    """An axis for instants in UTC, as seconds since 1970."""
    low, high = times.min(), times.max()
    pad = (high - low).total_seconds() * 0.01 or 1800.0
    marks = _time_marks(low, high) or [(low, low.strftime("%H:%M:%S"))]
    return Axis(
        low.timestamp() - pad,
        high.timestamp() + pad,
        tuple((mark.timestamp(), label.removeprefix("0") if label[2:3] == " " else label) for mark, label in marks),
    )


def seconds(times: pd.DatetimeIndex) -> Numbers:
    """Instants as seconds since 1970."""
    return times.as_unit("us").to_numpy(dtype="datetime64[us]").astype(np.int64) / 1e6


def time_label(times: pd.DatetimeIndex) -> str:
    """What the labels of a time axis leave unsaid: the zone, and the day or the years."""
    low, high = times.min(), times.max()
    if low.date() == high.date():
        return f"UTC, {low:%d %b %Y}"
    return f"UTC, {low.year}" if low.year == high.year else f"UTC, {low.year}–{high.year}"


def _time_marks(low: pd.Timestamp, high: pd.Timestamp) -> Sequence[tuple[pd.Timestamp, str]]:
    span = (high - low).total_seconds()
    for step, form in STEPS_S:
        if span / step <= TICKS:
            several_days = step < DAY_S and low.date() != high.date()
            form = "%d %b %H:%M" if several_days else form
            first, last = math.ceil(low.timestamp() / step), math.floor(high.timestamp() / step)
            marks = [pd.Timestamp(count * step, unit="s", tz="UTC") for count in range(first, last + 1)]
            return [(mark, mark.strftime(form)) for mark in marks]
    months = span / DAY_S / 30.4
    for step in STEPS_MONTHS:
        if months / step <= TICKS:
            return _calendar_marks(low, high, low.year, f"{step}MS", "%b %Y")
    years = next((step for step in STEPS_YEARS if months / 12 / step <= TICKS), STEPS_YEARS[-1])
    return _calendar_marks(low, high, low.year // years * years, f"{years}YS", "%Y")


def _calendar_marks(
    low: pd.Timestamp, high: pd.Timestamp, from_year: int, freq: str, form: str
) -> list[tuple[pd.Timestamp, str]]:
    january = pd.Timestamp(year=from_year, month=1, day=1, tz="UTC")
    return [(mark, mark.strftime(form)) for mark in pd.date_range(january, high, freq=freq) if mark >= low]
