"""How rows of the events system are replayed: while nobody else changes the rows of their interval."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.quarantine import Entry, Replay
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.format import corrected_events
from etl_assets.systems.events.manifest import entry_of, locked, record


@contextlib.contextmanager
def _changing(database: Database, entry: Entry) -> Iterator[Callable[[], None]]:
    """The lock to change the rows of an interval in the raw layer; what is given records, before they are changed, that its US events
    are to be derived again.
    """
    with locked(database) as connection:
        interval = entry_of(connection, datetime.fromisoformat(str(entry.raw["file_interval"])))

        def derive_again() -> None:
            if interval and interval.state == "loaded":
                record(database, [replace(interval, state="fetched")], run_id="script")

        yield derive_again


REPLAYS = {
    RawEvents.config.table: Replay(
        read_raw=corrected_events,
        fixed={"file_interval": "is of the file {entry.partition}: file_interval cannot be set"},
        lock=_changing,
    )
}
