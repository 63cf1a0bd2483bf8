"""Who looks at the intervals while backfills are killed, and what the intervals have to be."""

import io
import threading
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.files import COPY, ParquetRoot, standing_file
from etl_assets.core.slices.heads import NO_HEAD, heads_of, key_of
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.format import RAW_COLUMNS
from etl_assets.systems.events.raw_layer import interval_slice
from etl_assets.systems.events.simulator import EventsSimulator
from etl_assets.systems.events.simulator.files import BAD_LINES, file_name
from etl_assets_tests.systems.events.raw_rows import PARSERS

LOOK_EVERY_S = 0.02
COUNTS = ("inserted", "updated", "unchanged", "deduplicated", "quarantined")
US_COLUMNS = (
    "global_event_id",
    "sql_date",
    "event_code",
    "event_base_code",
    "event_root_code",
    "action_geo_full_name",
    "action_geo_country_code",
    "action_geo_lat",
    "action_geo_long",
    "date_added",
    "source_url",
)
BAD_ROWS = "bad-rows"
Row = tuple[Any, ...]
Manifest = tuple[str, str | None, int | None, int | None]
# One statement, so one snapshot of both.
MANIFEST_AND_ROWS = f"""
    SELECT coalesce(interval, file_interval), interval IS NULL, state, md5, rows_raw, rows_us, {", ".join(US_COLUMNS)}
    FROM events.intervals FULL JOIN events.us_event_data ON file_interval = interval
"""


@dataclass(frozen=True)
class There:
    """What there is of an interval.

    Attributes:
        state, md5: as the manifest has them; no state: it is not in the manifest.
        ids: events in the raw layer; None: no file.
        us: rows in the table of US events.
    """

    state: str = ""
    md5: str | None = None
    ids: frozenset[int] | None = None
    us: frozenset[Row] = frozenset()

    @property
    def manifest(self) -> Manifest:
        """What the manifest says."""
        stored = self.ids is not None
        return self.state, self.md5, len(self.ids or ()) if stored else None, len(self.us) if stored else None


NOTHING = There()


def next_state(simulator: EventsSimulator, interval: datetime, before: There) -> There:
    """What is there of an interval of long ago after a load of what the feed has now."""
    quirks = simulator.quirks().get(interval)
    if interval >= simulator.end() or (quirks and quirks.held):
        return before if before.state in ("loaded", "refused") else There("absent")
    if quirks and quirks.defect not in ("", BAD_ROWS):
        return before if before.state == "loaded" else There("refused")
    rows = events_of(simulator, interval)
    us = frozenset(tuple(row[name] for name in US_COLUMNS) for row in rows if row["action_geo_country_code"] == "US")
    ids = frozenset(row["global_event_id"] for row in rows)
    return There("loaded", simulator.listed(interval).md5, ids, us)


def events_of(simulator: EventsSimulator, interval: datetime) -> list[Mapping[str, Any]]:
    """The rows of a file that can be read."""
    with zipfile.ZipFile(io.BytesIO(simulator.archive(interval))) as archive:
        lines = archive.read(archive.namelist()[0]).decode().splitlines()
    bad = BAD_LINES if _has_bad_rows(simulator, interval) else ()
    return [
        {
            name: PARSERS[kind](cell) if cell else None
            for (name, kind), cell in zip(RAW_COLUMNS.items(), line.split("\t"), strict=True)
        }
        for number, line in enumerate(lines, 1)
        if number not in bad
    ]


def bad_lines(simulator: EventsSimulator, interval: datetime) -> list[str]:
    """Where in a file there are bad rows, as quarantine names it."""
    return [f"{file_name(interval)}, line {number}" for number in BAD_LINES if _has_bad_rows(simulator, interval)]


def _has_bad_rows(simulator: EventsSimulator, interval: datetime) -> bool:
    quirks = simulator.quirks().get(interval)
    return quirks is not None and quirks.defect == BAD_ROWS


def seen_in(connection: psycopg.Connection[Any]) -> dict[datetime, tuple[Manifest | None, set[Row]]]:
    """Manifest and US events of all intervals in one snapshot; no manifest where there are only events.

    Raises:
        AssertionError: if a row is there twice.
    """
    found: dict[datetime, tuple[Manifest | None, set[Row]]] = {}
    for at, alone, state, md5, rows_raw, rows_us, *row in connection.execute(MANIFEST_AND_ROWS.encode()):
        manifest = None if alone else (state, md5, rows_raw, rows_us)
        _, rows = found.setdefault(at.astimezone(UTC), (manifest, set()))
        if row[0] is not None:
            assert tuple(row) not in rows, f"{row} is there twice"
            rows.add(tuple(row))
    return found


def ids_in(
    database: Database, root: str, intervals: Iterable[datetime], *, copies: bool = False
) -> dict[datetime, list[int]]:
    """The events of each file that counts; or of the copies for readers from outside."""
    slices = {interval: interval_slice(interval) for interval in intervals}
    heads = heads_of(database, [*slices.values()])
    found = {}
    for interval, slice_ in slices.items():
        path = standing_file(ParquetRoot(root), slice_, heads.get(key_of(slice_), NO_HEAD))
        if path is not None:
            found[interval] = ids_of(Path(path).with_name(COPY) if copies else Path(path))
    return found


