"""The statistics of one day as series of 144 bins, of which charts are drawn; where there is no bin there is nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from etl_assets.core.charts.axes import Numbers
from etl_assets.systems.turbines.contracts import FLAGS, STATISTICS
from etl_assets.systems.turbines.statistics import BIN_US, DAY_US

BINS = DAY_US // BIN_US
BIN_MINUTES = BIN_US // 60_000_000
MISSING = "missing"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Series:
    """One signal of one turbine on one day; every array has a place for each of the day's bins.

    Attributes:
        mean, low, high, std: of the samples, NaN where it is not defined.
        n, coverage: 0 where there is no bin.
        marks: where the bin is missing, and where each flag is raised.
    """

    mean: Numbers
    low: Numbers
    high: Numbers
    std: Numbers
    n: npt.NDArray[np.int64]
    coverage: Numbers
    marks: Mapping[str, Mask]

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return int(np.count_nonzero(self.n))


def rows_of_day(bins: pa.Table, day: date) -> pa.Table:
    """The rows whose bin begins on the day, in UTC."""
    begin = pa.scalar(datetime.combine(day, time(), tzinfo=UTC), pa.timestamp("us", "UTC")).cast(pa.int64()).as_py()
    at = bins["timestamp"].cast(pa.int64()).to_numpy() - begin
    return bins.filter(pa.array((at >= 0) & (at < DAY_US)))


def series_of(rows: pa.Table) -> dict[tuple[str, str], Series]:
    """The series of each turbine and source signal that has a bin.

    Args:
        rows: of one day, schema `statistics.OUTPUT`.
    """
    turbine, signal, raised = (
        rows[name].combine_chunks().dictionary_encode() for name in ("turbine", "source_signal", "flags")
    )
    turbines, signals = turbine.dictionary.to_pylist(), signal.dictionary.to_pylist()
    of_series = turbine.indices.to_numpy().astype(np.int64) * len(signals) + signal.indices.to_numpy()
    order = np.argsort(of_series, kind="stable")
    cuts = np.flatnonzero(np.diff(of_series[order])) + 1
    place = rows["timestamp"].cast(pa.int64()).to_numpy() % DAY_US // BIN_US
    columns = {name: rows[name].to_numpy() for name in (*STATISTICS, "n", "coverage")}
    combinations = [text.split(";") for text in raised.dictionary.to_pylist()]
    flagged = {
        flag: np.array([flag in names for names in combinations], dtype=bool)[raised.indices.to_numpy()]
        for flag in FLAGS
    }
    found = {}
    for chosen in np.split(order, cuts) if len(order) else []:
        name = turbines[of_series[chosen[0]] // len(signals)], signals[of_series[chosen[0]] % len(signals)]
        found[name] = _series({key: column[chosen] for key, column in (columns | flagged).items()}, place[chosen])
    return found


def _series(columns: Mapping[str, npt.NDArray[np.generic]], place: npt.NDArray[np.int64]) -> Series:
    def spread(name: str, empty: float) -> Numbers:
        values = np.full(BINS, empty, dtype=np.float64)
        values[place] = columns[name]
        return values

    n = spread("n", 0).astype(np.int64)
    marks = {flag: spread(flag, 0) > 0 for flag in FLAGS}
    mean, low, high, std = (spread(name, np.nan) for name in STATISTICS)
    return Series(mean, low, high, std, n, spread("coverage", 0), {MISSING: n == 0, **marks})


def nothing() -> Series:
    """The series of a signal that has no bin."""
    none, zero = np.full(BINS, np.nan), np.zeros(BINS)
    marks = {flag: np.zeros(BINS, dtype=bool) for flag in FLAGS}
    return Series(none, none, none, none, zero.astype(np.int64), zero, {MISSING: zero == 0, **marks})


def runs(mask: Mask) -> list[tuple[int, int]]:
    """Stretches of bins in which it holds, as half-open ranges.

    >>> runs(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def clock(bin_number: int) -> str:
    """When a bin begins, as on a clock; the end of the day is 24:00."""
    return f"{bin_number * BIN_MINUTES // 60:02d}:{bin_number * BIN_MINUTES % 60:02d}"
