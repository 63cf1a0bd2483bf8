"""What each work order put out, and what each machine parameter was while it ran.

The output is the increment of a running counter, or the recorded number itself. Of parameters there are time-weighted means over
the work orders' intervals; the semantics are those of `time_weight` in TimescaleDB's toolkit (LOCF and Linear), with an end to
what a reading says: its maximum age. Knows nothing of where readings come from and of statistics.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.names import natural
from etl_assets.systems.production.contracts import AlignedWorkOrders

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


MICROSECONDS = pa.timestamp("us", tz="UTC")
OLDEST = 2**61  # µs; a maximum age beyond it is none, and sums of such ages stay within 64 bits

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


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

    product_id: str
    work_orders: int
    is_counter: bool
    resets: int
    decreases: int
    missing: int
    first: datetime
    last: datetime


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
        predecessor ended), `production` and `output`, by product and time, products in natural order. And a summary per product,
        in their order.

    Raises:
        ValueError: if a column is missing, a time is naive or missing, or a product has two work orders at one instant.
    """
    orders = _in_order(workorders)
    output = np.full(len(orders), np.nan)
    summaries = []
    for product, rows in orders.groupby("product_id", observed=True):
        production, times = rows["production"].to_numpy(), rows["completed_at"]
        output[rows.index], is_counter, resets, decreases = _read(production)
        missing = int(np.isnan(production).sum())
        first, last = times.iloc[0].to_pydatetime(), times.iloc[-1].to_pydatetime()
        summaries.append(OutputSummary(str(product), len(rows), is_counter, resets, decreases, missing, first, last))
    started = orders.groupby("product_id", observed=True)["completed_at"].shift()
    found = orders.assign(
        product_id=orders["product_id"].astype(object),
        started_at=started.astype(orders["completed_at"].dtype),
        output=output,
    )
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
    production, products = workorders["production"].astype("float64"), workorders["product_id"]
    orders = pd.DataFrame(
        {
            # By number and not by text: orders are compared, sorted and grouped by it.
            "product_id": pd.Categorical(products, sorted(products.unique(), key=natural), ordered=True),
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


def _read(production: Floats) -> tuple[Floats, bool, int, int]:
    """The output of one product in time order, whether it is that of a counter, and its resets and decreases; see `outputs`."""
    known = np.flatnonzero(~np.isnan(production))
    values = production[known]
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.diff(values)
        if (steps > 0).sum() < RISES_AT_LEAST:
            return production, False, 0, 0
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
        return production, False, 0, 0
    return np.where(np.isfinite(increments), increments, np.nan), True, int(resets.sum()), len(falls)


@dataclass(frozen=True)
class AlignmentRules:
    """How readings become the value of a parameter for a work order.

    Attributes:
        interpolation: what a parameter was between two readings. `last`: the earlier one, up to its maximum age.
            `linear`: on the straight line between them if they are at most a maximum age apart, else unknown; also
            unknown before the first and after the last.
        max_age_spacings: the maximum age of a reading, in median spacings of its parameter's readings.
        min_coverage: the share of an interval that must be known for it to have a value.

    Raises:
        ValueError: for a value that makes no sense.
    """

    interpolation: Literal["last", "linear"] = "last"
    max_age_spacings: float = 3.0
    min_coverage: float = 0.5

    def __post_init__(self) -> None:
        if self.interpolation not in ("last", "linear"):
            raise ValueError(f"interpolation is last or linear, not {self.interpolation!r}")
        if not (math.isfinite(self.max_age_spacings) and self.max_age_spacings > 0):
            raise ValueError(f"max_age_spacings is a positive number, not {self.max_age_spacings}")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage is a share from 0 to 1, not {self.min_coverage}")


DEFAULT_RULES = AlignmentRules()


def aligned(
    metrics: Iterable[pa.RecordBatch], orders: pd.DataFrame, rules: AlignmentRules = DEFAULT_RULES
) -> pa.RecordBatchReader:
    """The value of every parameter for every work order, one batch per parameter.

    Each has one value per (start, end] of a work order: the mean over the time for which the parameter is known, and the
    share of the interval that this is. A reading at the very start counts, one at the very end has no weight.
    Readings without a value say nothing: the one before is carried on. A parameter with less than two readings has no spacing
    and so no age, and is known nowhere.

    Args:
        metrics: `parameter_id`, `measured_at` (with a zone) and `value` (NULL where unknown) in this order of keys, in
            batches of any size. Readings of one parameter at a time are in memory. Read as the result is.
        orders: the rows of `outputs`, of all products.
        rules: see there.

    Returns:
        Rows of `AlignedWorkOrders`, by parameter, and within it in the order of `orders`. `value` is NULL where the coverage
        is too low.

    Raises:
        ValueError: if a time is naive, an interval is empty, or, while the result is read, if readings are out of order.
    """
    schema = arrow_schema(AlignedWorkOrders)
    starts, ends = (microseconds(orders[name], name) for name in ("started_at", "completed_at"))
    if (ends <= starts).any():
        raise ValueError(f"{(ends <= starts).sum()} work orders do not end after they start")
    fixed = {
        "product_id": pa.array(orders["product_id"], pa.string()),
        "completed_at": pa.array(ends, MICROSECONDS),
        "started_at": pa.array(starts, MICROSECONDS),
        "production": pa.array(orders["production"], pa.float64(), from_pandas=True),
        "output": pa.array(orders["output"], pa.float64(), from_pandas=True),
    }

    def batches() -> Iterator[pa.RecordBatch]:
        for parameter, times, values in by_parameter(metrics):
            means, coverage = time_weighted_means(times, values, starts, ends, rules)
            columns = {
                **fixed,
                "parameter_id": pa.repeat(pa.scalar(parameter, pa.string()), len(orders)),
                "value": pa.array(means, from_pandas=True),
                "coverage": pa.array(coverage),
            }
            yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches() if len(orders) else ())


def microseconds(times: pd.Series, name: str) -> Integers:
    """Times as microseconds since 1970.

    Raises:
        ValueError: if they have no zone.
    """
    if not isinstance(times.dtype, pd.DatetimeTZDtype):
        raise ValueError(f"{name} is {times.dtype}: give the times a zone")
    return times.dt.as_unit("us").astype("int64").to_numpy()


def by_parameter(metrics: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, Integers, Floats]]:
    """Gather the readings of one parameter after the other.

    Args:
        metrics: as for `aligned`.

    Yields:
        The parameter, the times of its readings in microseconds since 1970, and their values, NaN where there is none.

    Raises:
        ValueError: if the readings are not ordered by parameter and time, each time once; says where.
    """
    before = None
    for parameter, parts in itertools.groupby(_runs(metrics), key=lambda run: run[0]):
        if before is not None and parameter < before:
            raise ValueError(f"readings are not in order: parameter {parameter} comes after {before}")
        _, *columns = zip(*parts, strict=True)
        times, values = (np.concatenate(column) for column in columns)
        wrong = np.flatnonzero(np.diff(times) <= 0)
        if len(wrong):
            earlier, later = (pd.Timestamp(times[wrong[0] + i], unit="us", tz="UTC").isoformat() for i in (0, 1))
            raise ValueError(
                f"readings are not in order: of parameter {parameter} the one at {later} comes after {earlier}"
            )
        yield parameter, times, values
        before = parameter


