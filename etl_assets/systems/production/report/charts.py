"""The two charts of a row: a parameter against the output, and both over time; as shapes that a template writes as SVG."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from etl_assets.core.charts.axes import Axis, Numbers, Tick, seconds, time_axis, time_label, value_axis
from etl_assets.core.charts.numbers import counted, instant, quantity
from etl_assets.systems.production.report.numbers import compared, correlation

MARKS = 800
HEIGHT = 296
TOP, RIGHT, FOOT = 24, 8, 44
GAP = 34
CHARACTER = 7.2
# Dots are pale to strong by quarter of the time, so that a drift shows as a gradient.
SHADES = 4
OUTPUT_OF = {"as_recorded": "production", "per_work_order": "output"}
OUTPUT_NAMES = {"as_recorded": "Output as recorded", "per_work_order": "Output per work order"}


@dataclass(frozen=True)
class Orders:
    """The work orders of a product in time order: when they ended, the parameter while they ran, and their output."""

    times: pd.DatetimeIndex
    values: Numbers
    outputs: Numbers

    @classmethod
    def of(cls, aligned: pd.DataFrame, reading: str) -> "Orders":
        """From the rows of `AlignedWorkOrders` of one product and parameter."""
        ordered = aligned.sort_values("completed_at")
        columns = (ordered["value"], ordered[OUTPUT_OF[reading]])
        values, outputs = (pd.to_numeric(column).to_numpy(dtype=np.float64) for column in columns)
        return cls(pd.DatetimeIndex(pd.to_datetime(ordered["completed_at"], utc=True)), values, outputs)

    def where(self, chosen: Any) -> "Orders":
        """Some of them, by a mask or by their places."""
        return Orders(self.times[chosen], self.values[chosen], self.outputs[chosen])

    def thinned(self, marks: int) -> "Orders":
        """At most so many: one in k at equal distances, and those with the lowest and the highest values."""
        if len(self.times) <= marks:
            return self
        extremes = {
            int(end(series))
            for series in (self.values, self.outputs)
            if np.isfinite(series).any()
            for end in (np.nanargmin, np.nanargmax)
        }
        regular = range(0, len(self.times), math.ceil(len(self.times) / (marks - len(extremes))))
        return self.where(sorted({*regular, *extremes}))


@dataclass(frozen=True)
class Path:
    """A shape of SVG and its class."""

    kind: str
    d: str


@dataclass(frozen=True)
class Panel:
    """A field of a chart with a vertical axis of its own."""

    label: str
    top: float
    bottom: float
    ticks: tuple[Tick, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Chart:
    """A drawing and its words.

    Attributes:
        title: what it shows.
        description: what can be seen in it, for who does not see it.
        caption: what a reader must know about the marks.
        ticks: of the horizontal axis, which all panels share.
    """

    kind: str
    title: str
    description: str
    caption: str
    width: float
    height: float
    left: float
    right: float
    panels: tuple[Panel, ...]
    ticks: tuple[Tick, ...]
    label: str


def charts_of(row: Mapping[str, Any], aligned: pd.DataFrame, reading: str, marks: int = MARKS) -> list[Chart]:
    """The charts of a row of the report; none where no work order has both a value and an output.

    Args:
        row: of the document; `parameter` and `r`.
        aligned: rows of `AlignedWorkOrders` of the product and the parameter.
        reading: which output is drawn.
        marks: at most so many work orders are drawn in each chart.
    """
    orders = Orders.of(aligned, reading)
    pairs = orders.where(np.isfinite(orders.values) & np.isfinite(orders.outputs))
    if not len(pairs.times):
        return []
    name = f"Parameter {row['parameter']}"
    return [_scatter(pairs, name, reading, row["r"], marks), _over_time(orders, name, reading, marks)]


def _scatter(orders: Orders, name: str, reading: str, r: float | None, marks: int) -> Chart:
    drawn = orders.thinned(marks)
    x_axis, y_axis = value_axis(orders.values), value_axis(orders.outputs)
    width, bottom = 340, HEIGHT - FOOT
    left, right = _left(y_axis), width - RIGHT
    x, y = x_axis.places(drawn.values, left, right), y_axis.places(drawn.outputs, bottom, TOP)
    quarters = np.array_split(np.arange(len(x)), SHADES)
    dots = tuple(Path(f"dots shade{shade}", _dots(x[q], y[q])) for shade, q in enumerate(quarters, 1) if len(q))
    said = f" {compared('r', correlation(r))}." if r is not None else " There is no correlation to state."
    return Chart(
        kind="scatter",
        title=f"{name} against {_lower(OUTPUT_NAMES[reading])}",
        description=f"{counted(len(orders.times), 'work order')}: {name} from {_range(orders.values)} across, "
        f"output from {_range(orders.outputs)} upwards.{said}",
        caption=f"{_drawn(orders, drawn)} Across, the mean while each ran. Pale: early; strong: late.",
        width=width,
        height=HEIGHT,
        left=left,
        right=right,
        panels=(Panel(OUTPUT_NAMES[reading] + y_axis.unit, TOP, bottom, y_axis.ticks(bottom, TOP), dots),),
        ticks=x_axis.ticks(left, right),
        label=name + x_axis.unit,
    )


def _over_time(orders: Orders, name: str, reading: str, marks: int) -> Chart:
    there = orders.where(np.isfinite(orders.values) | np.isfinite(orders.outputs))
    drawn = there.thinned(marks)
    axes = [value_axis(series[np.isfinite(series)], intervals=2) for series in (there.outputs, there.values)]
    width, time = 400, time_axis(there.times)
    left, right = max(map(_left, axes)), width - RIGHT
    x = time.places(seconds(drawn.times), left, right)
    height = (HEIGHT - TOP - GAP - FOOT) / 2
    labels = (OUTPUT_NAMES[reading], name)
    panels = []
    for label, axis, series, top in zip(
        labels, axes, (drawn.outputs, drawn.values), (TOP, TOP + height + GAP), strict=True
    ):
        line = Path(
            "line output" if axis is axes[0] else "line value", _line(x, axis.places(series, top + height, top))
        )
        panels.append(Panel(label + axis.unit, top, top + height, axis.ticks(top + height, top), (line,)))
    first, last = there.times.min(), there.times.max()
    gaps = " Where a line is broken there is no value." if np.isnan([drawn.values, drawn.outputs]).any() else ""
    return Chart(
        kind="over-time",
        title=f"{_lower(OUTPUT_NAMES[reading]).capitalize()} and {_lower(name)} over time",
        description=f"{counted(len(there.times), 'work order')} from {instant(first)} to {instant(last)}. Above, the output, "
        f"from {_range(there.outputs)}; below, {_lower(name)}, from {_range(there.values)}.",
        caption=f"Two axes, each in its own unit; one time.{gaps}",
        width=width,
        height=HEIGHT,
        left=left,
        right=right,
        panels=tuple(panels),
        ticks=time.ticks(left, right),
        label=time_label(there.times),
    )


def _left(axis: Axis) -> float:
    """Room for the labels of a vertical axis."""
    return 12 + CHARACTER * max((len(label) for _, label in axis.marks), default=1)


def _dots(x: Numbers, y: Numbers) -> str:
    return "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x, y, strict=True))


def _line(x: Numbers, y: Numbers) -> str:
    """A line through the points that breaks where one is undefined; a lone point is a dot."""
    parts, pen_down = [], False
    for a, b in zip(x, y, strict=True):
        defined = math.isfinite(b)
        if defined:
            parts.append(f"L{a:.1f} {b:.1f}" if pen_down else f"M{a:.1f} {b:.1f}h0")
        pen_down = defined
    return "".join(parts)


def _drawn(orders: Orders, drawn: Orders) -> str:
    total, shown = len(orders.times), len(drawn.times)
    if total == shown:
        return f"{counted(total, 'work order')}."
    return f"{shown:,} of {total:,} work orders are drawn: at equal distances in their order, and the lowest and highest values."


def _range(values: Numbers) -> str:
    finite = values[np.isfinite(values)]
    return f"{quantity(float(finite.min()))} to {quantity(float(finite.max()))}"


def _lower(name: str) -> str:
    return name[0].lower() + name[1:]
