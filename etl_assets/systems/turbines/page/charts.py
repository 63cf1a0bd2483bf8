"""The chart of a signal on a day: bands, line, coverage and flags over 24 hours, and what can be seen in it in words."""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from etl_assets.core.charts.numbers import counted, listed, quantity
from etl_assets.core.charts.pictures import svg
from etl_assets.core.charts.theme import palette
from etl_assets.systems.turbines.contracts import SIGNALS
from etl_assets.systems.turbines.page.series import (
    BINS,
    FULL_CIRCLE,
    MARKS,
    Axis,
    Mask,
    Numbers,
    axis_of,
    clock,
    runs,
)

# Left is space for the longest name of a flag; a bin is two pixels wide, which keeps paths short.
LEFT, WIDTH = 84, 2 * BINS
# From the top: where values and coverage are, the height of a lane, and the space between.
VALUES, COVERAGE = (0, 140), (146, 162)
LANE, SPACE = 16, 6
HOURS = (0, 6, 12, 18, 24)
DEGREES = "°"  # written at each mark of the compass
WARNINGS = ("out_of_range", "frozen", "spike")
LONGEST_NAME = 60
NAMED_RUNS = 12
# Straight lines; what Vega says of itself, and groups with nothing in them.
PATH = re.compile(r' d="(M[-\d.,eLMZ]{60,})"')
SUPERFLUOUS = re.compile(r'<path class="background"[^>]*/>| class="[^"]*"| stroke-linejoin="round"')
EMPTY_GROUP = re.compile(r"<g[^>]*/>|<g[^>]*></g>")

Spec = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A drawing and its words.

    Attributes:
        signal: as the source names it.
        title: what it is for people.
        unit, tag: of `SIGNALS`; empty for a signal that it does not know.
        description: what can be seen in it, for who does not see it.
        caption: what a reader must know beside what is drawn.
        when: for each thing that is marked, its name, in how many bins, and when.
        spec: the drawing, in Vega-Lite.
    """

    signal: str
    title: str
    unit: str
    tag: str
    description: str
    caption: str
    when: Sequence[tuple[str, int, str]]
    spec: Spec

    def svg(self, name: str, of: str) -> str:
        """The drawing as `<svg>`.

        Args:
            name: unique within its page.
            of: whose signal it is, for the title.
        """
        drawn = svg(self.spec, name=name, title=f"{of}: {self.title}", description=self.description)
        drawn = PATH.sub(lambda found: f' d="{_shortened(found[1])}"', SUPERFLUOUS.sub("", drawn))
        while drawn != (drawn := EMPTY_GROUP.sub("", drawn)):
            pass
        return drawn


def chart_of(signal: str, series: pd.DataFrame) -> Chart:
    """The chart of a signal; without any bin it is empty and says so.

    Args:
        signal: as the source names it; one that `SIGNALS` does not know has no unit.
        series: as `day_series` gives it.
    """
    known = SIGNALS.get(signal)
    unit, tag = (known.unit, known.tag) if known else ("", "")
    axis = axis_of(series, circular=known is not None and known.circular)
    marked = [name for name in MARKS if series[name].any()]
    when = [(spoken(name), int(series[name].sum()), _when(series[name].to_numpy())) for name in marked]
    return Chart(
        signal=signal,
        title=known.meaning if known else shortened(signal),
        unit=unit,
        tag=tag,
        description=_described(series, axis, unit, when),
        caption=_caption(series, axis, unit),
        when=when,
        spec=_spec(series, axis, unit, marked),
    )


def spoken(name: str) -> str:
    """A flag for people."""
    return name.replace("_", " ")


def shortened(name: str) -> str:
    """A name that fits on a chart."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


# Drawing


def _spec(series: pd.DataFrame, axis: Axis | None, unit: str, marked: Sequence[str]) -> Spec:
    """Three panels over the same hours, one below the other: values, coverage, and a lane for each thing that is marked."""
    coverage = series["coverage"].to_numpy()
    bottom = COVERAGE[1] + SPACE + LANE * len(marked)
    layers = [
        _hours(),
        *(_values(axis, unit) if axis else _nothing()),
        _area(
            _steps(coverage > 0, low=np.zeros(BINS), high=coverage),
            {"domain": [0, 1], "range": COVERAGE[::-1]},
            _axis(values=[0.5], labelExpr="'coverage'", grid=False),
            opacity=0.5,
            colour="quiet",
        ),
        *([_lanes(series, marked, (COVERAGE[1] + SPACE, bottom))] if marked else ()),
        _layer(
            {"type": "rule", "opacity": 0.6}, [{"at": VALUES[1]}, {"at": COVERAGE[1]}], y=_pixels("at"), colour="quiet"
        ),
    ]
    return {
        "width": WIDTH,
        "height": bottom,
        "padding": {"left": 1, "right": 1, "top": 6, "bottom": 5},
        "layer": layers,
        "resolve": {"scale": {"y": "independent"}},
    }