def _runs(metrics: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, Integers, Floats]]:
    """Neighbouring readings of one parameter, as far as they are in one batch."""
    for batch in metrics:
        kind = batch["measured_at"].type
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            raise ValueError(f"measured_at is {kind}: give the times a zone")
        ids = batch["parameter_id"].dictionary_encode()
        times = batch["measured_at"].cast(MICROSECONDS).cast(pa.int64()).to_numpy()
        values = batch["value"].cast(pa.float64()).to_numpy(zero_copy_only=False)
        places = ids.indices.to_numpy()
        edges = np.flatnonzero(np.diff(places)) + 1
        for run in zip(*(np.split(column, edges) for column in (places, times, values)), strict=True):
            if len(run[0]):
                yield ids.dictionary[int(run[0][0])].as_py(), run[1], run[2]


@dataclass(frozen=True)
class _Segments:
    """What a parameter is known to be: from each reading on for some time a straight line, and then unknown.

    Segment 0 is the time before the first reading, of which nothing is known.

    Attributes:
        begin: when it begins, µs.
        known: how long it is known from there, µs.
        level: its value at the beginning, less the centre of all.
        slope: how much it rises per µs.
    """

    begin: Integers
    known: Integers
    level: Floats
    slope: Floats

    def until(self, segment: npt.NDArray[np.intp], instant: Integers) -> Integers:
        """For how long of its segment a parameter is known up to an instant, µs."""
        return np.clip(instant - self.begin[segment], 0, self.known[segment])

    def area(self, segment: npt.NDArray[np.intp] | slice, start: Integers | int, end: Integers) -> Floats:
        """The integral over a part of a segment, from and to µs after its beginning."""
        return (end - start) * (self.level[segment] + self.slope[segment] * ((start + end) / 2))


