"""What each machine parameter was while a work order ran: time-weighted means over the work orders' intervals.

The semantics are those of `time_weight` in TimescaleDB's toolkit (LOCF and Linear), with an end to what a reading says: its
maximum age. Knows nothing of where readings come from and of statistics.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.systems.production.contracts import AlignedWorkOrders

MICROSECONDS = pa.timestamp("us", tz="UTC")
OLDEST = 2**61  # µs; a maximum age beyond it is none, and sums of such ages stay within 64 bits

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


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
        orders: the rows of `output.outputs`, of all products.
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
        "product_id": pa.array(orders["product_id"], pa.int64()),
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
                "parameter_id": pa.repeat(pa.scalar(parameter, pa.int64()), len(orders)),
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


def by_parameter(metrics: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Integers, Floats]]:
    """Gather the readings of one parameter after the other.

    Args:
        metrics: as for `aligned`.

    Yields:
        The parameter, the times of its readings in microseconds since 1970, and their values, NaN where there is none.

    Raises:
        ValueError: if the readings are not ordered by parameter and time, each time once; says where.
    """
    parameter: int | None = None
    parts: list[tuple[Integers, Floats]] = []
    for batch in metrics:
        ids = batch["parameter_id"].to_numpy()
        times, values = _times(batch["measured_at"]), batch["value"].cast(pa.float64()).to_numpy(zero_copy_only=False)
        edges = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)] if len(ids) else [0]
        for start, end in itertools.pairwise(edges):
            found = int(ids[start])
            if found != parameter:
                if parameter is not None:
                    yield parameter, *_joined(parameter, parts)
                    if found < parameter:
                        raise ValueError(f"readings are not in order: parameter {found} comes after {parameter}")
                parameter = found
            parts.append((times[start:end], values[start:end]))
    if parameter is not None:
        yield parameter, *_joined(parameter, parts)


def _times(column: pa.Array) -> Integers:
    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        raise ValueError(f"measured_at is {column.type}: give the times a zone")
    return column.cast(MICROSECONDS).cast(pa.int64()).to_numpy()


def _joined(parameter: int, parts: list[tuple[Integers, Floats]]) -> tuple[Integers, Floats]:
    times, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    parts.clear()
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if len(wrong):
        earlier, later = (pd.Timestamp(times[wrong[0] + i], unit="us", tz="UTC").isoformat() for i in (0, 1))
        raise ValueError(
            f"readings are not in order: of parameter {parameter} the one at {later} comes after {earlier}"
        )
    return times, values


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
    with np.errstate(over="ignore", invalid="ignore"):
        return _means(times, values, starts, ends, rules)


def _means(
    times: Integers, values: Floats, starts: Integers, ends: Integers, rules: AlignmentRules
) -> tuple[Floats, Floats]:
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
