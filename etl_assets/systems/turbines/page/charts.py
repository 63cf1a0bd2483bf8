"""The chart of a signal on a day: bands, line, coverage and flags over 24 hours, as shapes that a template writes as SVG."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from etl_assets.core.charts.axes import Axis, Numbers, Tick
from etl_assets.core.charts.numbers import counted, listed, quantity
from etl_assets.systems.turbines.contracts import FLAGS, SIGNALS
from etl_assets.systems.turbines.page.axes import FULL_CIRCLE, Laid, laid_out
from etl_assets.systems.turbines.page.series import BINS, MISSING, Mask, Series, clock, runs

# Left is room for the longest name of a flag; a bin is 2.5 wide.
WIDTH, LEFT, RIGHT = 462.0, 94.0, 454.0
BIN = (RIGHT - LEFT) / BINS
TOP, BOTTOM = 26.0, 166.0
COVERAGE_TOP, COVERAGE_BOTTOM = 175.0, 191.0
LANE = 16.0
FOOT = 22.0
HOURS = (0, 6, 12, 18, 24)
LONGEST_NAME = 60
DEGREES = "°"  # written at each mark of the compass
NAMED_RUNS = 12


@dataclass(frozen=True)
class Shape:
    """A shape of SVG and its class."""

    kind: str
    d: str


@dataclass(frozen=True)
class Lane:
    """The bins in which one thing is to be known, and its name."""

    kind: str
    name: str
    y: float
    d: str


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
        unit_label: written above the axis.
        ticks: of values; `hours`: of time.
        lanes: what is marked below the coverage, `height` is that of it all.
    """

    signal: str
    title: str
    unit: str
    tag: str
    description: str
    caption: str
    when: Sequence[tuple[str, int, str]]
    unit_label: str
    ticks: Sequence[Tick]
    hours: Sequence[Tick]
    shapes: Sequence[Shape]
    lanes: Sequence[Lane]
    foot: float

    @property
    def height(self) -> float:
        return self.foot + FOOT


def chart_of(signal: str, series: Series) -> Chart:
    """The chart of a signal; without any bin it is empty and says so.

    Args:
        signal: as the source names it; one that `SIGNALS` does not know has no unit.
        series: its statistics.
    """
    known = SIGNALS.get(signal)
    unit, tag = (known.unit, known.tag) if known else ("", "")
    laid = laid_out(series, circular=known is not None and known.circular)
    marked = [name for name in (MISSING, *FLAGS) if series.marks[name].any()]
    lanes = [_lane(name, series, number) for number, name in enumerate(marked)]
    when = [(spoken(name), int(series.marks[name].sum()), _when(series, name)) for name in marked]
    return Chart(
        signal=signal,
        title=known.meaning if known else shortened(signal),
        unit=unit,
        tag=tag,
        description=_described(series, laid, unit, when),
        caption=_caption(series, laid, unit),
        when=when,
        unit_label=_unit_label(unit, laid),
        ticks=laid.axis.ticks(BOTTOM, TOP) if laid else (),
        hours=_hours(),
        shapes=[*(_values(laid) if laid else ()), Shape("coverage", _bars(series.coverage))],
        lanes=lanes,
        foot=COVERAGE_BOTTOM + 6 + LANE * len(lanes),
    )


def spoken(name: str) -> str:
    """A flag for people."""
    return name.replace("_", " ")


def shortened(name: str) -> str:
    """A name that has room on a chart."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _hours() -> tuple[Tick, ...]:
    return tuple(Tick(LEFT + (RIGHT - LEFT) * hour / 24, f"{hour:02d}:00") for hour in HOURS)


def _unit_label(unit: str, laid: Laid | None) -> str:
    if unit == DEGREES:
        return ""
    power = laid.axis.unit.strip() if laid else ""
    return " ".join(part for part in (unit, power) if part)


def _values(laid: Laid) -> Iterator[Shape]:
    """Bands and line, each once for every turn of the compass, and what goes on beyond the axis."""
    bands = {"range": (laid.low, laid.high), "deviation": (laid.less, laid.more)}
    jump = FULL_CIRCLE / 2 if len(laid.turns) > 1 else np.inf
    for kind, (low, high) in bands.items():
        yield Shape(kind, "".join(_band(laid.axis, low + turn, high + turn, jump) for turn in laid.turns))
    yield Shape("mean", _line(laid.axis, laid.mean, jump))
    above, below = (np.flatnonzero(beyond) for beyond in laid.beyond)
    if len(above) or len(below):
        d = "".join(f"M{_short(LEFT + BIN * (i + 0.5) - 4)} {TOP + 1:g}h8l-4 -7z" for i in above.tolist())
        d += "".join(f"M{_short(LEFT + BIN * (i + 0.5) - 4)} {BOTTOM - 1:g}h8l-4 7z" for i in below.tolist())
        yield Shape("beyond", d)


def _heights(axis: Axis, values: Numbers) -> Numbers:
    """Where values are on the chart, at its edge if they are beyond; what is undefined stays so."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.clip(axis.places(values, BOTTOM, TOP), TOP, BOTTOM)


