"""The events system with all its neighbours: a database, a raw layer, the simulated feed over HTTP, and what is in its files."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pyarrow as pa

from etl_assets.cli import run
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.parquet import ParquetRoot, read_parquet
from etl_assets.core.sources.http.client import Limits
from etl_assets.systems.events import assets, automation, checks, script
from etl_assets.systems.events.assets import EventsFeedResource
from etl_assets.systems.events.files import INTERVAL, file_name, member_name
from etl_assets.systems.events.format import RAW_COLUMNS
from etl_assets.systems.events.manifest import Entry, entries
from etl_assets.systems.events.raw_layer import interval_slice
from etl_assets.systems.events.script import LoadResult, load, load_file
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.simulator import FILES, EventsSimulator
from etl_assets.systems.events.source import EventsFeed
from etl_assets_tests.core.slices.files import the_file
from etl_assets_tests.systems.events.event_files import archive, row
from etl_assets_tests.systems.events.raw_rows import PARSERS

FIRST = datetime(2019, 1, 21, tzinfo=UTC)
ROWS = 40
# Short waits; the time-outs stay longer than a busy machine needs for an answer.
QUICK = Limits(
    connect_timeout_s=2, read_timeout_s=2, deadline_s=15, max_attempts=3, base_delay_s=0.001, max_delay_s=0.002
)
COLUMNS = (
    *("sql_date", "event_code", "event_base_code", "event_root_code", "action_geo_full_name"),
    *("action_geo_country_code", "action_geo_lat", "action_geo_long", "date_added", "source_url"),
)
ALL_TIME = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


class Changes(NamedTuple):
    """What became of rows."""

    inserted: int
    updated: int
    deleted: int
    unchanged: int


def quarter(number: int) -> datetime:
    """The interval of this number, counted from 0."""
    return FIRST + number * INTERVAL


class QuickEventsFeedResource(EventsFeedResource):
    """The feed of the settings with short time-outs and pauses."""

    def connect(self, *, limits: Limits | None = None) -> EventsFeed:
        return quick_feed()


def quick_feed() -> EventsFeed:
    return EventsFeed.from_settings(EventsSettings.load(), limits=QUICK)


@dataclass
class World:
    """A platform's database and a simulator of four intervals, which may go on; the environment names them.

    Attributes:
        ahead: how far the clock is ahead of the last interval's end; a minute, until a test says otherwise.
        temporary: where temporary folders are made.
        folder: for files of a test's own.
    """

    database: Database
    simulator: EventsSimulator
    url: str
    temporary: Path
    folder: Path
    ahead: timedelta = field(default=timedelta(minutes=1))

    def now(self) -> datetime:
        """What time it is to the system."""
        return self.simulator.end() + self.ahead

    def load(self, first: int | None = None, last: int | None = None, **options: Any) -> LoadResult:
        """The system as a function, over intervals by their number; none: the newest."""
        options = {"feed": quick_feed(), "database": self.database, "now": self.now(), **options}
        return load(*(None if number is None else quarter(number) for number in (first, last)), **options)

    def load_all(self, **options: Any) -> LoadResult:
        """All intervals that there are."""
        return self.load(0, len(self.simulator.intervals()), **options)

    def load_own(self, number: int, *events: Mapping[str, str] | int, **options: Any) -> LoadResult:
        """A file of the test's own: events by their number, or by their fields."""
        return load_file(self.own(number, *events), **{"database": self.database, "now": self.now(), **options})

    def own(self, number: int, *events: Mapping[str, str] | int) -> Path:
        """Writes a file; see `load_own`."""
        rows = [row(event) if isinstance(event, int) else row(0, **event) for event in events]
        path = self.folder / file_name(quarter(number))
        path.write_bytes(archive((member_name(quarter(number)), b"".join(rows))))
        return path

    def saved(self, number: int) -> Path:
        """A file of the feed on the disk, as somebody has it who downloaded it."""
        path = self.folder / file_name(quarter(number))
        path.write_bytes(self.simulator.archive(quarter(number)))
        return path

    def command(self, *arguments: str) -> int:
        """The exit code of `etl-assets events load`."""
        return run(["events", "load", *arguments])

    def asked(self) -> int:
        """How many requests for files reached the feed."""
        return sum(self.simulator.faults.counts().get(FILES, {}).values())

    def lists(self) -> int:
        """How often the list of all files was asked for."""
        return sum(self.simulator.faults.counts().get("masterfilelist.txt", {}).values())

    def served(self, number: int) -> list[dict[str, Any]]:
        """The rows of a file of the feed as it is now, read without the code under test."""
        with zipfile.ZipFile(BytesIO(self.simulator.archive(quarter(number)))) as opened:
            lines = opened.read(member_name(quarter(number))).decode().removesuffix("\n").split("\n")
        return [_typed(dict(zip(RAW_COLUMNS, line.split("\t"), strict=True))) for line in lines]

    def in_the_us(self, *numbers: int) -> dict[int, tuple[Any, ...]]:
        """By id, interval and values of the events with country code US in files of the feed."""
        return {
            event["global_event_id"]: (quarter(number), *(event[name] for name in COLUMNS))
            for number in numbers
            for event in self.served(number)
            if event["action_geo_country_code"] == "US"
        }

    def us(self) -> dict[int, tuple[Any, ...]]:
        """By id, interval and values of the US events that are stored."""
        rows = self.query(f"SELECT global_event_id, file_interval, {', '.join(COLUMNS)} FROM events.us_event_data")
        return {number: values for number, *rest in rows for values in [tuple(rest)]}

    def uploads(self) -> dict[int, datetime]:
        """The upload date of each US event."""
        return dict(self.query("SELECT global_event_id, upload_date FROM events.us_event_data"))

    def manifest(self) -> dict[int, Entry]:
        """What the manifest says, by the number of the interval."""
        return {(at - FIRST) // INTERVAL: entry for at, entry in entries(self.database, *ALL_TIME).items()}

    def states(self) -> dict[int, str]:
        """The states of the intervals in the manifest."""
        return {number: entry.state for number, entry in self.manifest().items()}

    def raw(self, number: int) -> pa.Table:
        """The raw layer of an interval."""
        return read_parquet(
            ParquetRoot(EventsSettings.load().storage_url), self.database, [interval_slice(quarter(number))]
        )

    def raw_file(self, number: int) -> Path:
        """The file of the raw layer of an interval."""
        return the_file(self.database, EventsSettings.load().storage_url, interval_slice(quarter(number)))

    def raw_versions(self) -> dict[int, int]:
        """When the file of each interval in the raw layer was written, as the disk says it."""
        numbers = [number for number in self.manifest() if self.raw_file(number).exists()]
        return {number: self.raw_file(number).stat().st_mtime_ns for number in numbers}

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """US events and manifest in key order; with `xmin`, by which a row that was written again differs."""
        return {
            "us_event_data": self.query("SELECT *, xmin::text FROM events.us_event_data ORDER BY global_event_id"),
            "intervals": self.query("SELECT *, xmin::text FROM events.intervals ORDER BY interval"),
        }

    def written(self) -> bool:
        """Whether anything was ever stored."""
        return bool(self.query("SELECT 1 FROM etl.ledger"))

    def quarantine(self) -> list[tuple[str, str, str, str]]:
        """Partition, source, column and rule of each fault in quarantine, in the order of their sources."""
        return self.query(
            "SELECT partition, source, fault->>'column', fault->>'rule'"
            " FROM etl.quarantine, jsonb_array_elements(faults::jsonb) AS fault"
            " WHERE asset = 'events.raw_events' ORDER BY partition, length(source), source"
        )

    def query(self, statement: str) -> list[Any]:
        """The rows of a query."""
        with psycopg.connect(self.database.url, options="-c TimeZone=UTC") as connection:
            return connection.execute(statement.encode()).fetchall()

    def execute(self, statement: str) -> None:
        """A statement that gives no rows."""
        with psycopg.connect(self.database.url) as connection:
            connection.execute(statement.encode())

    def left_behind(self) -> list[str]:
        """What is left in temporary folders, and unfinished files in the raw layer."""
        unfinished = Path(EventsSettings.load().etl_data_dir).rglob("*.tmp")
        return sorted(path.name for path in [*self.temporary.iterdir(), *unfinished])


def us_changes(done: LoadResult) -> Changes:
    """What became of the US events of a load."""
    changes = [one.outcome.change for one in done.stored]
    return Changes(*(sum(getattr(change, name) for change in changes) for name in Changes._fields))


def clock(now: Any) -> type[datetime]:
    """`datetime` with a present of the test's own."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return now().astimezone(tz)

    return Clock


# The modules that look at the clock.
CLOCKS = (assets, automation, checks, script)


def _typed(fields: Mapping[str, str]) -> dict[str, Any]:
    return {name: PARSERS[RAW_COLUMNS[name]](text) if text else None for name, text in fields.items()}
