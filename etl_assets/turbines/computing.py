"""From the raw signals of many days to their statistics, some whole days at a time: constant memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.turbines.fetching import BETWEEN, DAY_US
from etl_assets.turbines.statistics import ten_minute_statistics

# So many rows make a transaction that is worth its while; a day of ten turbines has 14,400.
ROWS_TOGETHER = 200_000


@dataclass(frozen=True)
class Computed:
    """The statistics of some whole days.

    Attributes:
        bins: as `ten_minute_statistics` gives them.
        turbines: by day, those of which the source has rows.
        columns: the signals that the source was asked for on these days.
    """

    bins: pa.Table
    turbines: Mapping[date, Sequence[str]]
    columns: tuple[str, ...]


def computed(batches: Iterable[pa.RecordBatch]) -> Iterator[Computed]:
    """The statistics of raw signals.

    Args:
        batches: of `RawTurbineSignals`; all rows of a batch are of one day, and the batches of a day stand together.
    """
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        begins = not waiting or _day(batch) != _day(waiting[-1])
        if waiting and begins and (rows >= ROWS_TOGETHER or _asked(batch) != _asked(waiting[-1])):
            yield _computed(waiting)
            waiting, rows = [], 0
        waiting.append(batch)
        rows += batch.num_rows
    if waiting:
        yield _computed(waiting)


def _computed(batches: Sequence[pa.RecordBatch]) -> Computed:
    columns = tuple(_asked(batches[0]).split(BETWEEN))
    table = pa.Table.from_batches(batches)
    turbines: dict[date, dict[str, None]] = {}
    for batch in batches:
        turbines.setdefault(_day(batch), {}).update(dict.fromkeys(sorted(pc.unique(batch["turbine"]).to_pylist())))
    bins = ten_minute_statistics(table.select(["turbine", "timestamp", *columns, "position"]), columns=columns)
    return Computed(bins, {day: tuple(names) for day, names in turbines.items()}, columns)


def _asked(batch: pa.RecordBatch) -> str:
    return str(batch["columns_asked"][0].as_py())


def _day(batch: pa.RecordBatch) -> date:
    microseconds = batch["timestamp"][0].cast(pa.int64()).as_py()
    return datetime.fromtimestamp(microseconds // DAY_US * 86_400, UTC).date()
