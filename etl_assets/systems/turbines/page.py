"""The page of a day: what the turbines measured, in charts with flags, and a picture of each turbine.

    <folder>/<day>/day.html         the page
    <folder>/<day>/<turbine>.svg    a turbine's picture; `turbine.svg` for the only one of a source that knows none

All are self-contained: they fetch nothing and run no script. A chart has bands, line, coverage and flags over 24 hours; its drawing
is `chart.json.j2`, in Vega-Lite.
"""

import functools
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.charts.files import safe_name, write_text
from etl_assets.core.charts.numbers import amount, counted, instant, listed, quantity, raised, share
from etl_assets.core.charts.pages import printable, template
from etl_assets.core.charts.pictures import standalone, svg
from etl_assets.core.database.connections import Database
from etl_assets.systems.turbines.contracts import DEFAULT_COLUMNS, FLAGS, SIGNALS, STATISTICS, RawTurbineSignals
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.statistics import (
    BIN_US,
    DAY_US,
    FROZEN_SAMPLES,
    FROZEN_SAMPLES_ELSE,
    LOW_COVERAGE,
    MINUTE_US,
    OUTPUT,
    SPIKE_MADS,
    summary,
)
from etl_assets.systems.turbines.transform import DAY, midnight, rows_of_day

# A run of more days draws none: pages are for looking at, and those of a year take longer than its statistics.
DAYS_DRAWN = 31
BINS = DAY_US // BIN_US
BIN_MINUTES = BIN_US // MINUTE_US
MISSING = "missing"
MARKS = (MISSING, *FLAGS)
WARNINGS = ("out_of_range", "frozen", "spike")
LONGEST_NAME = 60
NAMED_RUNS = 12
EMPTY = "No bin of this day has a value."
ALTERNATIVE = "Ten-minute statistics of the day"
# Of the pictures: margin, title and key, the title of a chart, space between two.
MARGIN, HEADER, ABOVE, BETWEEN, COLUMNS = 20, 76, 22, 30, 2

DEGREES = "°"  # written at each mark of the compass
FULL_CIRCLE = 360
POINTS = {0: "N", 90: "E", 180: "S", 270: "W"}
COMPASS_STEPS = (2, 5, 10, 15, 30, 45, 90)
COMPASS_INTERVALS = 5
# Sizes of values that are written out on an axis.
WRITTEN_OUT = (1e-3, 1e7)
# Straight lines; what Vega adds for itself, and groups with nothing in them.
PATH = re.compile(r' d="(M[-\d.,eLMZ]{60,})"')
SUPERFLUOUS = re.compile(r'<path class="background"[^>]*/>| class="[^"]*"| stroke-linejoin="round"')
EMPTY_GROUP = re.compile(r"<g[^>]*/>|<g[^>]*></g>")
WORDS = re.compile(r' role="img" aria-labelledby="[^"]*"|<title.*?</title>|<desc.*?</desc>')

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Spec = dict[str, Any]


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


@dataclass(frozen=True)
class Axis:
    """Statistics as they are drawn, NaN where there is none.

    Attributes:
        domain: ends of the axis, in the units of the values.
        values: `mean`, `low` and `high` (the ends of the range), `less` and `more` (a standard deviation away), in units of
            `scale`. On the compass `low` is below the mean and `high` above it, whatever lies between them.
        scale: what is written behind the unit, as `× 10⁹`; empty for values as they are.
        labels: what is written at which value; none: as the engine finds it.
        turns: what is added to all values to draw what reaches over an edge of the compass at the other edge too.
    """

    domain: tuple[float, float]
    values: dict[str, Numbers]
    scale: str = ""
    labels: dict[int, str] | None = None
    turns: tuple[float, ...] = (0.0,)

    @property
    def above(self) -> Mask:
        """Bins that go on beyond the upper end; on the compass none does."""
        return (self.values["high"] > self.domain[1]) & (self.labels is None)

    @property
    def below(self) -> Mask:
        """Bins that go on beyond the lower end."""
        return (self.values["low"] < self.domain[0]) & (self.labels is None)


# The files


