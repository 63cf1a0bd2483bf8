"""Alignment: the value of each parameter for each work order, beside a slow and obvious implementation."""

import dataclasses
import itertools
import math
import statistics
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.systems.production.contracts import AlignedWorkOrders
from etl_assets.systems.production.statistics.alignment import (
    AlignmentRules,
    aligned,
    by_parameter,
    microseconds,
    range_sums,
    time_weighted_means,
)

MIDNIGHT = datetime(2024, 5, 20, tzinfo=UTC)
MINUTE = 60_000_000
NAN = math.nan
LAST = AlignmentRules()
LINEAR = AlignmentRules(interpolation="linear")
Reading = tuple[int, float]


def at(minute: float) -> datetime:
    return MIDNIGHT + timedelta(minutes=minute)


def order(start: float, end: float, *, product: int = 0, output: float = 1.0) -> dict[str, Any]:
    """A work order by the minutes between which it ran."""
    return {
        "product_id": str(product),
        "completed_at": at(end),
        "started_at": at(start),
        "production": 100.0,
        "output": output,
    }


def frame(*orders: dict[str, Any]) -> pd.DataFrame:
    made = pd.DataFrame(orders, columns=["product_id", "completed_at", "started_at", "production", "output"])
    return made.astype({"completed_at": "datetime64[us, UTC]", "started_at": "datetime64[us, UTC]"})


def batches(
    *parameters: tuple[int, Sequence[tuple[float, float | None]]], size: int = 3, unit: str = "us"
) -> Iterator[pa.RecordBatch]:
    """Readings by minute, in batches."""
    rows = [(parameter, at(minute), value) for parameter, readings in parameters for minute, value in readings]
    ids, times, values = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(
        {
            "parameter_id": pa.array(map(str, ids), pa.string()),
            "measured_at": pa.array(times, pa.timestamp(unit, "UTC")),
            "value": pa.array(values, pa.float64()),
        }
    )
    yield from table.to_batches(max_chunksize=size)


def found(metrics: Iterable[pa.RecordBatch], orders: pd.DataFrame, rules: AlignmentRules = LAST) -> list[Any]:
    """(parameter, product, value, coverage) of every row, both ids as the numbers that they are here."""
    table = aligned(metrics, orders, rules).read_all()
    columns = ("parameter_id", "product_id", "value", "coverage")
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return [(int(parameter), int(product), value, coverage) for parameter, product, value, coverage in rows]


def slow(readings: Sequence[Reading], start: int, end: int, rules: AlignmentRules) -> tuple[Fraction | None, Fraction]:
    """Mean and coverage of one interval, the obvious way and without rounding."""
    known = [(time, Fraction(value)) for time, value in readings if math.isfinite(value)]
    if len(known) < 2:
        return None, Fraction(0)
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(known)]
    age = round(statistics.median(gaps) * rules.max_age_spacings)
    covered = area = Fraction(0)
    for i, (time, value) in enumerate(known):
        following = known[i + 1] if i + 1 < len(known) else None
        if rules.interpolation == "last":
            until = min(time + age, following[0]) if following else time + age
            slope = Fraction(0)
        elif following and following[0] - time <= age:
            until = following[0]
            slope = (following[1] - value) / (following[0] - time)
        else:
            continue
        low, high = max(start, time), min(end, until)
        if low < high:
            covered += high - low
            area += (high - low) * (value + slope * (Fraction(low + high, 2) - time))
    coverage = covered / (end - start)
    return (area / covered if covered and coverage >= rules.min_coverage else None), coverage


values = st.floats(-1000, 1000) | st.just(NAN)
some_readings = st.dictionaries(st.integers(0, 60), values, max_size=12).map(lambda found: sorted(found.items()))
some_intervals = st.lists(
    st.tuples(st.integers(-20, 100), st.integers(1, 60)).map(lambda pair: (pair[0], pair[0] + pair[1])), min_size=1
)
some_rules = st.builds(
    AlignmentRules,
    interpolation=st.sampled_from(["last", "linear"]),
    max_age_spacings=st.sampled_from([0.1, 0.5, 1.0, 1.5, 3.0, 1e30]),
    min_coverage=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)


