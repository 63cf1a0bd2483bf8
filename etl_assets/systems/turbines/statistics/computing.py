"""From the raw signals of many days to their statistics, some whole days at a time: constant memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa

from etl_assets.systems.turbines.fetching import BETWEEN, DAY_US
from etl_assets.systems.turbines.statistics.ten_minutes import ten_minute_statistics

# So many rows make a transaction that is worth its while; a day of ten turbines has 14,400.
ROWS_TOGETHER = 200_000
FIRST_DAY = date(1970, 1, 1).toordinal()


@dataclass(frozen=True)
class Computed:
    """The statistics of some whole days.

    Attributes:
        bins: as `ten_minute_statistics` gives them.
        turbines: by day, those of which the source has values; rows without any value say nothing of a turbine.
        columns: the signals that the source was asked for on these days.
    """

    bins: pa.Table
    turbines: Mapping[date, Sequence[str]]
    columns: tuple[str, ...]


def computed(batches: Iterable[pa.RecordBatch]) -> Iterator[Computed]:
    """The statistics of raw signals; days without any value are left out.

    Args:
        batches: of `RawTurbineSignals`; all rows of a batch are of one day, and the batches of a day stand together.
    """
    for together in _whole_days(batches):
        found = _computed(together)
        if found.turbines:
            yield found


def _whole_days(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Days that were asked for the same columns, so many that storing them is worth a transaction."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        begins = not waiting or _day(batch) != _day(waiting[-1])
        if waiting and begins and (rows >= ROWS_TOGETHER or _asked(batch) != _asked(waiting[-1])):
            yield waiting
            waiting, rows = [], 0
        waiting.append(batch)
        rows += batch.num_rows
    if waiting:
        yield waiting


def _computed(batches: Sequence[pa.RecordBatch]) -> Computed:
    columns = tuple(_asked(batches[0]).split(BETWEEN))
    table = pa.Table.from_batches(batches)
    bins = ten_minute_statistics(table.select(["turbine", "timestamp", *columns, "position"]), columns=columns)
    return Computed(bins, _turbines(bins), columns)


def _turbines(bins: pa.Table) -> dict[date, list[str]]:
    """By day the turbines that have a bin, in order."""
    days = pa.array(bins["timestamp"].cast(pa.int64()).to_numpy() // DAY_US)
    found: dict[date, list[str]] = {}
    pairs = pa.table({"day": days, "turbine": bins["turbine"]}).group_by(["day", "turbine"]).aggregate([])
    for pair in pairs.sort_by("turbine").to_pylist():
        found.setdefault(date.fromordinal(FIRST_DAY + pair["day"]), []).append(pair["turbine"])
    return found


def _asked(batch: pa.RecordBatch) -> str:
    return str(batch["columns_asked"][0].as_py())


def _day(batch: pa.RecordBatch) -> date:
    microseconds = batch["timestamp"][0].cast(pa.int64()).as_py()
    return datetime.fromtimestamp(microseconds // DAY_US * 86_400, UTC).date()
