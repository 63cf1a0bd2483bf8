"""How rows of the production system are replayed: a later record of the same key counts."""

from etl_assets.core.slices.raw_rows import Replay
from etl_assets.systems.production.contracts import STREAMS
from etl_assets.systems.production.transform import SEQUENCE

REPLAYS = {stream.contract.config.table: Replay(sequence=SEQUENCE) for stream in STREAMS}
