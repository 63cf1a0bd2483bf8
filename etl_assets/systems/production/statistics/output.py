"""What each work order put out: the increments of a running counter, or the recorded number itself.

Knows nothing of machine parameters and of statistics.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

COLUMNS = ("product_id", "completed_at", "production")
# With fewer steps upwards everything that rises for a while would pass for a counter, and noise that falls once for a reset.
RISES_AT_LEAST = 5
RISES_PER_RESET = 3
# Noise falls in half of its steps. These shares are met by a trend whose noise is less than about 3/4 of its step.
DECREASES_AT_MOST = 0.1
DECREASED_AT_MOST = 0.05
# A drop is a reset if it is larger than so many typical rises, and takes back so much of what had been counted.
RESET_TYPICAL_RISES = 2.0
RESET_SHARE = 0.5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OutputSummary:
    """How the production of one product was read.

    Attributes:
        product_id: the product.
        work_orders: its work orders, also the first, which has no interval.
        is_counter: whether `production` is a running counter, so that the output is its increments.
        resets: drops by which a counter began anew; their increments are unknown. 0 where there is no counter.
        decreases: corrections of a counter; they stay as negative increments. 0 where there is no counter.
        missing: work orders without a production.
        first: when the first work order ended.
        last: when the last one ended.
    """

    product_id: int
    work_orders: int
    is_counter: bool
    resets: int
    decreases: int
    missing: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class _Reading:
    """The production of one product as it was read; `output` has one value per work order."""

    output: Floats
    is_counter: bool = False
    resets: int = 0
    decreases: int = 0


def outputs(workorders: pd.DataFrame) -> tuple[pd.DataFrame, list[OutputSummary]]:
    """The output of each work order, and how the production of each product was read.

    `production` is a running counter if it hardly ever falls. A *reset* is a drop of more than two typical (median) rises
    that takes back at least half of what the counter stood above its lowest value; any other drop is a *decrease*, a
    correction. Production is a counter if there are at least five rises and three more for each reset, and of the steps
    that are no resets at most a tenth are decreases, which together take back at most a twentieth of what was counted. So a
    constant, noise, and a trend whose steps are mostly noise are no counters; a production per work order that grows each
    time almost without noise cannot be told from one.

    The output of a counter is its increment since the previous work order. It is NULL at a reset and wherever one of the
    two productions is missing: an increment over several work orders belongs to none of them. A counter that drops and
    is back at its old level with the next work order dropped out rather than began anew, and that rise is NULL too.

    Args:
        workorders: `product_id`, `completed_at` (with a zone) and `production` (NaN or NULL where unknown), in any order.

    Returns:
        One row per work order that has a predecessor of its product: `product_id`, `completed_at`, `started_at` (when the
        predecessor ended), `production` and `output`, by product and time. And a summary per product, in their order.

    Raises:
        ValueError: if a column is missing, a time is naive or missing, or a product has two work orders at one instant.
    """
    orders = _in_order(workorders)
    production = orders["production"].to_numpy()
    output = np.full(len(orders), np.nan)
    summaries = []
    for rows in _products(orders["product_id"].to_numpy()):
        reading = _read(production[rows])
        output[rows] = reading.output
        times = orders["completed_at"].iloc[rows]
        summaries.append(
            OutputSummary(
                product_id=int(orders["product_id"].iloc[rows.start]),
                work_orders=rows.stop - rows.start,
                is_counter=reading.is_counter,
                resets=reading.resets,
                decreases=reading.decreases,
                missing=int(np.isnan(production[rows]).sum()),
                first=times.iloc[0].to_pydatetime(),
                last=times.iloc[-1].to_pydatetime(),
            )
        )
    started = orders.groupby("product_id")["completed_at"].shift()
    found = orders.assign(started_at=started.astype(orders["completed_at"].dtype), output=output)
    columns = ["product_id", "completed_at", "started_at", "production", "output"]
    return found.loc[started.notna(), columns].reset_index(drop=True), summaries


def _in_order(workorders: pd.DataFrame) -> pd.DataFrame:
    """The columns that are needed, typed, by product and time; what is not finite is missing."""
    missing = [name for name in COLUMNS if name not in workorders]
    if missing:
        raise ValueError(f"work orders have no column {', '.join(missing)}")
    times = workorders["completed_at"]
    if not isinstance(times.dtype, pd.DatetimeTZDtype):
        raise ValueError(f"completed_at of work orders is {times.dtype}: give the times a zone")
    if times.isna().any():
        raise ValueError(f"{times.isna().sum()} work orders have no completed_at")
    production = workorders["production"].astype("float64")
    orders = pd.DataFrame(
        {
            "product_id": workorders["product_id"].astype("int64"),
            "completed_at": times.dt.tz_convert("UTC").dt.as_unit("us"),
            "production": production.where(np.isfinite(production)),
        }
    ).sort_values(["product_id", "completed_at"], ignore_index=True)
    twice = orders.duplicated(["product_id", "completed_at"])
    if twice.any():
        example = orders[twice].iloc[0]
        raise ValueError(
            f"product {example['product_id']} has two work orders at {example['completed_at'].isoformat()}: keep one of them"
        )
    return orders


def _products(ids: npt.NDArray[np.int64]) -> Iterator[slice]:
    """The rows of each product."""
    if len(ids):
        edges = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        yield from (slice(start, end) for start, end in itertools.pairwise(edges))


def _read(production: Floats) -> _Reading:
    """Judge the production of one product, in time order; see `outputs` for the rule."""
    known = np.flatnonzero(~np.isnan(production))
    values = production[known]
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.diff(values)
        if (steps > 0).sum() < RISES_AT_LEAST:
            return _Reading(production)
        typical = np.median(steps[steps > 0])
        counted = values[:-1] - values.min()
        resets = (-steps > RESET_TYPICAL_RISES * typical) & (-steps >= RESET_SHARE * counted)
        unknown = resets.copy()
        unknown[1:] |= resets[:-1] & (values[2:] >= values[:-2])
        increments = np.diff(production, prepend=np.nan)
    increments[known[1:][unknown]] = np.nan
    sure = steps[~unknown]
    falls, rises = sure[sure < 0], sure[sure > 0]
    is_counter = (
        len(rises) >= RISES_AT_LEAST + RISES_PER_RESET * resets.sum()
        and len(falls) <= DECREASES_AT_MOST * len(sure)
        and -falls.sum() <= DECREASED_AT_MOST * rises.sum()
    )
    if not is_counter:
        return _Reading(production)
    return _Reading(np.where(np.isfinite(increments), increments, np.nan), True, int(resets.sum()), len(falls))
