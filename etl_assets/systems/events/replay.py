"""How rows of the events system are replayed: while nobody else changes the rows of their interval."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.quarantine import Entry, Replay
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.format.layout import corrected_events
from etl_assets.systems.events.manifest import changing


def _locked(database: Database, entry: Entry) -> AbstractContextManager[Callable[[], None] | None]:
    return changing(database, datetime.fromisoformat(str(entry.raw["file_interval"])))


REPLAYS = {
    RawEvents.config.table: Replay(
        read_raw=corrected_events,
        fixed={"file_interval": "is of the file {entry.partition}: file_interval cannot be set"},
        lock=_locked,
    )
}
