"""How rows of the turbines system are replayed: with their day."""

from etl_assets.core.slices.raw_rows import Replay
from etl_assets.systems.turbines.contracts import RawTurbineSignals

REPLAYS = {
    RawTurbineSignals.config.table: Replay(
        reload="is what the source says of {entry.partition}: have it corrected there and load the day again"
    )
}