@np.errstate(over="ignore", invalid="ignore")
def time_weighted_means(
    times: Integers, values: Floats, starts: Integers, ends: Integers, rules: AlignmentRules
) -> tuple[Floats, Floats]:
    """Mean of one parameter over each interval, and the share of the interval for which it is known.

    Takes O(n log n + m) for n readings and m intervals, however these overlap.

    Args:
        times: of the readings, µs, rising.
        values: the readings; NaN says nothing.
        starts, ends: the intervals, µs; none is empty.

    Returns:
        Means, NaN where the coverage is below the rules', nothing is known, or floats cannot hold the sum; and coverages.
    """
    says = np.isfinite(values)
    times, values = times[says], values[says]
    if len(times) < 2:
        return np.full(len(starts), np.nan), np.zeros(len(starts))
    # A large offset is taken out before anything is summed: 1e9 + 0.001 must not become 1e9.
    centre = float(np.median(values))
    segments = _segments(times, values - centre, rules)
    first, last = (np.searchsorted(times, instants, side="right") for instants in (starts, ends))
    several = last > first
    begun, done = segments.until(first, starts), segments.until(first, ends)
    tail = np.where(several, segments.until(last, ends), 0)
    before = np.concatenate(([0], np.cumsum(segments.known)))
    between = np.where(several, before[last] - before[first + several], 0)
    known = (done - begun) + between + tail
    area = (
        segments.area(first, begun, done)
        + range_sums(segments.area(slice(None), 0, segments.known), first + 1, last)
        + segments.area(last, 0, tail)
    )
    coverage = known / (ends - starts)
    means = centre + area / np.maximum(known, 1)
    return np.where((known > 0) & (coverage >= rules.min_coverage) & np.isfinite(means), means, np.nan), coverage


def _segments(times: Integers, values: Floats, rules: AlignmentRules) -> _Segments:
    gaps = np.diff(times)
    age = min(round(float(np.median(gaps)) * rules.max_age_spacings), OLDEST)
    slope = np.zeros(len(times) + 1)
    if rules.interpolation == "last":
        known = np.minimum(np.append(gaps, age), age)
    else:
        known = np.append(np.where(gaps <= age, gaps, 0), 0)
        slope[1:-1] = np.diff(values) / gaps
    return _Segments(
        begin=np.concatenate((times[:1], times)),
        known=np.concatenate(([0], known)),
        level=np.concatenate(([0.0], values)),
        slope=slope,
    )


def range_sums(terms: Floats, first: npt.NDArray[np.intp], last: npt.NDArray[np.intp]) -> Floats:
    """The sum of `terms[first:last]` for each pair, 0 for an empty range.

    A difference of two running totals carries the rounding of everything before the range: after a single faulty reading of 1e30
    nothing would be left of the ordinary ones. Here a sum is made of the range's own terms only. The terms are cut into blocks of
    1, 2, 4, … ; the smallest pair of neighbouring blocks that holds a range is met by it in the end of the left block and the
    beginning of the right one, both of which are running totals within a block.
    """
    end = last - 1
    sums = np.zeros(len(first))
    single = first == end
    sums[single] = terms[first[single]]
    # The length in bits of a number is the exponent of its float.
    level = np.frexp(np.where(first < end, first ^ end, 0).astype(np.float64))[1]
    padded = np.zeros(1 << len(terms).bit_length())
    padded[: len(terms)] = terms
    for bits in np.unique(level[level > 0]).tolist():
        blocks = padded.reshape(-1, 1 << (bits - 1))
        to_end = np.cumsum(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
        from_begin = np.cumsum(blocks, axis=1).ravel()
        here = level == bits
        sums[here] = to_end[first[here]] + from_begin[end[here]]
    return sums
