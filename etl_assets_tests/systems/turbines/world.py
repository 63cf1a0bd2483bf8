"""The turbines system with all its neighbours: two databases, the simulated source over HTTP, and what Python makes of its answers."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import requests

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.parquet import ParquetRoot, read_parquet
from etl_assets.core.sources.http.client import Limits
from etl_assets.systems.turbines.assets import TurbinesApiResource
from etl_assets.systems.turbines.contracts import RawTurbineSignals
from etl_assets.systems.turbines.script import LoadResult, load
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.simulator import Quirks, TurbinesSimulator
from etl_assets.systems.turbines.source import TurbinesApi
from etl_assets.systems.turbines.transform import DAY, day_slice
from etl_assets_tests.core.slices.files import the_file

FIRST = date(2024, 5, 20)
DEFAULT = ("wind_speed", "power")
BIN = timedelta(minutes=10)
# Short waits; the time-outs stay longer than a busy machine needs for an answer.
QUICK = Limits(
    connect_timeout_s=2, read_timeout_s=1, deadline_s=5, max_attempts=3, base_delay_s=0.001, max_delay_s=0.002
)

Key = tuple[datetime, str, str]


class Row(NamedTuple):
    """Statistics of a bin."""

    mean: float
    min: float
    max: float
    std: float | None
    n: int


class QuickTurbinesApiResource(TurbinesApiResource):
    """The API of the settings with short time-outs and pauses."""

    def connect(self) -> TurbinesApi:
        return TurbinesApi.from_settings(TurbinesSettings.load(), limits=QUICK)


def at(text: str, day: date = FIRST) -> datetime:
    """A time of day in UTC, like 09:30; 24:00 is the end."""
    hours, minutes = map(int, text.split(":"))
    return datetime.combine(day, time(), UTC) + timedelta(hours=hours, minutes=minutes)


@dataclass
class World:
    """A platform's database, a target database, and a simulator of one turbine over some days; the environment names them."""

    database: Database
    target: Database
    simulator: TurbinesSimulator
    url: str

    def load(self, *days: date, columns: Sequence[str] = DEFAULT, **options: Any) -> LoadResult:
        """The system as a function, by default for the first day."""
        options.setdefault("api", TurbinesApi.from_settings(TurbinesSettings.load(), limits=QUICK))
        return load(days or (FIRST,), columns=columns, database=self.database, target=self.target, **options)

    def quirks(self, **wanted: Any) -> None:
        """What the source does other than promised, from now on."""
        self.simulator.quirks = Quirks(**wanted)

    def only(self, begin: str, end: str, day: date = FIRST) -> None:
        """The source has nothing else of a day than what lies in [begin, end)."""
        self.simulator.hold(at("00:00", day), at(begin, day))
        self.simulator.hold(at(end, day), at("24:00", day))

    def asked(self) -> int:
        """How many requests for data reached the source."""
        return sum(self.simulator.faults.counts().get("data", {}).values())

    def computed(
        self, day: date = FIRST, *, columns: Sequence[str] = DEFAULT, turbines: Sequence[str] = ("",)
    ) -> dict[Key, Row]:
        """What Python's `statistics` makes of the source's answers for a day."""
        begin = datetime.combine(day, time())
        found: dict[Key, Row] = {}
        for turbine in turbines:
            asked = {"start_timestamp": begin.isoformat(), "end_timestamp": (begin + DAY).isoformat()}
            params: dict[str, Any] = {**asked, "columns": list(columns), **({"turbine": turbine} if turbine else {})}
            answer = requests.get(f"{self.url}/data", params=params, timeout=5).json()
            # Of a minute that came twice the last counts.
            rows = {row["timestamp"]: row for row in answer if datetime.fromisoformat(row["timestamp"]) < begin + DAY}
            for column in columns:
                bins: dict[datetime, list[float]] = {}
                for text, row in rows.items():
                    instant = datetime.fromisoformat(text).replace(tzinfo=UTC)
                    start = instant - (instant - at("00:00", day)) % BIN
                    if row[column] is not None:
                        bins.setdefault(start, []).append(row[column])
                found |= {(start, turbine, column): row_of(values) for start, values in bins.items()}
        return found

    def ten_minute(self, day: date | None = None) -> dict[Key, Row]:
        """The view of the target database, by bin; of one day, or all."""
        rows = self.query('SELECT timestamp, turbine, source_signal, mean, "min", "max", std, n FROM ten_minute')
        found = {(begin.astimezone(UTC), turbine, column): Row(*rest) for begin, turbine, column, *rest in rows}
        return {key: row for key, row in found.items() if day in (None, key[0].date())}

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of the target database, in key order; with `xmin`, by which a row that was written again differs."""
        return {
            "signal": self.query("SELECT *, xmin::text FROM signal ORDER BY id"),
            "data": self.query("SELECT *, xmin::text FROM data ORDER BY timestamp, signal_id"),
            "bin": self.query("SELECT *, xmin::text FROM bin ORDER BY timestamp, turbine, source_signal"),
        }

    def counts(self) -> dict[str, int]:
        """Rows of the three tables."""
        return {name: len(rows) for name, rows in self.tables().items()}

    def days(self) -> list[date]:
        """The days of which there are bins."""
        rows = self.query("SELECT DISTINCT (timestamp AT TIME ZONE 'UTC')::date FROM bin ORDER BY 1")
        return [day for (day,) in rows]

    def flags(self) -> dict[Key, str]:
        """The flags of the bins that have any."""
        rows = self.query("SELECT timestamp, turbine, source_signal, flags FROM bin WHERE flags <> ''")
        return {(timestamp, turbine, column): flags for timestamp, turbine, column, flags in rows}

    def raw(self, day: date = FIRST) -> pa.Table:
        """The raw layer of a day."""
        return read_parquet(
            ParquetRoot(TurbinesSettings.load().storage_url), self.database, [day_slice(RawTurbineSignals, day)]
        )

    def raw_file(self, day: date = FIRST) -> Path:
        """The file of the raw layer of a day."""
        return the_file(self.database, TurbinesSettings.load().storage_url, day_slice(RawTurbineSignals, day))

    def written(self) -> bool:
        """Whether anything was ever stored, in one database or the other."""
        return bool(self.query("SELECT 1 FROM etl.ledger") or self.query("SELECT 1 FROM etl.ledger", self.database))

    def query(self, statement: str, database: Database | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query, by default in the target."""
        with (database or self.target).connect() as connection:
            return connection.execute(statement.encode()).fetchall()

    def execute(self, statement: str) -> None:
        """A statement in the target that gives no rows."""
        with self.target.connect() as connection:
            connection.execute(statement.encode())


def row_of(values: Sequence[float]) -> Row:
    """The statistics of some samples, by Python's own module."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Row(statistics.mean(values), min(values), max(values), std, len(values))


def assert_same(found: Mapping[Key, Row], expected: Mapping[Key, Row]) -> None:
    """The same bins, each with the same numbers within 1e-9."""
    assert found.keys() == expected.keys()
    assert expected
    wrong = {key: (row, expected[key]) for key, row in found.items() if not _close(row, expected[key])}
    assert wrong == {}


def _close(one: Row, other: Row) -> bool:
    return all(
        a is b is None or (a is not None and b is not None and math.isclose(a, b, rel_tol=0, abs_tol=1e-9))
        for a, b in zip(one, other, strict=True)
    )
