"""The simulated source of the turbines' signals: a database with faults that are planted, and an API over it."""

from etl_assets.systems.turbines.simulator.answers import Quirks
from etl_assets.systems.turbines.simulator.api import ARROW, TurbinesSimulator
from etl_assets.systems.turbines.simulator.data import DAYS, SIGNALS, START, Planted, planted, rows
from etl_assets.systems.turbines.simulator.database import SourceFailed, fill

__all__ = [
    "ARROW",
    "DAYS",
    "SIGNALS",
    "START",
    "Planted",
    "Quirks",
    "SourceFailed",
    "TurbinesSimulator",
    "fill",
    "planted",
    "rows",
]
