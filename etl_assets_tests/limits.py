"""How long the clients of the tests wait: too short a wait makes a fault of a machine that is busy."""

from dataclasses import replace

from etl_assets.core.sources.http.client import Limits

# Waits for an answer far longer than one takes, and hardly between attempts.
QUICK = Limits(
    connect_timeout_s=2, read_timeout_s=2, deadline_s=5, max_attempts=3, base_delay_s=0.001, max_delay_s=0.002
)
# Of an answer that does not come; shorter than `STALL_S`.
IMPATIENT = replace(QUICK, read_timeout_s=0.3)
STALL_S = 0.6


def limits_for(kind: str) -> Limits:
    """The limits by which a fault of the simulators is met."""
    return IMPATIENT if kind.startswith("timeout") else QUICK
