"""The tables that every database of the platform has."""

from etl_assets.core.contracts import Contract
from etl_assets.core.slices.corrections import Corrections
from etl_assets.core.slices.heads import Heads
from etl_assets.core.slices.ledger import Ledger
from etl_assets.core.slices.quarantine import Quarantine

CORE_TABLES: tuple[type[Contract], ...] = (Heads, Ledger, Quarantine, Corrections)
