"""How rows of the events system are replayed: the US events of their interval are to be derived again."""

from dataclasses import replace
from datetime import datetime

from etl_assets.core.slices.commit import Part
from etl_assets.core.slices.entries import Entry
from etl_assets.core.slices.raw_rows import Replay
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.format import corrected_events
from etl_assets.systems.events.manifest import part


def _derived_again(entry: Entry) -> list[Part]:
    interval = datetime.fromisoformat(str(entry.raw["file_interval"]))
    return [part(interval, lambda known: replace(known, state="fetched") if known.state == "loaded" else known)]


REPLAYS = {
    RawEvents.config.table: Replay(
        read_raw=corrected_events,
        fixed={"file_interval": "is of the file {entry.partition}: file_interval cannot be set"},
        beside=_derived_again,
    )
}
