"""What the UI shows of a day that was stored."""

import json
from typing import Any

import pyarrow.compute as pc

from etl_assets.turbines.computing import Computed
from etl_assets.turbines.days import DAY, midnight
from etl_assets.turbines.quality import summary
from etl_assets.turbines.target import StoredDay


def stored_day(done: StoredDay, of: Computed) -> dict[str, Any]:
    """The metadata of a day: what became of its rows, and what is to be known of its bins."""
    start, end = midnight(done.day), midnight(done.day + DAY)
    at = of.bins["timestamp"]
    bins = of.bins.filter(pc.and_(pc.greater_equal(at, start), pc.less(at, end)))
    turbines = of.turbines[done.day]
    counted = summary(bins, columns=of.columns, turbines=turbines, days=[done.day])
    return {
        **done.data.counts(),
        "dagster/partition_row_count": done.data.loaded + done.data.change.unchanged,
        "bins": bins.num_rows,
        "turbines": ", ".join(name or "the only one" for name in turbines),
        "columns": ", ".join(of.columns),
        "quality": json.dumps(counted),
        "seconds": round(done.data.seconds + done.bins.seconds, 3),
        "relation": "public.data, public.bin, public.signal; view public.ten_minute",
    }
