"""What the UI shows of a day that was stored."""

import json
from datetime import date
from typing import Any

import dagster as dg
import pyarrow.compute as pc

from etl_assets.systems.turbines.days import DAY, midnight
from etl_assets.systems.turbines.page.day import DayPage
from etl_assets.systems.turbines.page.svg import as_markdown
from etl_assets.systems.turbines.statistics.computing import Computed
from etl_assets.systems.turbines.statistics.quality import summary
from etl_assets.systems.turbines.target import StoredDay

# A picture is about 20 kB in the event log, where it stays.
PICTURES = 3


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
        "bins": done.count,
        "turbines": ", ".join(name or "the only one" for name in turbines),
        "columns": ", ".join(of.columns),
        "quality": json.dumps(counted),
        "seconds": round(done.data.seconds + done.bins.seconds, 3),
        "relation": "public.data, public.bin, public.signal; view public.ten_minute",
    }


def day_page(day: date, page: DayPage | None) -> dict[str, Any]:
    """The metadata of a day's page: where it is, and the pictures of its first turbines; without it how to have it drawn."""
    if page is None:
        return {"page": f"a run of many days draws none: etl-assets turbines page {day}"}
    files = list(page.files.svg.values())
    pictures = [as_markdown(path.read_text(encoding="utf-8")) for path in files[:PICTURES]]
    more = [f"{len(files) - PICTURES} more turbines are on the page."] if len(files) > PICTURES else []
    return {
        "page": dg.MetadataValue.path(str(page.files.html)),
        "plot": dg.MetadataValue.md("\n\n".join([*pictures, *more])),
    }
