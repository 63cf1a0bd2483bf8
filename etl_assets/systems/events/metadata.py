"""What the UI shows of a day of events."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import Any

import dagster as dg
import pyarrow as pa

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Outcome
from etl_assets.systems.events.contracts import RawEvents, UsEventData
from etl_assets.systems.events.manifest import DAY, Entry, midnight
from etl_assets.systems.events.map import as_markdown, us_map_svg
from etl_assets.systems.events.raw_layer import Taken
from etl_assets.systems.events.us_events import StoredIntervals, Totals

NAMED_AT_MOST = 12
SUMMED = ("received", "inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined")


def of_day(
    day: str, taken: Sequence[Taken], manifest: Mapping[datetime, Entry], *, root: ParquetRoot
) -> dict[str, Any]:
    """The metadata of a day of the raw layer: what this run stored, and the state of its intervals."""
    mine = [one for one in taken if f"{one.entry.interval:%Y-%m-%d}" == day]
    states = Counter(entry.state for entry in manifest.values())
    troubled = [entry for entry in manifest.values() if entry.reason]
    return {
        **summed([one.outcome for one in mine if one.outcome]),
        "relation": root.folder(Slice(RawEvents)),
        "files": sum(one.outcome is not None for one in mine),
        "dagster/partition_row_count": sum(entry.rows_raw or 0 for entry in manifest.values()),
        **{f"intervals_{state}": count for state, count in sorted(states.items())},
        "troubled": dg.MetadataValue.md(_listed(troubled)),
    }


def us_events_of_day(database: Database, day: str, stored: Sequence[StoredIntervals]) -> dict[str, Any]:
    """The metadata of a day of US events: what became of the rows, why others were left out, and where they are."""
    mine = [one for one in stored if f"{one.day}" == day]
    rows = _located(database, day)
    picture = us_map_svg(rows, title="Events in the United States", label=f"{day}, UTC")
    totals = asdict(Totals.of(mine))
    left_out = totals.pop("left_out")
    return {
        **summed([one.outcome for one in mine]),
        **totals,
        "relation": UsEventData.config.table,
        "dagster/partition_row_count": rows.num_rows,
        **{f"left_out, {reason}": count for reason, count in left_out.items()},
        "map": dg.MetadataValue.md(as_markdown(picture)),
    }


def summed(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The counts of some writes together, their bytes and their seconds."""
    counts = [outcome.counts() for outcome in outcomes]
    return {
        **{name: sum(one[name] for one in counts) for name in SUMMED},
        "bytes": sum(outcome.size for outcome in outcomes),
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 3),
    }


def _listed(troubled: Sequence[Entry]) -> str:
    lines = [f"- {entry.interval:%H:%M} {entry.state}: {entry.reason}" for entry in troubled[:NAMED_AT_MOST]]
    more = [f"- and {len(troubled) - NAMED_AT_MOST} more"] if len(troubled) > NAMED_AT_MOST else []
    return "\n".join([*lines, *more]) or "none"


def _located(database: Database, day: str) -> pa.Table:
    """Root code and place of each US event of a day."""
    names = ("event_root_code", "action_geo_full_name", "action_geo_lat", "action_geo_long")
    begin = midnight(date.fromisoformat(day))
    with database.connect() as connection:
        rows = connection.execute(
            f"SELECT {', '.join(names)} FROM events.us_event_data WHERE file_interval >= %s AND file_interval < %s"
            " ORDER BY global_event_id".encode(),
            (begin, begin + DAY),
        ).fetchall()
    kinds = (pa.string(), pa.string(), pa.float64(), pa.float64())
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)], list(names))