@given(some_readings, some_intervals, some_rules)
def test_means_and_coverages_are_those_of_the_obvious_implementation(
    readings: list[Reading], intervals: list[tuple[int, int]], rules: AlignmentRules
) -> None:
    times = np.array([time for time, _ in readings], dtype=np.int64)
    numbers = np.array([value for _, value in readings], dtype=np.float64)
    starts, ends = np.array(intervals, dtype=np.int64).T
    means, coverages = time_weighted_means(times, numbers, starts, ends, rules)
    for mean, coverage, (start, end) in zip(means, coverages, intervals, strict=True):
        expected, covered = slow(readings, start, end, rules)
        assert coverage == float(covered)
        if expected is None:
            assert math.isnan(mean)
        else:
            assert mean == pytest.approx(float(expected), rel=1e-12, abs=1e-10)


@given(
    st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=70),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70))),
)
def test_a_range_sum_is_the_sum_of_the_range(terms: list[int], pairs: list[tuple[int, int]]) -> None:
    first, last = (
        np.array([min(n, len(terms)) for n in column], dtype=np.int64) for column in np.array(pairs or [(0, 0)]).T
    )
    expected = [sum(terms[a:b]) for a, b in zip(first, last, strict=True)]
    assert range_sums(np.array(terms, dtype=np.float64), first, last).tolist() == expected


