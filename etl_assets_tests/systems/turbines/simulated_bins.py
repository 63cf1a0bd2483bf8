"""Bins of the first simulated day, with all the faults that are planted in it."""

import functools
from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.systems.turbines.simulator.data import SIGNALS, rows
from etl_assets.systems.turbines.statistics import ten_minute_statistics

# The first has no fault on that day, and each one after it is a day further in the schedule of faults.
TURBINES = tuple(f"T{number:02d}" for number in range(1, 11))


@functools.cache
def _bins() -> pa.Table:
    minutes = pa.Table.from_batches(list(rows(date(2024, 5, 20), 1, TURBINES)))
    place = minutes.column_names.index("timestamp")
    minutes = minutes.set_column(place, "timestamp", minutes["timestamp"].cast(pa.timestamp("us", "UTC")))
    minutes = minutes.append_column("position", pa.array(range(len(minutes)), pa.int64()))
    return ten_minute_statistics(minutes, columns=SIGNALS)


def simulated_bins(turbines: Sequence[str]) -> pa.Table:
    """The bins of these turbines, of `T01` to `T10`."""
    return _bins().filter(pc.is_in(_bins()["turbine"], pa.array(turbines)))
