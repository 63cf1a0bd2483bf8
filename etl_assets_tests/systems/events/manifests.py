"""Entries of the manifest as they are recorded, under its lock."""

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.slice import Slice
from etl_assets.systems.events import manifest
from etl_assets.systems.events.contracts import Intervals
from etl_assets.systems.events.manifest import Entry


def record(database: Database, *entries: Entry, run_id: str = "a run") -> None:
    with locked(database, [Slice(Intervals)]) as lock:
        manifest.record(database, entries, run_id=run_id, lock=lock)