def write_day_page(target: Database, day: date, *, settings: TurbinesSettings) -> DayPage:
    """Draw a day as it is in the target database, whichever run has stored it, in `reports/turbines/<day>` of the data folder.

    Raises:
        TransientError, PermanentError: if the database or the folder cannot be used.
    """
    with target.connect() as connection:
        rows: list[tuple[Any, ...]] = connection.execute(
            'SELECT timestamp, turbine, source_signal, mean, "min", "max", std, n, coverage, flags'
            " FROM public.ten_minute WHERE timestamp >= %s AND timestamp < %s"
            " ORDER BY timestamp, turbine, source_signal",
            (midnight(day), midnight(day + DAY)),
        ).fetchall()
    columns = zip(*rows, strict=True) if rows else [()] * len(OUTPUT)
    bins = pa.table([pa.array(column, field.type) for column, field in zip(columns, OUTPUT, strict=True)], OUTPUT)
    stored = set(bins["source_signal"].to_pylist())
    return write_page(
        settings.reports_dir / RawTurbineSignals.schema_name(),
        bins,
        day=day,
        columns=[name for name in SIGNALS if name in stored] or DEFAULT_COLUMNS,
        turbines=settings.turbines,
        generated_at=datetime.now(UTC),
    )


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
    drawn = {name: _drawn(frame, name, columns, number) for number, name in enumerate(names, 1)}
    here = folder / day.isoformat()
    pictures = {name: here / f"{safe_name(name) if name else 'turbine'}.svg" for name in drawn}
    for name, path in pictures.items():
        write_text(path, _picture(drawn[name], day=day, turbine=name))
    html = here / "day.html"
    write_text(html, _page(rows, drawn, day, columns, generated_at))
    return DayPage(html, pictures, rows.num_rows)


def _drawn(frame: pd.DataFrame, turbine: str, columns: Sequence[str], number: int) -> list[tuple[Chart, str]]:
    """The charts of a turbine, each with its drawing; none if it has no bin at all."""
    mine = frame[frame["turbine"] == turbine]
    if mine.empty:
        return []
    charts = [chart_of(printable(name), day_series(mine[mine["source_signal"] == name])) for name in columns]
    name = _turbine_name(turbine)
    return [(chart, chart.svg(f"turbine-{number}-chart-{place}", name)) for place, chart in enumerate(charts, 1)]


def _picture(drawn: Sequence[tuple[Chart, str]], *, day: date, turbine: str) -> str:
    """The day of a turbine as one picture that needs nothing beside it, small enough for metadata: its charts, two in a row."""
    sizes = [re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture).groups() for _, picture in drawn]  # type: ignore[union-attr]
    width = max((float(one) for one, _ in sizes), default=0.0)
    placed, y = [], float(HEADER)
    for first in range(0, len(drawn), COLUMNS):
        for number, (chart, picture) in enumerate(drawn[first : first + COLUMNS]):
            placed.append((chart, WORDS.sub("", picture), MARGIN + number * (width + MARGIN), y))
        y += ABOVE + max(float(height) for _, height in sizes[first : first + COLUMNS]) + BETWEEN
    text: str = _template("day.svg.j2").render(
        title=f"{_turbine_name(_short(turbine))}, {_spoken_day(day)}",
        empty=EMPTY,
        placed=placed,
        width=max(round(2 * MARGIN + min(COLUMNS, len(drawn)) * (width + MARGIN) - MARGIN), 460),
        height=round(y - (BETWEEN - MARGIN if drawn else 0)),
        margin=MARGIN,
        above=ABOVE,
    )
    return standalone(text)


def _page(
    rows: pa.Table,
    drawn: Mapping[str, Sequence[tuple[Chart, str]]],
    day: date,
    columns: Sequence[str],
    generated_at: datetime,
) -> str:
    turbines = []
    for number, (turbine, charts) in enumerate(drawn.items(), 1):
        mine = rows.filter(pc.equal(rows["turbine"], turbine))
        counts = summary(mine, columns=columns, turbines=[turbine], days=[day])
        total = {key: sum(of_signal[key] for of_signal in counts.values()) for key in counts[columns[0]]}
        of_signals = [{"name": printable(name), "link": "", "counts": counts[name]} for name in columns]
        row = {"name": _turbine_name(turbine), "link": f"turbine-{number}", "counts": total}
        turbines.append({**row, "rows": of_signals, "drawn": charts})
    text: str = _template("page.html.j2").render(
        day=_spoken_day(day),
        generated_at=generated_at,
        signals=[printable(name) for name in columns],
        lead=_lead(rows, len(turbines) * len(columns)),
        turbines=turbines,
        flags=FLAGS,
        frozen=(FROZEN_SAMPLES_ELSE, FROZEN_SAMPLES["power"]),
        mads=f"{SPIKE_MADS:g}",
        low_coverage=share(LOW_COVERAGE),
        empty=EMPTY,
    )
    return text


