"""How rows of the experiments system are replayed: with their file."""

from etl_assets.core.slices.raw_rows import Replay
from etl_assets.systems.experiments.contracts import CONTRACTS

FROM_A_FILE = Replay(reload="is from a file: correct {entry.source} and load the folder again")
REPLAYS = {contract.config.table: FROM_A_FILE for contract in CONTRACTS}
