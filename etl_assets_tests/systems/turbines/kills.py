"""Who looks at the days while backfills are killed, and what the days may be."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg
import pyarrow.parquet as pq

from etl_assets.core.slices.files import COPY, HASH
from etl_assets_tests.systems.turbines.world import World

LOOK_EVERY_S = 0.02
BOOKS = ("inserted", "updated", "unchanged", "deduplicated", "quarantined")
# The rows of a day, whatever their order, as a number each for values and bins; the numbers of signals are not part of it.
DAYS = """
    WITH value AS (
        SELECT (d.timestamp AT TIME ZONE 'UTC')::date AS day, count(*) AS n,
               sum(hashtextextended(concat_ws('|', extract(epoch FROM d.timestamp), turbine, name, coalesce(value::text, '-')), 0))
        FROM data AS d JOIN signal AS s ON s.id = d.signal_id GROUP BY 1),
    bin AS (
        SELECT (timestamp AT TIME ZONE 'UTC')::date AS day, count(*) AS n, sum(hashtextextended(bin::text, 0))
        FROM bin GROUP BY 1)
    SELECT day, value.n, value.sum::text, bin.n, bin.sum::text FROM value FULL JOIN bin USING (day)
"""
State = tuple[Any, ...]
NOTHING: State = ()


def days_of(connection: psycopg.Connection[Any]) -> dict[date, State]:
    """What is there of each day, by one snapshot."""
    return {day: tuple(found) for day, *found in connection.execute(DAYS.encode())}


def files_of(world: World, days: Mapping[date, State], *, copies: bool = False) -> dict[date, str]:
    """The content of each day's file that counts, by its footer; or of the copies for readers from outside."""
    found = {}
    for day in days:
        path = world.raw_file(day)
        if copies:
            path = path.with_name(COPY)
        if path.exists():
            with pq.ParquetFile(path) as file:
                found[day] = f"{file.metadata.num_rows} {file.schema_arrow.metadata[HASH].decode()}"
    return found


@dataclass
class Version:
    """What the days are after a load of all that the source says at one time, by the number of which it says that."""

    number: int
    days: Mapping[date, State]
    files: Mapping[date, str]


@dataclass
class Witness:
    """Looks at the days again and again: each is as it was before, or new as a whole; what was new once stays new.

    Attributes:
        looks: how often.
        mixed: looks at which some days were old and some new: it was there in the middle.
        partial: what was seen that must never be.
    """

    world: World
    looks: int = 0
    mixed: int = 0
    partial: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._looking = threading.Lock()
        self._old: Mapping[date, State] = {}
        self._new: Version | None = None
        self._old_files: Mapping[date, str] = {}
        self._seen_new: set[date] = set()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    def expect(self, new: Version) -> None:
        """From now on what is there gives way to another version, or is there for the first time."""
        with self._looking:
            with psycopg.connect(self.world.target.url) as connection:
                self._old, self._new, self._seen_new = days_of(connection), new, set()
            self._old_files = files_of(self.world, new.days)

    def rest(self) -> None:
        """Somebody is going to change what is there by hand: nothing is looked at until the next `expect`."""
        with self._looking:
            self._new = None

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with psycopg.connect(self.world.target.url, autocommit=True) as connection:
                while not self._ended.wait(LOOK_EVERY_S):
                    with self._looking:
                        if self._new:
                            self._look(days_of(connection), self._new)
        except BaseException as failure:
            self.failure = failure

    def _look(self, seen: Mapping[date, State], new: Version) -> None:
        self.looks += 1
        are_new = {day for day in new.days if seen.get(day, NOTHING) == new.days[day]}
        self.mixed += 0 < len(are_new) < len(new.days)
        for day in new.days:
            state = seen.get(day, NOTHING)
            if day not in are_new and (day in self._seen_new or state != self._old.get(day, NOTHING)):
                self.partial.append(f"{day}: {state}, not {self._old.get(day)} nor {new.days[day]}")
        self._seen_new |= are_new
        for day, content in files_of(self.world, new.days).items():
            if content not in (self._old_files.get(day), new.files[day]):
                self.partial.append(f"file of {day}: {content}, not {self._old_files.get(day)} nor {new.files[day]}")


def assert_books_balance(world: World) -> None:
    """Every write of both databases has each of its rows in one count, and what was inserted and not deleted is there."""
    for database in (world.database, world.target):
        entries = world.query(f"SELECT asset, partition, received, {', '.join(BOOKS)} FROM etl.ledger", database)
        assert entries
        assert [entry for entry in entries if entry[2] != sum(entry[3:])] == []
    there = {
        table: world.query(
            f"SELECT (timestamp AT TIME ZONE 'UTC')::date::text, count(*) FROM {table} GROUP BY 1 ORDER BY 1"
        )
        for table in ("data", "bin")
    }
    for table, rows in there.items():
        kept = "SELECT partition, sum(inserted - deleted)::bigint FROM etl.ledger WHERE asset = 'public.{}' GROUP BY 1"
        assert sorted(world.query(kept.format(table))) == rows