@functools.cache
def _template(name: str) -> Any:
    return template(Path(__file__).with_name(name), amount, counted, instant, spoken)


# The words


def spoken(name: str) -> str:
    """A flag for people."""
    return name.replace("_", " ")


def _short(name: str) -> str:
    """A name that fits on a chart."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _turbine_name(turbine: str) -> str:
    """A turbine for people."""
    return f"Turbine {printable(turbine)}" if turbine else "The turbine"


def _spoken_day(day: date) -> str:
    """A day for people, with its zone."""
    return f"{day.day} {day:%B %Y}, UTC"


def _lead(rows: pa.Table, series: int) -> str:
    """The day in a sentence."""
    if not rows.num_rows:
        return "No bin of this day has a value: the source had nothing to say about it, or it has not been loaded."
    flagged = int(pc.sum(pc.not_equal(rows["flags"], "")).as_py())
    missing = series * BINS - rows.num_rows
    lack = {0: "none is missing", 1: "one is missing"}.get(missing, f"{missing:,} are missing")
    carry = {0: "none carries a flag", 1: "one carries a flag"}.get(flagged, f"{flagged:,} carry a flag")
    return f"{rows.num_rows:,} of {series * BINS:,} bins have values; {lack}, {carry}."


def _when(mask: Mask) -> str:
    """The stretches of bins in which it holds, as on a clock; the end of the day is 24:00."""
    clock = [f"{place * BIN_MINUTES // 60:02d}:{place * BIN_MINUTES % 60:02d}" for place in range(BINS + 1)]
    return listed([f"{clock[begin]}–{clock[end]}" for begin, end in _runs(mask)], limit=NAMED_RUNS)


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


# The charts


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
    series = series.astype(float).fillna({"n": 0, "coverage": 0}).astype({"n": "int64"})
    series[MISSING] = series["n"] == 0
    for flag in FLAGS:
        series[flag] = [flag in names for names in flags]
    return series


def chart_of(signal: str, series: pd.DataFrame) -> Chart:
    """The chart of a signal; without any bin it is empty and says so.

    Args:
        signal: as the source names it; one that `SIGNALS` does not know has no unit.
        series: as `day_series` gives it.
    """
    known = SIGNALS.get(signal)
    unit, tag = (known.unit, known.tag) if known else ("", "")
    axis = None
    if np.isfinite(series["mean"]).any():
        axis = _compass(series) if known and known.circular else _plain(series)
    marked = [name for name in MARKS if series[name].any()]
    when = [(spoken(name), int(series[name].sum()), _when(series[name].to_numpy())) for name in marked]
    return Chart(
        signal=signal,
        title=known.meaning if known else _short(signal),
        unit=unit,
        tag=tag,
        description=_described(series, axis, unit, when),
        caption=_caption(series, axis, unit),
        when=when,
        spec=_spec(series, axis, unit, marked),
    )


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
    return Axis((bottom - pad, top + pad), values, f"× 10{raised(exponent)}" if exponent else "")


def _compass(series: pd.DataFrame) -> Axis:
    """An axis of at most the full circle, cut open where the wind did not come from, so that north is a value like any other."""
    mean, std = series["mean"].to_numpy(), series["std"].to_numpy()
    # From a mean to an end of its range it is at most half a circle, so that what is more is nothing, rounded.
    arcs = (np.mod(ends, FULL_CIRCLE) for ends in (mean - series["min"].to_numpy(), series["max"].to_numpy() - mean))
    to_low, to_high = (np.where(arc > FULL_CIRCLE * 0.75, 0.0, arc) for arc in arcs)
    left, right = np.fmax(to_low, std), np.fmax(to_high, std)
    cut, whole = _cut(mean - left, mean + right)
    mean = np.mod(mean - cut, FULL_CIRCLE) + cut
    low, high = float(np.nanmin(mean - left)), float(np.nanmax(mean + right))
    pad = 0.0 if whole or high - low >= FULL_CIRCLE else max((high - low) * 0.05, 1.0)
    low, high = (cut, cut + FULL_CIRCLE) if whole else (low - pad, high + pad)
    values = {"mean": mean, "low": mean - to_low, "high": mean + to_high, "less": mean - std, "more": mean + std}
    step = next((step for step in COMPASS_STEPS if (high - low) / step <= COMPASS_INTERVALS), COMPASS_STEPS[-1])
    degrees = [mark * step for mark in range(math.ceil(low / step), math.floor(high / step) + 1)]
    labels = {at: f"{POINTS.get(at % FULL_CIRCLE, '')} {at % FULL_CIRCLE}°".strip() for at in degrees}
    turns = (-float(FULL_CIRCLE), 0.0, float(FULL_CIRCLE)) if whole else (0.0,)
    return Axis((low, high), values, labels=labels, turns=turns)


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
    first, last = max(_runs(np.roll(free, -start)), key=lambda run: run[1] - run[0])
    return (start + (first + last) / 2) % FULL_CIRCLE, bool(touched.min() > 0)


def _runs(mask: Mask) -> list[tuple[int, int]]:
    """Stretches of bins in which it holds, as half-open ranges.

    >>> _runs(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _spec(series: pd.DataFrame, axis: Axis | None, unit: str, marked: Sequence[str]) -> Spec:
    """Three panels over the same hours, one below the other: values, coverage, and a lane for each thing that is marked."""
    coverage = series["coverage"].to_numpy()
    lanes = [
        {"lane": spoken(name), "x": x, "warn": name in WARNINGS}
        for name in marked
        for begin, end in _runs(series[name].to_numpy())
        for x in (begin / 6, end / 6, None)
    ]
    text = _template("chart.json.j2").render(
        axis=axis,
        unit=unit if unit != DEGREES else "",
        width=2 * BINS,
        lanes=[spoken(name) for name in marked],
        stretches=lanes,
        coverage=_steps(coverage > 0, low=np.zeros(BINS), high=coverage),
        **(_values(axis) if axis else {}),
    )
    spec: Spec = json.loads(text)
    return spec


def _values(axis: Axis) -> dict[str, list[Any]]:
    """Bands and line, each for every turn of the compass, and the middles of the bins that go on beyond the axis."""
    at = axis.values
    leaps = {name: _leaps(at[name]) if len(axis.turns) > 1 else None for name in ("low", "less", "mean")}
    bands: dict[str, list[Any]] = {"low": [], "less": []}
    for (low, rows), high in zip(bands.items(), ("high", "more"), strict=True):
        for turn in axis.turns:
            bottom, top = (np.clip(at[name] + turn, *axis.domain) for name in (low, high))
            drawn = np.isfinite(bottom) & np.isfinite(top) & (bottom != top)
            rows += [{**row, "run": f"{turn} {row['run']}"} for row in _steps(drawn, leaps[low], low=bottom, high=top)]
    mean = np.clip(at["mean"], *axis.domain)
    above, below = (((np.flatnonzero(mask) + 0.5) / 6).tolist() for mask in (axis.above, axis.below))
    line = _steps(np.isfinite(mean), leaps["mean"], high=mean)
    return {"range": bands["low"], "deviation": bands["less"], "line": line, "above": above, "below": below}


def _steps(present: Mask, breaks: Mask | None = None, **values: Numbers) -> list[Spec]:
    """Points of steps as wide as a bin: one at the begin of each, and one at the end of each stretch of bins.

    Args:
        present: bins that are drawn.
        breaks: bins that do not go on from the one before.
        values: by name, of each bin.
    """
    rows: list[Spec] = []
    for begin, end in _runs(present):
        cuts = (np.flatnonzero(breaks[begin + 1 : end]) + begin + 1).tolist() if breaks is not None else []
        for first, last in itertools.pairwise((begin, *cuts, end)):
            for place in range(first, last + 1):
                heights = {name: float(part[min(place, last - 1)]) for name, part in values.items()}
                rows.append({"x": place / 6, "run": f"{first}", **heights})
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