def _hours() -> Spec:
    axis = {
        "values": HOURS,
        "tickCount": len(HOURS),
        "labelExpr": "format(datum.value, '02d') + ':00'",
        "ticks": False,
        "domain": False,
        "title": None,
    }
    x = {"field": "x", "type": "quantitative", "scale": {"domain": [0, 24], "nice": False}, "axis": axis}
    return {
        "data": {"values": [{"x": hour} for hour in HOURS]},
        "mark": {"type": "rule", "color": palette()["faint"]},
        "encoding": {"x": x},
    }


def _values(axis: Axis, unit: str) -> list[Spec]:
    """Bands and line, each for every turn of the compass, and what goes on beyond the axis."""
    at = axis.values
    leaps = {name: _leaps(at[name]) if len(axis.turns) > 1 else None for name in ("low", "less", "mean")}
    scale = {"domain": axis.domain, "range": VALUES[::-1], "nice": False, "zero": False}
    title = " ".join(part for part in (unit if unit != DEGREES else "", axis.scale) if part)
    labels: Spec = {}
    if axis.labels:
        text = f"({json.dumps(axis.labels)})[datum.value]"
        labels = {"values": list(axis.labels), "tickCount": len(axis.labels), "labelExpr": text}
    layers: list[Spec] = []
    for low, high, opacity in (("low", "high", 0.22), ("less", "more", 0.45)):
        rows: list[Spec] = []
        for turn in axis.turns:
            bottom, top = (np.clip(at[name] + turn, *axis.domain) for name in (low, high))
            drawn = np.isfinite(bottom) & np.isfinite(top) & (bottom != top)
            rows += [{**row, "run": f"{turn} {row['run']}"} for row in _steps(drawn, leaps[low], low=bottom, high=top)]
        layers.append(_area(rows, scale, None if layers else _axis(title=title or None, **labels), opacity=opacity))
    layers[0]["mark"] |= {"stroke": palette()["accent"], "strokeOpacity": 0.6, "strokeWidth": 0.5}
    mean = np.clip(at["mean"], *axis.domain)
    line = _steps(np.isfinite(mean), leaps["mean"], high=mean)
    stroke = {"type": "line", "interpolate": "step-after", "strokeWidth": 1.1, "strokeCap": "butt"}
    layers.append(
        _layer(stroke, line, y=_quantity("high", scale), colour="ink", detail={"field": "run", "type": "nominal"})
    )
    for shape, mask, edge in (("triangle-up", axis.above, VALUES[0]), ("triangle-down", axis.below, VALUES[1])):
        beyond = [{"x": (place + 0.5) / 6, "at": edge} for place in np.flatnonzero(mask).tolist()]
        if beyond:
            mark = {"type": "point", "shape": shape, "filled": True, "size": 40, "opacity": 1}
            layers.append(_layer(mark, beyond, y=_pixels("at"), colour="warn"))
    return layers


def _nothing() -> list[Spec]:
    words = {"type": "text", "text": "nothing to draw"}
    return [_layer(words, [{"x": 12, "at": (VALUES[0] + VALUES[1]) / 2}], y=_pixels("at"), colour="quiet")]


def _lanes(series: pd.DataFrame, marked: Sequence[str], between: tuple[float, float]) -> Spec:
    """A line for each thing that is marked, with a gap after each stretch of bins."""
    colours = palette()
    rows = [
        {"lane": spoken(name), "x": x, "warn": name in WARNINGS}
        for name in marked
        for begin, end in runs(series[name].to_numpy())
        for x in (begin / 6, end / 6, None)
    ]
    scale = {"type": "band", "domain": [spoken(name) for name in marked], "range": between}
    axis = _axis(labelColor=colours["ink"], grid=False)
    return _layer(
        {"type": "line", "strokeWidth": 9, "strokeCap": "butt"},
        rows,
        y={"field": "lane", "type": "nominal", "scale": scale, "bandPosition": 0.5, "axis": axis},
        color={"condition": {"test": "datum.warn", "value": colours["warn"]}, "value": colours["plain"]},
        detail={"field": "lane", "type": "nominal"},
    )


def _area(rows: list[Spec], scale: Spec, axis: Spec | None, *, opacity: float, colour: str = "accent") -> Spec:
    return _layer(
        {"type": "area", "interpolate": "step-after", "fillOpacity": opacity},
        rows,
        y=_quantity("low", scale, axis),
        colour=colour,
        y2={"field": "high"},
        detail={"field": "run", "type": "nominal"},
    )