@given(some_readings.filter(len), some_readings.filter(len), st.integers(1, 5))
def test_readings_are_gathered_by_parameter_however_they_are_cut(
    one: list[Reading], two: list[Reading], size: int
) -> None:
    gathered = [
        (parameter, (times - microseconds(pd.Series([MIDNIGHT]), "")) // MINUTE, numbers)
        for parameter, times, numbers in by_parameter(batches((3, one), (8, two), size=size))
    ]
    assert [parameter for parameter, _, _ in gathered] == ["3", "8"]
    for (_, minutes, numbers), readings in zip(gathered, (one, two), strict=True):
        assert minutes.tolist() == [minute for minute, _ in readings]
        np.testing.assert_array_equal(numbers, [value for _, value in readings])


def test_an_example_worked_by_hand() -> None:
    # Spacings 10 and 30, median 20, maximum age 60 minutes. Last: 5 minutes at 10 and 15 at 20.
    # Linear: 5 minutes from 15 to 20, 15 minutes from 20 to 40.
    readings = [(0, 10.0), (10, 20.0), (40, 60.0)]
    orders = frame(order(5, 25), order(90, 110))
    assert found(batches((7, readings)), orders, LAST) == [(7, 0, 17.5, 1.0), (7, 0, 60.0, 0.5)]
    assert found(batches((7, readings)), orders, LINEAR) == [(7, 0, (5 * 17.5 + 15 * 30) / 20, 1.0), (7, 0, None, 0.0)]


def test_the_rows_are_those_of_the_contract() -> None:
    orders = frame(order(0, 10), order(5, 20, product=1, output=NAN))
    table = aligned(batches((7, [(0, 1.0), (10, 2.0)]), (9, [(0, None), (10, None)])), orders).read_all()
    assert table.schema.equals(arrow_schema(AlignedWorkOrders))
    judged = split_arrow(AlignedWorkOrders, table)
    assert (judged.valid.num_rows, len(judged.records)) == (4, 0)
    assert table.slice(1, 1).to_pylist() == [
        {
            "product_id": "1",
            "completed_at": at(20),
            "parameter_id": "7",
            "started_at": at(5),
            "production": 100.0,
            "output": None,
            "value": pytest.approx(5 / 3),
            "coverage": 1.0,
        }
    ]


def test_a_reading_at_the_start_counts_and_one_at_the_end_has_no_weight() -> None:
    readings = [(0, 1.0), (10, 2.0), (20, 99.0)]
    assert found(batches((0, readings)), frame(order(10, 20))) == [(0, 0, 2.0, 1.0)]


@pytest.mark.parametrize(("rules", "value"), [(LAST, (5 * 1 + 10 * 2) / 15), (LINEAR, (5 * 1.75 + 10 * 2.5) / 15)])
def test_a_reading_in_the_middle_splits_the_interval(rules: AlignmentRules, value: float) -> None:
    readings = [(0, 1.0), (10, 2.0), (20, 3.0)]
    ((_, _, mean, coverage),) = found(batches((0, readings)), frame(order(5, 20)), rules)
    assert (mean, coverage) == (pytest.approx(value), 1.0)


def test_a_reading_is_carried_on_up_to_its_maximum_age_and_no_further() -> None:
    # Median spacing 10: known until minute 50, 30 minutes after the last reading before the gap.
    readings = [(0, 1.0), (10, 1.0), (20, 5.0), (200, 1.0), (210, 1.0)]
    orders = frame(order(25, 45), order(30, 70), order(30, 71), order(60, 80))
    assert found(batches((0, readings)), orders) == [(0, 0, 5.0, 1.0), (0, 0, 5.0, 0.5), (0, 0, None, 20 / 41), (0, 0, None, 0.0)]  # fmt: skip
    assert found(batches((0, readings)), orders, AlignmentRules(max_age_spacings=1)) [0] == (0, 0, None, 0.25)  # fmt: skip


def test_linear_does_not_bridge_a_gap_and_says_nothing_beyond_the_ends() -> None:
    readings = [(0, 0.0), (10, 10.0), (20, 20.0), (60, 60.0), (70, 70.0)]
    orders = frame(order(-10, 10), order(15, 25), order(20, 60), order(65, 90))
    expected = [(0, 0, 5.0, 0.5), (0, 0, 17.5, 0.5), (0, 0, None, 0.0), (0, 0, None, 0.2)]
    assert found(batches((0, readings)), orders, LINEAR) == expected


def test_before_the_first_reading_nothing_is_known() -> None:
    readings = [(10, 4.0), (20, 4.0)]
    assert found(batches((0, readings)), frame(order(-30, 0), order(0, 20))) == [(0, 0, None, 0.0), (0, 0, 4.0, 0.5)]


def test_a_reading_without_a_value_says_nothing_and_the_one_before_is_carried_on() -> None:
    readings = [(0, 1.0), (10, None), (15, NAN), (20, 3.0), (40, 3.0)]
    assert found(batches((0, readings)), frame(order(0, 40))) == [(0, 0, 2.0, 1.0)]


def test_a_parameter_without_any_value_has_rows_without_a_value() -> None:
    metrics = batches((0, [(0, None), (10, None)]), (1, [(0, 1.0), (10, 1.0)]))
    assert found(metrics, frame(order(0, 10))) == [(0, 0, None, 0.0), (1, 0, 1.0, 1.0)]


@pytest.mark.parametrize("rules", [LAST, LINEAR])
def test_a_single_reading_has_no_spacing_and_covers_nothing(rules: AlignmentRules) -> None:
    assert found(batches((0, [(5, 1.0)])), frame(order(0, 10)), rules) == [(0, 0, None, 0.0)]


@pytest.mark.parametrize("rules", [LAST, LINEAR])
def test_without_overlap_in_time_every_row_is_there_and_has_no_value(rules: AlignmentRules) -> None:
    orders = frame(order(1000, 1010), order(-1000, -990))
    assert found(batches((0, [(0, 1.0), (10, 2.0)])), orders, rules) == [(0, 0, None, 0.0)] * 2


def test_orders_of_two_products_may_overlap() -> None:
    readings = [(minute, float(minute // 10)) for minute in range(0, 60, 10)]
    orders = frame(order(0, 20), order(20, 40), order(10, 30, product=1), order(0, 50, product=1))
    assert [(product, value) for _, product, value, _ in found(batches((0, readings)), orders)] == [
        (0, 0.5),
        (0, 2.5),
        (1, 1.5),
        (1, 2.0),
    ]


@pytest.mark.long
@pytest.mark.parametrize("rules", [LAST, LINEAR])
def test_a_small_change_upon_a_large_offset_is_kept(rules: AlignmentRules) -> None:
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.integers(1, 1_000_003, size=20_000))
    numbers = 1e9 + rng.normal(size=20_000) / 100
    start, end = int(times[0]), int(times[-1])
    expected, _ = slow([*zip(times.tolist(), numbers.tolist(), strict=True)], start, end, rules)
    assert expected is not None
    (mean,), _ = time_weighted_means(times, numbers, np.array([start]), np.array([end]), rules)
    assert abs(Fraction(mean) - expected) < Fraction(math.ulp(1e9))


def test_an_outrageous_reading_spoils_only_the_interval_that_it_is_in() -> None:
    readings = [(0, 1e30), (10, 1.25), (20, 1.5), (30, 1.75), (40, 1.5)]
    assert found(batches((0, readings)), frame(order(0, 20), order(10, 40)))[1] == (0, 0, 1.5, 1.0)


@pytest.mark.parametrize("rules", [LAST, LINEAR])
def test_a_sum_that_floats_cannot_hold_is_no_value(rules: AlignmentRules) -> None:
    readings = [(0, -1.7e308), (10, 1.7e308), (20, 1.0), (30, 1.0), (40, 1.0)]
    orders = frame(order(0, 20), order(10, 20), order(30, 40))
    assert [value for _, _, value, _ in found(batches((0, readings)), orders, rules)] == [None, None, 1.0]


def test_times_in_milliseconds_are_as_good() -> None:
    readings = [(0, 10.0), (10, 20.0), (40, 60.0)]
    orders = frame(order(5, 25))
    in_ms = orders.assign(**{name: orders[name].dt.as_unit("ms") for name in ("completed_at", "started_at")})
    assert found(batches((7, readings), unit="ms"), in_ms) == [(7, 0, 17.5, 1.0)]


def test_without_orders_no_reading_is_read() -> None:
    def never() -> Iterator[pa.RecordBatch]:
        raise AssertionError("read")
        yield

    assert aligned(never(), frame()).read_all().num_rows == 0


def test_without_readings_there_are_no_rows() -> None:
    (batch,) = batches((0, [(0, 1.0)]))
    for nothing in ([], [batch.slice(1, 0)]):
        assert found(nothing, frame(order(0, 10))) == []


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (batches((1, [(0, 1.0)]), (0, [(0, 1.0)])), "parameter 0 comes after 1"),
        (batches((1, [(0, 1.0)]), (2, [(0, 1.0)]), (1, [(5, 1.0)]), size=1), "parameter 1 comes after 2"),
        (
            batches((1, [(5, 1.0), (0, 1.0)]), size=1),
            "of parameter 1 the one at 2024-05-20T00:00:00+00:00 comes after 2024-05-20T00:05:00+00:00",
        ),
        (batches((1, [(5, 1.0), (5, 1.0)])), "comes after 2024-05-20T00:05:00"),
    ],
)
def test_readings_out_of_order_are_refused(metrics: Iterator[pa.RecordBatch], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("+", r"\+")):
        found(metrics, frame(order(0, 10)))


def test_times_without_a_zone_are_refused() -> None:
    naive = frame(order(0, 10))
    naive["started_at"] = naive["started_at"].dt.tz_localize(None)
    with pytest.raises(ValueError, match=r"started_at is datetime64\[us\]: give the times a zone"):
        aligned(batches(), naive)
    (batch,) = batches((0, [(0, 1.0)]))
    columns = [batch["parameter_id"], batch["measured_at"].cast(pa.timestamp("us")), batch["value"]]
    with pytest.raises(ValueError, match=r"measured_at is timestamp\[us\]: give the times a zone"):
        found([pa.RecordBatch.from_arrays(columns, batch.schema.names)], frame(order(0, 10)))


def test_an_order_that_does_not_end_after_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="1 work orders do not end after they start"):
        aligned(batches(), frame(order(0, 10), order(10, 10)))


@pytest.mark.parametrize(
    "rules",
    [
        {"interpolation": "nearest"},
        {"max_age_spacings": 0},
        {"max_age_spacings": NAN},
        {"max_age_spacings": math.inf},
        {"min_coverage": -0.1},
        {"min_coverage": 1.1},
        {"min_coverage": NAN},
    ],
)
def test_rules_that_make_no_sense_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(rules))):
        dataclasses.replace(LAST, **rules)


def test_one_parameter_at_a_time_is_in_memory() -> None:
    count = 20_000
    orders = frame(*(order(i, i + 1) for i in range(100)))
    start = microseconds(orders["started_at"], "")[0]

    def metrics() -> Iterator[pa.RecordBatch]:
        for parameter in range(10, 50):
            yield pa.record_batch(
                {
                    "parameter_id": pa.repeat(str(parameter), count),
                    "measured_at": pa.array(start + np.arange(count) * 1_000_000, pa.timestamp("us", "UTC")),
                    "value": np.ones(count),
                }
            )

    tracemalloc.start()
    try:
        peaks = []
        for _ in aligned(metrics(), orders):
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert len(peaks) == 40
    assert peaks[-1] < peaks[4] + count * 8
