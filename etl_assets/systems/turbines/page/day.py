"""The page of a day as files: what the turbines measured, in charts with flags, and a picture of each turbine.

    <folder>/<day>/day.html         the page
    <folder>/<day>/<turbine>.svg    a turbine's picture; `turbine.svg` for the only one of a source that knows none

All are self-contained: they fetch nothing and run no script.
"""

import base64
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.charts.files import safe_name, write_text
from etl_assets.core.charts.numbers import amount, counted, instant, share
from etl_assets.core.charts.pages import printable, template
from etl_assets.core.charts.pictures import standalone
from etl_assets.core.database.connections import Database
from etl_assets.systems.turbines.contracts import DEFAULT_COLUMNS, FLAGS, SIGNALS, RawTurbineSignals
from etl_assets.systems.turbines.days import DAY, midnight
from etl_assets.systems.turbines.page.charts import Chart, chart_of, shortened, spoken
from etl_assets.systems.turbines.page.series import BINS, MISSING, day_series
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.statistics import (
    FROZEN_SAMPLES,
    FROZEN_SAMPLES_ELSE,
    LOW_COVERAGE,
    OUTPUT,
    SPIKE_MADS,
    summary,
)
from etl_assets.systems.turbines.transform import rows_of_day

# A run of more days draws none: pages are for looking at, and those of a year take longer than its statistics.
DAYS_DRAWN = 31
EMPTY = "No bin of this day has a value."
ALTERNATIVE = "Ten-minute statistics of the day"
MEANINGS: Mapping[str, str] = {
    MISSING: "The bin has no sample at all, so there are no statistics of it.",
    "gap": "At least one of the ten minutes has no value.",
    "duplicate": "An instant came more than once; the last to come counts.",
    "out_of_range": "A value is beyond what the sensor or the turbine can give at all. It is in the statistics all the same.",
    "frozen": f"A value stood still for {FROZEN_SAMPLES_ELSE} samples or more, wind speed and power for "
    f"{FROZEN_SAMPLES['power']}, and is none at which the signal may rest.",
    "spike": f"A value stands out of its surroundings, by a large step and more than {SPIKE_MADS:g} scaled median deviations.",
    "low_coverage": f"Less than {share(LOW_COVERAGE)} of the ten minutes have a value.",
}
# Of the pictures: margin, title and key, the title of a chart, space between two.
MARGIN, HEADER, ABOVE, BETWEEN, COLUMNS = 20, 76, 22, 30, 2


@dataclass(frozen=True)
class DayPage:
    """The page of a day, and what is on it.

    Attributes:
        html: where the page is.
        svg: the picture of each turbine, in the order of the page.
        bins: how many the page has; 0 for a day without statistics.
    """

    html: Path
    svg: Mapping[str, Path]
    bins: int


