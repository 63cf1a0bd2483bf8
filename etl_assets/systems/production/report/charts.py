"""The two charts of a row: a parameter against the output, and both over time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from etl_assets.core.charts.numbers import counted, instant, quantity, raised
from etl_assets.core.charts.theme import TIME_FORMAT, palette
from etl_assets.systems.production.report.words import compared, correlation
from etl_assets.systems.production.statistics import OUTPUT_OF

if TYPE_CHECKING:
    import altair as alt

MARKS = 800
WIDTH, HEIGHT = 350, 296
PANEL_WIDTH, PANEL_HEIGHT = 304, 90
# So many intervals that a scale has two labels at least, whatever its ends are.
TICKS, LONGEST_LABEL = 4, 9
# Values between these are written out; others share a power of ten that the axis names.
WRITTEN_OUT = (1e-3, 1e6)
# Dots are pale to strong by quarter of the time, so that a drift shows as a gradient.
SHADES = (0.24, 0.42, 0.66, 0.95)
OUTPUT_NAMES = {"as_recorded": "Output as recorded", "per_work_order": "Output per work order"}

Numbers = npt.NDArray[np.float64]


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
class Chart:
    """A chart and its words.

    Attributes:
        kind: of the two.
        title: what it shows.
        description: what can be seen in it, for who does not see it.
        caption: what a reader must know about the marks.
        drawing: the chart.
        data: rows of what it draws.
    """

    kind: str
    title: str
    description: str
    caption: str
    drawing: "alt.TopLevelMixin"
    data: Mapping[str, list[dict[str, float | None]]]


@dataclass(frozen=True)
class Scale:
    """How values of any size are written on an axis.

    Attributes:
        low, high: ends of the values, in units of 10 ** exponent.
        labels: what is written at which values; where there is none, round values are chosen when it is drawn.
    """

    low: float
    high: float
    exponent: int
    labels: Mapping[float, str]

    @classmethod
    def of(cls, values: Numbers) -> "Scale":
        """For the finite values among these, of which there is one."""
        values = values[np.isfinite(values)]
        low, high = float(values.min()), float(values.max())
        size = max(abs(low), abs(high))
        written_out = size == 0 or WRITTEN_OUT[0] <= size < WRITTEN_OUT[1]
        # The smallest floats of all have no power of ten of their own.
        exponent = 0 if written_out else max(math.floor(math.log10(size)), -307)
        low, high, size = (number / 10.0**exponent for number in (low, high, size))
        if high - low <= size * 1e-12:
            pad = abs(low) / 10 or 1.0
            return cls(low - pad, high + pad, exponent, {low: quantity(low)})
        decimals = max(0, -math.floor(math.log10((high - low) / TICKS)))
        # A small difference between large values: the digits that differ do not fit.
        too_long = len(f"{size:,.{decimals}f}") > LONGEST_LABEL
        return cls(low, high, exponent, {low: "lowest", high: "highest"} if too_long else {})

    @property
    def unit(self) -> str:
        """What is written behind the name of the axis where its labels are not the values themselves."""
        return f" (× 10{raised(self.exponent)})" if self.exponent else ""

    def scaled(self, values: Numbers) -> list[float | None]:
        """Values in units of the axis; None where one is undefined."""
        return [value if math.isfinite(value) else None for value in (values / 10.0**self.exponent).tolist()]

    def encoding(self, field: str, **axis: Any) -> dict[str, Any]:
        """A channel of the chart with this scale."""
        if self.labels:
            highest = max(self.labels)
            axis["values"] = list(self.labels)
            axis["labelExpr"] = (
                f"datum.value < {highest!r} ? '{self.labels[min(self.labels)]}' : '{self.labels[highest]}'"
            )
        return {
            "field": field,
            "type": "quantitative",
            "scale": {"domain": [self.low, self.high], "nice": False, "zero": False, "padding": 6},
            "axis": {"tickCount": TICKS, **axis},
            "title": None,
        }


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
    import altair as alt

    drawn = orders.thinned(marks)
    x, y = Scale.of(orders.values), Scale.of(orders.outputs)
    quarters = np.arange(len(drawn.times)) * len(SHADES) // len(drawn.times)
    points = zip(x.scaled(drawn.values), y.scaled(drawn.outputs), quarters.tolist(), strict=True)
    # Dots as a line that breaks behind each: one path for each quarter, a tenth of what as many circles are.
    rows = [{"x": x, "y": y, "q": q} for a, b, q in points for x, y in ((a, b), (a, None))]
    chart = (
        alt.Chart(alt.NamedData(name="orders"), width=WIDTH, height=HEIGHT)
        .mark_line(strokeWidth=4.6)
        .encode(
            x=alt.X(**x.encoding("x", titleAnchor="end")).title(name + x.unit),
            y=alt.Y(**y.encoding("y")),
            order=alt.OrderValue(None),
            opacity=alt.Opacity("q:O", scale=alt.Scale(type="ordinal", range=SHADES), legend=None),
        )
        .properties(title=OUTPUT_NAMES[reading] + y.unit, autosize={"type": "fit", "contains": "padding"})
    )
    strength = f"{compared('r', correlation(r))}." if r is not None else "There is no correlation to state."
    return Chart(
        kind="scatter",
        title=f"{name} against {_lower(OUTPUT_NAMES[reading])}",
        description=f"{counted(len(orders.times), 'work order')}: {name} from {_range(orders.values)} across, "
        f"output from {_range(orders.outputs)} upwards. {strength}",
        caption=f"{_drawn(orders, drawn)} Across, the mean while each ran. Pale: early; strong: late.",
        drawing=chart,
        data={"orders": rows},
    )


def _over_time(orders: Orders, name: str, reading: str, marks: int) -> Chart:
    import altair as alt

    known = orders.where(np.isfinite(orders.values) | np.isfinite(orders.outputs))
    drawn = known.thinned(marks)
    first, last = known.times.min(), known.times.max()
    outputs, values = Scale.of(drawn.outputs), Scale.of(drawn.values)
    times = (drawn.times.to_numpy(dtype="datetime64[us]").astype(np.int64) / 1000).tolist()
    named = ("time", "output", "value")
    columns = zip(times, outputs.scaled(drawn.outputs), values.scaled(drawn.values), strict=True)
    pad = (times[-1] - times[0]) * 0.01 or 1_800_000.0
    time = alt.X("time:T").scale(type="utc", domain=[times[0] - pad, times[-1] + pad])
    below = time.axis(format=TIME_FORMAT, tickCount=TICKS, titleAnchor="end").title(_time_label(first, last))
    panels = [
        _panel("output", outputs, OUTPUT_NAMES[reading], "series", time.axis(None)),
        _panel("value", values, name, "accent", below),
    ]
    gaps = " Where a line is broken there is no value." if np.isnan([drawn.values, drawn.outputs]).any() else ""
    return Chart(
        kind="over-time",
        title=f"{OUTPUT_NAMES[reading]} and {_lower(name)} over time",
        description=f"{counted(len(known.times), 'work order')} from {instant(first)} to {instant(last)}. Above, the output, "
        f"from {_range(known.outputs)}; below, {_lower(name)}, from {_range(known.values)}.",
        caption=f"Two axes, each in its own unit; one time.{gaps}",
        drawing=alt.vconcat(*panels, spacing=10),
        data={"orders": [dict(zip(named, row, strict=True)) for row in columns]},
    )


def _panel(field: str, scale: Scale, name: str, colour: str, time: "alt.X") -> "alt.Chart":
    """A line over time."""
    import altair as alt

    chart: alt.Chart = (
        alt.Chart(alt.NamedData(name="orders"), width=PANEL_WIDTH, height=PANEL_HEIGHT)
        .mark_line(stroke=palette()[colour])
        .encode(x=time, y=alt.Y(**scale.encoding(field, minExtent=44)), order=alt.OrderValue(None))
        .properties(title=name + scale.unit)
    )
    return chart


def _time_label(first: pd.Timestamp, last: pd.Timestamp) -> str:
    """What the labels of a time axis leave unsaid: the zone, and the day or the years."""
    if first.date() == last.date():
        return f"UTC, {first:%d %b %Y}"
    return f"UTC, {first.year}" if first.year == last.year else f"UTC, {first.year}–{last.year}"


def _drawn(orders: Orders, drawn: Orders) -> str:
    total, some = len(orders.times), len(drawn.times)
    if total == some:
        return f"{counted(total, 'work order')}."
    return f"{some:,} of {total:,} work orders are drawn: at equal distances in their order, and the lowest and highest values."


def _range(values: Numbers) -> str:
    finite = values[np.isfinite(values)]
    return f"{quantity(float(finite.min()))} to {quantity(float(finite.max()))}"


def _lower(name: str) -> str:
    return name[0].lower() + name[1:]