def _band(axis: Axis, low: Numbers, high: Numbers, jump: float) -> str:
    """An area between two series; none where one of them is undefined or they are one, broken where it jumps."""
    bottom, top = _heights(axis, low), _heights(axis, high)
    there = np.isfinite(bottom) & np.isfinite(top) & (bottom != top)
    return "".join(
        f"M{_x(begin)} {_short(bottom[begin])}{_stairs(top[begin:end])}{_stairs(bottom[begin:end][::-1], -BIN)}z"
        for begin, end in _pieces(there, low, jump)
    )


def _line(axis: Axis, values: Numbers, jump: float) -> str:
    """A line that is broken where there is no value and where it jumps."""
    heights = _heights(axis, values)
    return "".join(
        f"M{_x(begin)} {_short(heights[begin])}{_stairs(heights[begin:end])}"
        for begin, end in _pieces(np.isfinite(values), values, jump)
    )


def _pieces(there: Mask, values: Numbers, jump: float) -> Iterator[tuple[int, int]]:
    """Stretches of bins that are drawn as one: all there, and no two neighbours further apart than a jump."""
    for begin, end in runs(there):
        with np.errstate(over="ignore"):
            leaps = np.flatnonzero(np.abs(np.diff(values[begin:end])) > jump) + begin + 1
        yield from itertools.pairwise((begin, *leaps.tolist(), end))


def _bars(coverage: Numbers) -> str:
    """The share of each bin that was measured, as an area from the ground."""
    heights = COVERAGE_BOTTOM - coverage * (COVERAGE_BOTTOM - COVERAGE_TOP)
    ground = _short(COVERAGE_BOTTOM)
    return "".join(f"M{_x(begin)} {ground}{_stairs(heights[begin:end])}V{ground}z" for begin, end in runs(coverage > 0))


def _stairs(heights: Numbers, step: float = BIN) -> str:
    """Steps as wide as a bin, those of one height in one."""
    return "".join(f"V{y:g}h{step * len(list(same)):g}" for y, same in itertools.groupby(np.round(heights, 1).tolist()))


def _x(bin_number: float) -> str:
    return _short(LEFT + BIN * bin_number)


def _short(place: float) -> str:
    return f"{round(float(place), 1):g}"


def _lane(name: str, series: Series, number: int) -> Lane:
    middle = COVERAGE_BOTTOM + 6 + LANE * (number + 0.5)
    pen, parts = 0, [f"M{_x(0)} {_short(middle)}"]
    for begin, end in runs(series.marks[name]):
        parts.append(f"m{BIN * (begin - pen):g} 0h{BIN * (end - begin):g}")
        pen = end
    return Lane(name, spoken(name), middle, "".join(parts))


def _when(series: Series, name: str) -> str:
    found = [f"{clock(begin)}–{clock(end)}" for begin, end in runs(series.marks[name])]
    return listed(found, limit=NAMED_RUNS)


def _described(series: Series, laid: Laid | None, unit: str, when: Sequence[tuple[str, int, str]]) -> str:
    marked = "".join(f" {name.capitalize()}: {counted(count, 'bin')}, {times}." for name, count, times in when)
    if laid is None:
        return f"{_bins(series)}{marked}"
    if unit == DEGREES:
        return f"{_bins(series)} Means of ten minutes, in degrees on the compass.{marked}"
    means = f"Means of ten minutes from {_measured(np.nanmin(series.mean), unit)} to {_measured(np.nanmax(series.mean), unit)}"
    ends = f"single samples from {_measured(np.nanmin(series.low), unit)} to {_measured(np.nanmax(series.high), unit)}"
    return f"{_bins(series)} {means}, {ends}.{marked}"


def _bins(series: Series) -> str:
    if not series.bins:
        return "No bin has a value."
    fewest, most = int(series.n[series.n > 0].min()), int(series.n.max())
    each = f"{fewest} to {counted(most, 'sample')}" if fewest != most else counted(most, "sample")
    return f"{series.bins} of {BINS} bins, {each} in each."


def _caption(series: Series, laid: Laid | None, unit: str) -> str:
    said = _bins(series)
    if laid is None:
        return said if not series.bins else f"{said} None has a mean that can be drawn."
    above, below = laid.beyond
    if above.any():
        said += f" Beyond the axis (▲): up to {_measured(np.nanmax(series.high), unit)}."
    if below.any():
        said += f" Beyond the axis (▼): down to {_measured(np.nanmin(series.low), unit)}."
    return said


def _measured(value: float, unit: str) -> str:
    return f"{quantity(float(value))} {unit}".rstrip()
