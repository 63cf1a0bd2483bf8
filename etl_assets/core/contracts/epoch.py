"""Times as numbers since 1970, whatever unit they count."""

import numpy as np

from etl_assets.core.contracts.cast import FIRST_US, LAST_US

# From here on a number counts the next smaller unit: in the larger one it would lie beyond the year 5138.
FIRST_IN_MILLISECONDS, FIRST_IN_MICROSECONDS, FIRST_IN_NANOSECONDS = 1e11, 1e14, 1e17
# Beyond every time, and far from the end of 64 bits.
NEAR_US = 1e18


def instants(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unix times in seconds, milliseconds, microseconds or nanoseconds, told apart by size, as whole microseconds.

    Times before March 1973 are known in seconds only: in smaller units their numbers are those of later seconds.

    Args:
        numbers: of 64 bits; one that is not finite is no time.

    Returns:
        Microseconds since 1970, the nearest ones, and which of them are times that everybody can hold (years 1 to 9999).
    """
    numbers = np.where(np.isfinite(numbers), numbers, np.inf)
    size = np.abs(numbers)
    numbers = np.where(size >= FIRST_IN_NANOSECONDS, numbers / 1_000, numbers)
    units = np.select([size >= FIRST_IN_MICROSECONDS, size >= FIRST_IN_MILLISECONDS], [1, 1_000], 1_000_000)
    near = np.abs(numbers) < NEAR_US / units
    numbers = np.where(near, numbers, 0)
    whole = np.floor(numbers)
    # The parts apart: together they have more digits than a float.
    micros = whole.astype(np.int64) * units + np.rint((numbers - whole) * units).astype(np.int64)
    return micros, near & (micros >= FIRST_US) & (micros <= LAST_US)
