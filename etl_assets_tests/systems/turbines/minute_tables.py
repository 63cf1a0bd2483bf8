"""Tables of minutes as the statistics take them, written out by minute."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from etl_assets.systems.turbines.statistics import ten_minute_statistics

MIDNIGHT = datetime(2024, 5, 20, tzinfo=UTC)
Cell = float | None


def at(minute: float, *, day: datetime = MIDNIGHT) -> datetime:
    return day + timedelta(minutes=minute)


def minutes(
    samples: Sequence[tuple[float, Cell]], *, column: str = "wind_speed", turbine: str = "", day: datetime = MIDNIGHT
) -> pa.Table:
    """One column of one turbine: (minute after midnight, value), in order of arrival."""
    return pa.table(
        {
            "turbine": pa.array([turbine] * len(samples), pa.string()),
            "timestamp": pa.array([at(minute, day=day) for minute, _ in samples], pa.timestamp("us", "UTC")),
            column: pa.array([value for _, value in samples], pa.float64()),
            "position": pa.array(range(len(samples)), pa.int64()),
        }
    )


def series(values: Sequence[Cell], *, begin: int = 0, **named: Any) -> pa.Table:
    """One value a minute."""
    return minutes([(begin + i, value) for i, value in enumerate(values)], **named)


def bins(table: pa.Table) -> list[Mapping[str, Any]]:
    """The rows of the statistics of the one column that a table has."""
    (column,) = set(table.column_names) - {"turbine", "timestamp", "position"}
    return ten_minute_statistics(table, columns=[column]).to_pylist()
