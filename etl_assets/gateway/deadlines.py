"""How long the gateway waits for others: what they need on a quiet machine, and more on one that has more to do than cores.

What is away is said soon, and what is only slow because others keep the machine busy is not taken for away.
"""

import contextlib
import os
from pathlib import Path

# A deadline is at most so many times as long as on a quiet machine.
LONGEST = 6.0
LOAD = Path("/proc/loadavg")


def stretched(seconds: float) -> float:
    """A time limit on this machine as it is now, from that on a quiet one."""
    return seconds * min(max(load_per_core(), 1.0), LONGEST)


def load_per_core() -> float:
    """Processes that want a core, per core: on average over the last minute, or in this moment if they are more."""
    wanting = os.getloadavg()[0]
    # Linux says how many there are now; the average needs a minute to follow.
    with contextlib.suppress(OSError, ValueError, IndexError):
        wanting = max(wanting, float(LOAD.read_text().split()[3].split("/")[0]))
    return wanting / (os.cpu_count() or 1)
