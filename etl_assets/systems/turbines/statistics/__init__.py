"""Ten-minute statistics of one-minute signals, with flags: pure functions between tables."""

from etl_assets.systems.turbines.statistics.quality import (
    FROZEN_SAMPLES,
    FROZEN_SAMPLES_ELSE,
    LOW_COVERAGE,
    SPIKE_MADS,
    summary,
)
from etl_assets.systems.turbines.statistics.samples import BIN_US, DAY_US
from etl_assets.systems.turbines.statistics.ten_minutes import OUTPUT, ten_minute_statistics

__all__ = [
    "BIN_US",
    "DAY_US",
    "FROZEN_SAMPLES",
    "FROZEN_SAMPLES_ELSE",
    "LOW_COVERAGE",
    "OUTPUT",
    "SPIKE_MADS",
    "summary",
    "ten_minute_statistics",
]
