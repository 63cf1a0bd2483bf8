"""Block bootstrap of correlations: intervals, stability of the ranking, ties.

Blocks of neighbouring work orders are drawn with replacement, so that dependence within a block stays. All parameters are
correlated in the same resamples, so that they can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etl_assets.systems.production.statistics.significance import Array, autocorrelation

FEWEST_BLOCKS = 10
# Another rule of alignment moves |r| by as much: what differs less is not told apart, however steadily it differs.
SAME = 0.005


@dataclass(frozen=True)
class Resampled:
    """Correlations of each resample, (resamples, parameters); NaN where a resample leaves nothing to correlate."""

    r: Array

    def spread(self) -> Array:
        """Standard deviation of Fisher's z over the resamples, by parameter."""
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.arctanh(np.clip(self.r, -1 + 1e-15, 1 - 1e-15))
        known = ~np.isnan(z)
        count = known.sum(axis=0)
        mean = np.where(known, z, 0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(known, z - mean, 0) ** 2).sum(axis=0)
        return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.inf)

    def stability(self, first: int = 3) -> Array:
        """Share of the resamples in which a parameter is among the first by |r|."""
        size = np.where(np.isnan(self.r), -1.0, np.abs(self.r))
        order = np.argsort(-size, axis=1, kind="stable")[:, :first]
        chosen = np.zeros(self.r.shape, dtype=bool)
        np.put_along_axis(chosen, order, True, axis=1)
        return (chosen & ~np.isnan(self.r)).mean(axis=0)

    def tie_groups(self, ranking: Sequence[int]) -> NDArray[np.int64]:
        """A number for each parameter: those whose |r| cannot be told from the group's first have the same.

        Args:
            ranking: parameters by falling |r|.
        """
        groups = np.zeros(self.r.shape[1], dtype=np.int64)
        size = np.abs(self.r)
        group, leader = 0, -1
        for column in ranking:
            if leader >= 0:
                difference = size[:, leader] - size[:, column]
                difference = difference[~np.isnan(difference)]
                # Half of the resamples stand for the difference itself, 2.5 % for the end of its interval.
                low, middle = np.quantile(difference, (0.025, 0.5)) if len(difference) else (0.0, 0.0)
                tied = low <= 0 or middle < SAME
            if leader < 0 or not tied:
                group, leader = group + 1, column
            groups[column] = group
        return groups


def block_length(output: Array, parameters: Array) -> int:
    """Length of the blocks, in work orders: Carlstein's (1986) rule for an autoregression of order one.

    Args:
        output: (n,) without gaps.
        parameters: (n, k), NaN where a value is missing.
    """
    n = len(output)
    lags = [_first_lag(parameters[:, column]) for column in range(parameters.shape[1])]
    together = max(_first_lag(output), 0.0) * max(float(np.median(lags)) if lags else 0.0, 0.0)
    rho = min(float(np.sqrt(together)), 0.99)
    length = np.ceil((np.sqrt(6) * rho / (1 - rho**2)) ** (2 / 3) * n ** (1 / 3))
    return int(np.clip(length, 1, max(1, n // FEWEST_BLOCKS)))


def _first_lag(series: Array) -> float:
    known = series[~np.isnan(series)]
    return float(autocorrelation(known, 1)[0]) if len(known) > 2 else 0.0


def resample(output: Array, parameters: Array, *, length: int, resamples: int, seed: int) -> Resampled:
    """Correlate every parameter with the output in each resample of blocks.

    Args:
        output: (n,) in time order, without gaps.
        parameters: (n, k), NaN where a value is missing.
        length: of a block, in rows.
        seed: makes the resamples repeatable.
    """
    present = ~np.isnan(parameters)
    y = ((output - output.mean()) / (output.std() or 1.0))[:, None] * present
    x = np.where(present, _standardised(parameters, present), 0.0)
    starts = np.arange(0, len(output), length)
    sums = [np.add.reduceat(part, starts, axis=0) for part in (present * 1.0, x, y, x * x, y * y, x * y)]
    draws = np.random.default_rng(seed).multinomial(len(starts), np.full(len(starts), 1 / len(starts)), resamples)
    n, sx, sy, sxx, syy, sxy = (draws @ part for part in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = sxy - sx * sy / n
        r = covariance / np.sqrt(np.maximum(sxx - sx**2 / n, 0) * np.maximum(syy - sy**2 / n, 0))
    r[(n < 3) | ~np.isfinite(r)] = np.nan
    return Resampled(np.clip(r, -1, 1))


def _standardised(parameters: Array, present: NDArray[np.bool_]) -> Array:
    """Each parameter about its mean in units of its deviation: sums of squares of large values lose digits."""
    n = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, parameters, 0).sum(axis=0) / n
    deviation = np.sqrt((np.where(present, parameters - mean, 0) ** 2).sum(axis=0) / n)
    return (parameters - mean) / np.where(deviation > 0, deviation, 1.0)