def ids_of(path: Path) -> list[int]:
    """The events of a file, which may be replaced meanwhile: `read_table` opens a path twice, and could meet two files."""
    with pq.ParquetFile(path) as file:
        return list(file.read(columns=["global_event_id"])["global_event_id"].to_pylist())


@dataclass
class Witness:
    """Looks at the intervals again and again: each is as it was before, or new as a whole; what was new once stays new.

    Attributes:
        looks: how often.
        mixed: looks at which some intervals were old and some new: it was there in the middle.
        noted: looks at which an interval was fetched and its US events were still to come.
        partial: what was seen that must never be.
    """

    database: Database
    root: str
    looks: int = 0
    mixed: int = 0
    noted: int = 0
    partial: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._looking = threading.Lock()
        self._old: Mapping[datetime, There] = {}
        self._new: Mapping[datetime, There] = {}
        self._seen_new: set[datetime] = set()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    def expect(self, old: Mapping[datetime, There], new: Mapping[datetime, There]) -> None:
        """From now on what is there gives way to something else."""
        with self._looking:
            self._old, self._new, self._seen_new = dict(old), dict(new), set()

    def rest(self) -> None:
        """Somebody is going to change what is there by hand: nothing is looked at until the next `expect`."""
        with self._looking:
            self._new = {}

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with psycopg.connect(self.database.url, autocommit=True) as connection:
                while not self._ended.wait(LOOK_EVERY_S):
                    with self._looking:
                        if self._new:
                            self._look(seen_in(connection))
        except BaseException as failure:
            self.failure = failure

    def _look(self, seen: Mapping[datetime, tuple[Manifest | None, set[Row]]]) -> None:
        self.looks += 1
        replaced = [at for at, new in self._new.items() if new.us != self._old.get(at, NOTHING).us]
        states = [manifest[0] for manifest, _ in seen.values() if manifest]
        self.noted += "fetched" in states
        for at in self._new.keys() | seen.keys():
            manifest, rows = seen.get(at, (None, set()))
            self._judge(at, manifest, rows)
        self.mixed += 0 < sum(at in self._seen_new for at in replaced) < len(replaced)
        files = ids_in(self.database, self.root, self._new)
        for at, ids in files.items():
            if frozenset(ids) not in (self._old.get(at, NOTHING).ids, self._new[at].ids):
                self.partial.append(f"file of {at}: {len(ids)} events, neither those of before nor those of now")

    def _judge(self, at: datetime, manifest: Manifest | None, found: set[Row]) -> None:
        old, new, rows = self._old.get(at, NOTHING), self._new.get(at, NOTHING), frozenset(found)
        state, md5, _, rows_us = manifest or (None, None, None, None)
        is_new = rows == new.us
        faults = {
            "neither the old rows nor the new ones": not is_new and rows != old.us,
            "the old rows after the new ones": not is_new and at in self._seen_new,
            "the manifest has another number of rows": (rows_us or 0) != len(rows),
            "rows of an interval that is not loaded": bool(rows) and state not in ("loaded", "fetched"),
            # What is loaded are the rows of the very file that the manifest names.
            "loaded from another file": state == "loaded" and (md5, rows) not in ((new.md5, new.us), (old.md5, old.us)),
            "fetched, and the new rows are there": state == "fetched" and rows != old.us,
        }
        self.partial += [f"{at} {manifest}, {len(rows)} rows: {fault}" for fault, met in faults.items() if met]
        if is_new:
            self._seen_new.add(at)


def assert_counts_balance(database: Database) -> None:
    """Every write has each of its rows in one count, and what was inserted and not deleted is there."""
    with database.connect() as connection:
        entries = connection.execute(f"SELECT asset, partition, received, {', '.join(COUNTS)} FROM etl.ledger".encode())
        assert [entry for entry in entries.fetchall() if entry[2] != sum(entry[3:])] == []
        kept = connection.execute(
            "SELECT partition, sum(inserted - deleted)::bigint FROM etl.ledger WHERE asset = 'events.us_event_data'"
            " GROUP BY 1 HAVING sum(inserted - deleted) <> 0 ORDER BY 1"
        ).fetchall()
        there = connection.execute(
            "SELECT to_char(file_interval AT TIME ZONE 'UTC', 'YYYY-MM-DD'), count(*) FROM events.us_event_data"
            " GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert kept == there


def sources_in_quarantine(database: Database) -> list[str]:
    """Where each row in quarantine came from."""
    with database.connect() as connection:
        rows = connection.execute("SELECT asset, source FROM etl.quarantine WHERE outcome = 'rejected'").fetchall()
    assert {asset for asset, _ in rows} <= {RawEvents.config.table}
    return [source for _, source in rows]
