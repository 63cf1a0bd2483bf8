"""The day of a turbine as one picture: a chart per signal in an SVG that needs nothing beside it, small enough for metadata."""

import base64
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from etl_assets.core.charts.pages import printable, template
from etl_assets.systems.turbines.page import charts as page_charts
from etl_assets.systems.turbines.page.charts import Chart, chart_of, shortened
from etl_assets.systems.turbines.page.series import Series, nothing, rows_of_day, series_of

EMPTY = "No bin of this day has a value."
ALTERNATIVE = "Ten-minute statistics of the day"
MARGIN, HEADER, ABOVE, BETWEEN = 20, 96, 14, 34
COLUMNS = 2


@dataclass(frozen=True)
class Place:
    """A chart and where it is in the picture."""

    chart: Chart
    x: float
    y: float


def day_svg(bins: pa.Table, *, day: date, turbine: str, columns: Sequence[str]) -> str:
    """The picture of a turbine's day, about 8 kB per signal.

    Args:
        bins: as `ten_minute_statistics` gives them; other days, turbines and signals may be among them.
        day: in UTC.
        turbine: empty for the only one of a source that knows none.
        columns: source signals to draw, in this order; one without bins has an empty chart.
    """
    return turbine_svg(charts(series_of(rows_of_day(bins, day)), turbine, columns), day=day, turbine=turbine)


def as_markdown(svg: str) -> str:
    """The picture as Markdown that holds all of it, for `MetadataValue.md`."""
    return f"![{ALTERNATIVE}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def turbine_svg(drawn: Sequence[Chart], *, day: date, turbine: str) -> str:
    """As `day_svg`, of charts that are there."""
    places, height = _places(drawn) if drawn else ([], HEADER)
    text: str = _template().render(
        title=f"{turbine_name(shortened(turbine))}, {spoken_day(day)}",
        empty=EMPTY,
        places=places,
        width=2 * MARGIN + min(COLUMNS, max(len(drawn), 1)) * (page_charts.WIDTH + MARGIN) - MARGIN,
        height=height,
        margin=MARGIN,
        **{"is": page_charts},
    )
    return text


def charts(found: Mapping[tuple[str, str], Series], turbine: str, columns: Sequence[str]) -> list[Chart]:
    """The charts of a turbine; none if it has no bin at all."""
    if not any((turbine, column) in found for column in columns):
        return []
    return [chart_of(printable(column), found.get((turbine, column)) or nothing()) for column in columns]


def turbine_name(turbine: str) -> str:
    """A turbine for people."""
    return f"Turbine {printable(turbine)}" if turbine else "The turbine"


def spoken_day(day: date) -> str:
    """A day for people, with its zone."""
    return f"{day.day} {day:%B %Y}, UTC"


def _places(drawn: Sequence[Chart]) -> tuple[list[Place], float]:
    """Charts in rows, and how high it all is."""
    places, y = [], float(HEADER)
    for first in range(0, len(drawn), COLUMNS):
        row = drawn[first : first + COLUMNS]
        places += [Place(chart, MARGIN + number * (page_charts.WIDTH + MARGIN), y) for number, chart in enumerate(row)]
        y += max(chart.height for chart in row) + BETWEEN
    return places, y - BETWEEN + ABOVE


@functools.cache
def _template() -> Any:
    return template(Path(__file__).with_name("day.svg.j2"))
