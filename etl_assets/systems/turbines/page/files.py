"""The page of a day as files: what the turbines measured, in charts with flags, and a picture of each turbine.

    <folder>/<day>/day.html         the page
    <folder>/<day>/<turbine>.svg    a turbine's picture; `turbine.svg` for the only one of a source that knows none

All are self-contained: they fetch nothing and run no script. What is drawn is decided in `page_charts`; here it is only put
together and written.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.charts.files import safe_name, write_text
from etl_assets.core.charts.numbers import amount, counted, instant, share
from etl_assets.core.charts.pages import printable, template
from etl_assets.systems.turbines.contracts import FLAGS
from etl_assets.systems.turbines.page import charts as page_charts
from etl_assets.systems.turbines.page.charts import Chart, spoken
from etl_assets.systems.turbines.page.series import BINS, MISSING, rows_of_day, series_of
from etl_assets.systems.turbines.page.svg import EMPTY, charts, spoken_day, turbine_name, turbine_svg
from etl_assets.systems.turbines.statistics import (
    FROZEN_SAMPLES,
    FROZEN_SAMPLES_ELSE,
    LOW_COVERAGE,
    SPIKE_MADS,
    summary,
)

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


@dataclass(frozen=True)
class PageFiles:
    """Where the page of a day is, and the picture of each turbine."""

    html: Path
    svg: Mapping[str, Path]


def write_page(
    folder: Path,
    bins: pa.Table,
    *,
    day: date,
    columns: Sequence[str],
    turbines: Sequence[str] = (),
    generated_at: datetime,
) -> PageFiles:
    """Write the page of a day and the pictures of its turbines; each file appears whole or not at all, the page last.

    Args:
        folder: made if it is not there.
        bins: as `ten_minute_statistics` gives them; other days and signals may be among them and are left out.
        day: in UTC.
        columns: source signals to show, at least one, in this order; of one without bins that is what is shown.
        turbines: those that were asked for; one without bins is on the page too. Others that have bins are added.
        generated_at: when, aware.

    Raises:
        PermanentError: if a file cannot be written.
    """
    of_day = rows_of_day(bins, day)
    rows = of_day.filter(pc.is_in(of_day["source_signal"], pa.array(columns, pa.string())))
    found = series_of(rows)
    names = dict.fromkeys((*turbines, *sorted({turbine for turbine, _ in found})))
    drawn = {turbine: charts(found, turbine, columns) for turbine in names}
    here = folder / day.isoformat()
    svg = {turbine: here / f"{safe_name(turbine) if turbine else 'turbine'}.svg" for turbine in drawn}
    for turbine, path in svg.items():
        write_text(path, turbine_svg(drawn[turbine], day=day, turbine=turbine))
    html = here / "day.html"
    write_text(html, _page(rows, drawn, day, columns, generated_at))
    return PageFiles(html, svg)


def _page(
    rows: pa.Table, drawn: Mapping[str, Sequence[Chart]], day: date, columns: Sequence[str], generated_at: datetime
) -> str:
    turbines = [_turbine(rows, number, *one, day, columns) for number, one in enumerate(drawn.items(), 1)]
    text: str = _template().render(
        day=spoken_day(day),
        generated_at=generated_at,
        signals=[printable(name) for name in columns],
        lead=_lead(rows, len(turbines) * len(columns)),
        overview=[{"name": one["name"], "link": one["id"], "counts": one["total"]} for one in turbines],
        turbines=turbines,
        flags=FLAGS,
        meanings=MEANINGS.items(),
        empty=EMPTY,
        **{"is": page_charts},
    )
    return text


def _turbine(
    rows: pa.Table, number: int, turbine: str, drawn: Sequence[Chart], day: date, columns: Sequence[str]
) -> dict[str, Any]:
    """What the page shows of a turbine."""
    mine = rows.filter(pc.equal(rows["turbine"], turbine))
    counts = summary(mine, columns=columns, turbines=[turbine], days=[day])
    return {
        "id": f"turbine-{number}",
        "name": turbine_name(turbine),
        "rows": [{"name": printable(name), "link": "", "counts": counts[name]} for name in columns],
        "total": {key: sum(of_signal[key] for of_signal in counts.values()) for key in counts[columns[0]]},
        "charts": drawn,
    }


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
def _template() -> Any:
    return template(Path(__file__).with_name("page.html.j2"), amount, counted, instant, spoken)