def _layer(mark: Spec, rows: list[Spec], *, y: Spec, colour: str = "plain", **encoding: Spec) -> Spec:
    x = {"x": {"field": "x", "type": "quantitative"}} if mark["type"] != "rule" else {}
    return {
        "data": {"values": rows},
        "mark": {**mark, "color": palette()[colour]},
        "encoding": {**x, "y": y, **encoding},
    }


def _quantity(field: str, scale: Spec, axis: Spec | None = None) -> Spec:
    return {"field": field, "type": "quantitative", "scale": scale, "axis": axis}


def _pixels(field: str) -> Spec:
    """A place that is given in pixels from the top."""
    return {"field": field, "type": "quantitative", "scale": None, "axis": None}


def _axis(**options: Any) -> Spec:
    """A vertical axis with space for the longest label; its title stands above it."""
    title = {"titleAngle": 0, "titleAnchor": "end", "titleAlign": "right", "titleX": -7, "titleY": -10}
    return {"orient": "left", "offset": 0, "title": None, "minExtent": LEFT, "maxExtent": LEFT, **title, **options}


def _steps(there: Mask, breaks: Mask | None = None, **values: Numbers) -> list[Spec]:
    """Points of steps as wide as a bin: one at the begin of each, and one at the end of each stretch of bins.

    Args:
        there: bins that are drawn.
        breaks: bins that do not go on from the one before.
        values: by name, of each bin.
    """
    rows: list[Spec] = []
    for begin, end in runs(there):
        cuts = (np.flatnonzero(breaks[begin + 1 : end]) + begin + 1).tolist() if breaks is not None else []
        for first, last in itertools.pairwise((begin, *cuts, end)):
            rows += [
                {
                    "x": place / 6,
                    "run": f"{first}",
                    **{name: float(part[min(place, last - 1)]) for name, part in values.items()},
                }
                for place in range(first, last + 1)
            ]
    return rows


def _leaps(values: Numbers) -> Mask:
    """Bins that are more than half the compass away from the one before: it is shorter the other way."""
    return np.abs(np.diff(values, prepend=values[0])) > FULL_CIRCLE / 2


def _shortened(path: str) -> str:
    """A path of straight lines in tenths of a pixel, steps as such: a quarter of the characters."""
    text, x, y = "", 0.0, 0.0
    for command, a, b in re.findall(r"([MLZ])(?:([-\d.e]+),([-\d.e]+))?", path):
        if command == "Z":
            text += "z"
            continue
        to_x, to_y = round(float(a), 1), round(float(b), 1)
        if command == "M":
            text += f"m{to_x - x:.4g} {to_y - y:.4g}" if text else f"M{to_x:g} {to_y:g}"
        elif to_x != x and to_y != y:
            text += f"L{to_x:g} {to_y:g}"
        elif to_x != x or to_y != y:
            text += f"V{to_y:g}" if to_x == x else f"h{to_x - x:.4g}"
        x, y = to_x, to_y
    return re.sub(r"(?:h[\d.]+){2,}", lambda found: f"h{sum(map(float, found[0].split('h')[1:])):.4g}", text)


# Words


def _when(mask: Mask) -> str:
    return listed([f"{clock(begin)}–{clock(end)}" for begin, end in runs(mask)], limit=NAMED_RUNS)


def _described(series: pd.DataFrame, axis: Axis | None, unit: str, when: Sequence[tuple[str, int, str]]) -> str:
    marked = "".join(f" {name.capitalize()}: {counted(count, 'bin')}, {times}." for name, count, times in when)
    if axis is None:
        return f"{_bins(series)}{marked}"
    if unit == DEGREES:
        return f"{_bins(series)} Means of ten minutes, in degrees on the compass.{marked}"
    least, greatest = (_measured(value, unit) for value in (series["mean"].min(), series["mean"].max()))
    low, high = (_measured(value, unit) for value in (series["min"].min(), series["max"].max()))
    means = f"Means of ten minutes from {least} to {greatest}, single samples from {low} to {high}."
    return f"{_bins(series)} {means}{marked}"


def _bins(series: pd.DataFrame) -> str:
    n = series["n"][series["n"] > 0]
    if n.empty:
        return "No bin has a value."
    fewest, most = int(n.min()), int(n.max())
    each = f"{fewest} to {counted(most, 'sample')}" if fewest != most else counted(most, "sample")
    return f"{len(n)} of {BINS} bins, {each} in each."


def _caption(series: pd.DataFrame, axis: Axis | None, unit: str) -> str:
    caption = _bins(series)
    if axis is None:
        return f"{caption} None has a mean that can be drawn." if series["n"].any() else caption
    if axis.above.any():
        caption += f" Beyond the axis (▲): up to {_measured(series['max'].max(), unit)}."
    if axis.below.any():
        caption += f" Beyond the axis (▼): down to {_measured(series['min'].min(), unit)}."
    return caption


def _measured(value: float, unit: str) -> str:
    return f"{quantity(float(value))} {unit}".rstrip()
