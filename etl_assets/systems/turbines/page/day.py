"""The page of a day that is in the target database: all its turbines and signals, whichever run has stored them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from etl_assets.core.database.connections import Database
from etl_assets.settings import Settings
from etl_assets.systems.turbines.contracts import DEFAULT_COLUMNS, SIGNALS, RawTurbineSignals
from etl_assets.systems.turbines.days import DAY, midnight
from etl_assets.systems.turbines.page.files import write_page
from etl_assets.systems.turbines.statistics import OUTPUT

# A run of more days draws none: pages are for looking at, and those of a year take as long as its statistics.
DAYS_DRAWN = 31


@dataclass(frozen=True)
class DayPage:
    """The page of a day, and what is on it.

    Attributes:
        bins: how many the page shows; 0 for a day without statistics.
        svg: the picture of each turbine, in the order of the page.
    """

    html: Path
    svg: Mapping[str, Path]
    bins: int


def write_day_page(target: Database, day: date, *, settings: Settings) -> DayPage:
    """Draw a day as it is in the target database, in `reports/turbines/<day>` of the data folder.

    Raises:
        TransientError, PermanentError: if the database or the folder cannot be used.
    """
    bins = stored_bins(target, day)
    there = set(bins["source_signal"].to_pylist())
    files = write_page(
        settings.reports_dir / RawTurbineSignals.schema_name(),
        bins,
        day=day,
        columns=[name for name in SIGNALS if name in there] or DEFAULT_COLUMNS,
        turbines=settings.turbines,
        generated_at=datetime.now(UTC),
    )
    return DayPage(files.html, files.svg, bins.num_rows)


def stored_bins(target: Database, day: date) -> pa.Table:
    """The view `ten_minute` of a day, in UTC.

    Returns:
        Schema `statistics.OUTPUT`, in order of time, turbine and signal.
    """
    with target.connect() as connection:
        rows: list[tuple[Any, ...]] = connection.execute(
            'SELECT timestamp, turbine, source_signal, mean, "min", "max", std, n, coverage, flags'
            " FROM public.ten_minute WHERE timestamp >= %s AND timestamp < %s"
            " ORDER BY timestamp, turbine, source_signal",
            (midnight(day), midnight(day + DAY)),
        ).fetchall()
    columns = zip(*rows, strict=True) if rows else [()] * len(OUTPUT)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, OUTPUT, strict=True)], OUTPUT)
