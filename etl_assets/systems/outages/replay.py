"""How rows of the outages system are replayed."""

from etl_assets.core.slices.raw_rows import Replay
from etl_assets.systems.outages.contracts import RawOutages
from etl_assets.systems.outages.transform import corrected_outages

REPLAYS = {RawOutages.config.table: Replay(read_raw=corrected_outages)}