@dataclass(frozen=True)
class Drawn:
    """A chart with its drawing."""

    chart: Chart
    svg: str

    @property
    def bare(self) -> str:
        """The drawing without its words, for a picture that has them all in one place."""
        return re.sub(r' role="img" aria-labelledby="[^"]*"|<title.*?</title>|<desc.*?</desc>', "", self.svg)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height, in pixels."""
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', self.svg)
        assert found
        return float(found[1]), float(found[2])


def write_day_page(target: Database, day: date, *, settings: TurbinesSettings) -> DayPage:
    """Draw a day as it is in the target database, whichever run has stored it, in `reports/turbines/<day>` of the data folder.

    Raises:
        TransientError, PermanentError: if the database or the folder cannot be used.
    """
    bins = stored_bins(target, day)
    stored = set(bins["source_signal"].to_pylist())
    return write_page(
        settings.reports_dir / RawTurbineSignals.schema_name(),
        bins,
        day=day,
        columns=[name for name in SIGNALS if name in stored] or DEFAULT_COLUMNS,
        turbines=settings.turbines,
        generated_at=datetime.now(UTC),
    )


def stored_bins(target: Database, day: date) -> pa.Table:
    """The view `ten_minute` of a day, in UTC: schema `statistics.OUTPUT`, in order of time, turbine and signal."""
    with target.connect() as connection:
        rows: list[tuple[Any, ...]] = connection.execute(
            'SELECT timestamp, turbine, source_signal, mean, "min", "max", std, n, coverage, flags'
            " FROM public.ten_minute WHERE timestamp >= %s AND timestamp < %s"
            " ORDER BY timestamp, turbine, source_signal",
            (midnight(day), midnight(day + DAY)),
        ).fetchall()
    columns = zip(*rows, strict=True) if rows else [()] * len(OUTPUT)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, OUTPUT, strict=True)], OUTPUT)


def write_page(
    folder: Path,
    bins: pa.Table,
    *,
    day: date,
    columns: Sequence[str],
    turbines: Sequence[str] = (),
    generated_at: datetime,
) -> DayPage:
    """Write the page of a day and the pictures of its turbines; each file appears whole or not at all, the page last.

    Args:
        folder: made if it does not exist.
        bins: as `ten_minute_statistics` gives them; other days and signals may be among them and are left out.
        day: in UTC.
        columns: source signals to draw, at least one, in this order; one without bins has an empty chart.
        turbines: those that were asked for; one without bins is on the page too. Others that have bins are added.
        generated_at: when, aware.

    Raises:
        PermanentError: if a file cannot be written.
    """
    of_day = rows_of_day(bins, day)
    rows = of_day.filter(pc.is_in(of_day["source_signal"], pa.array(columns, pa.string())))
    frame = rows.to_pandas()
    names = dict.fromkeys((*turbines, *sorted(frame["turbine"].unique())))
    drawn = {name: _charts(frame, name, columns, number) for number, name in enumerate(names, 1)}
    here = folder / day.isoformat()
    svg = {name: here / f"{safe_name(name) if name else 'turbine'}.svg" for name in drawn}
    for name, path in svg.items():
        write_text(path, day_picture(drawn[name], day=day, turbine=name))
    html = here / "day.html"
    write_text(html, _page(rows, drawn, day, columns, generated_at))
    return DayPage(html, svg, rows.num_rows)


def as_markdown(svg: str) -> str:
    """A picture as Markdown that holds all of it, for `MetadataValue.md`."""
    return f"![{ALTERNATIVE}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _charts(frame: pd.DataFrame, turbine: str, columns: Sequence[str], number: int) -> list[Drawn]:
    """The charts of a turbine; none if it has no bin at all."""
    mine = frame[frame["turbine"] == turbine]
    if mine.empty:
        return []
    charts = [chart_of(printable(name), day_series(mine[mine["source_signal"] == name])) for name in columns]
    return [
        Drawn(chart, chart.svg(f"turbine-{number}-chart-{place}", _turbine_name(turbine)))
        for place, chart in enumerate(charts, 1)
    ]


def day_picture(drawn: Sequence[Drawn], *, day: date, turbine: str) -> str:
    """The day of a turbine as one picture that needs nothing beside it, small enough for metadata: its charts, two in a row."""
    placed, y = [], float(HEADER)
    width = max((one.size[0] for one in drawn), default=0.0)
    for first in range(0, len(drawn), COLUMNS):
        row = drawn[first : first + COLUMNS]
        placed += [(one, MARGIN + number * (width + MARGIN), y) for number, one in enumerate(row)]
        y += ABOVE + max(one.size[1] for one in row) + BETWEEN
    text: str = _template("day.svg.j2").render(
        title=f"{_turbine_name(shortened(turbine))}, {_spoken(day)}",
        empty=EMPTY,
        placed=placed,
        width=max(round(2 * MARGIN + min(COLUMNS, len(drawn)) * (width + MARGIN) - MARGIN), 460),
        height=round(y - (BETWEEN - MARGIN if drawn else 0)),
        margin=MARGIN,
        above=ABOVE,
    )
    return standalone(text)


def _page(
    rows: pa.Table, drawn: Mapping[str, Sequence[Drawn]], day: date, columns: Sequence[str], generated_at: datetime
) -> str:
    turbines = [_turbine(rows, number, *one, day, columns) for number, one in enumerate(drawn.items(), 1)]
    text: str = _template("page.html.j2").render(
        day=_spoken(day),
        generated_at=generated_at,
        signals=[printable(name) for name in columns],
        lead=_lead(rows, len(turbines) * len(columns)),
        overview=[{"name": one["name"], "link": one["id"], "counts": one["total"]} for one in turbines],
        turbines=turbines,
        flags=FLAGS,
        meanings=MEANINGS.items(),
        empty=EMPTY,
    )
    return text


def _turbine(
    rows: pa.Table, number: int, turbine: str, drawn: Sequence[Drawn], day: date, columns: Sequence[str]
) -> dict[str, Any]:
    """What the page has of a turbine."""
    mine = rows.filter(pc.equal(rows["turbine"], turbine))
    counts = summary(mine, columns=columns, turbines=[turbine], days=[day])
    return {
        "id": f"turbine-{number}",
        "name": _turbine_name(turbine),
        "rows": [{"name": printable(name), "link": "", "counts": counts[name]} for name in columns],
        "total": {key: sum(of_signal[key] for of_signal in counts.values()) for key in counts[columns[0]]},
        "drawn": drawn,
    }


def _turbine_name(turbine: str) -> str:
    """A turbine for people."""
    return f"Turbine {printable(turbine)}" if turbine else "The turbine"


def _spoken(day: date) -> str:
    """A day for people, with its zone."""
    return f"{day.day} {day:%B %Y}, UTC"


def _lead(rows: pa.Table, series: int) -> str:
    """The day in a sentence."""
    if not rows.num_rows:
        return "No bin of this day has a value: the source had nothing to say about it, or it has not been loaded."
    flagged = int(pc.sum(pc.not_equal(rows["flags"], "")).as_py())
    missing = series * BINS - rows.num_rows
    carry = (
        "none carries a flag" if not flagged else f"{flagged:,} carry a flag" if flagged > 1 else "one carries a flag"
    )
    lack = "none is missing" if not missing else f"{missing:,} are missing" if missing > 1 else "one is missing"
    return f"{rows.num_rows:,} of {series * BINS:,} bins have values; {lack}, {carry}."


@functools.cache
def _template(name: str) -> Any:
    return template(Path(__file__).with_name(name), amount, counted, instant, spoken)
