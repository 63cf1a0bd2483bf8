"""Ten-minute statistics beside Python's own statistics module."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_assets.systems.turbines.statistics import OUTPUT, ten_minute_statistics
from etl_assets_tests.systems.turbines.minute_tables import MIDNIGHT, Cell, at, bins, minutes, series

Key = tuple[datetime, str, str]
RANDOM = np.random.default_rng(5)
FULL_DAY: list[Cell] = (8 + RANDOM.normal(size=1440)).tolist()


def oracle(table: pa.Table, columns: Sequence[str]) -> dict[Key, tuple[float, float, float, float | None, int]]:
    """Mean, min, max, std and n of each bin, row by row with Python's statistics module."""
    last: dict[tuple[str, datetime, str], float] = {}
    for row, column in itertools.product(sorted(table.to_pylist(), key=lambda row: row["position"]), columns):
        if row[column] is not None:
            last[row["turbine"], row["timestamp"], column] = row[column]
    found: dict[Key, list[float]] = defaultdict(list)
    for (turbine, stamp, column), value in last.items():
        start = stamp.replace(minute=stamp.minute // 10 * 10, second=0, microsecond=0)
        found[start, turbine, column].append(value)
    return {
        key: (
            statistics.fmean(values),
            min(values),
            max(values),
            statistics.stdev(values) if len(values) > 1 else None,
            len(values),
        )
        for key, values in sorted(found.items())
    }


def close(found: float | None, wanted: float | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9)


def assert_equals_oracle(table: pa.Table, *columns: str) -> pa.Table:
    """Every value within 1e-9, in the order promised; gives the statistics."""
    wanted = oracle(table, columns)
    found = ten_minute_statistics(table, columns=columns)
    assert found.schema == OUTPUT
    rows = found.to_pylist()
    assert [(row["timestamp"], row["turbine"], row["source_signal"]) for row in rows] == list(wanted)
    for row, (*values, n) in zip(rows, wanted.values(), strict=True):
        assert row["n"] == n
        assert all(
            close(row[name], value) for name, value in zip(("mean", "min", "max", "std"), values, strict=True)
        ), (
            row,
            values,
        )
    return found


@pytest.mark.parametrize(
    ("samples", "count"),
    [
        (list(enumerate(FULL_DAY)), 144),
        (list(enumerate(FULL_DAY))[: 13 * 60 + 7], 79),
        ([(m, v) for m, v in enumerate(FULL_DAY) if m % 3 and not 200 <= m < 235], 141),
        ([(m, v if m % 4 else None) for m, v in enumerate(FULL_DAY)], 144),
        ([*enumerate(FULL_DAY), *((m, m / 7) for m in range(0, 1440, 9))], 144),
        ([(717, 6.25)], 1),
        (list(reversed(list(enumerate(FULL_DAY)))), 144),
        ([], 0),
    ],
    ids=["full", "partial", "gappy", "nulls", "duplicated", "one row", "reversed", "empty"],
)
def test_every_value_of_a_day_equals_pythons_statistics(samples: list[tuple[int, Cell]], count: int) -> None:
    assert assert_equals_oracle(minutes(samples), "wind_speed").num_rows == count


@pytest.mark.parametrize(
    "values",
    [
        [1e6 + noise for noise in RANDOM.normal(scale=1e-6, size=10)],
        [-1e12 + i % 3 / 4096 for i in range(10)],
        [1e16, 1.0, -1e16],
        [1e300, 1e200, 1.0, -1e300, -1e200],
        [1.7e308, 1.6e308, -1.5e308, 1e-300],
        [1e200, 2e200],
        [1e308] * 10,
        [5e-324, 1e-323, 0.0],
        [1e-170, 3e-170],
        [0.1] * 10,
        [3e30, 5.0, 6.0],
        [-0.0, 0.0],
    ],
    ids=str,
)
def test_neither_offset_nor_magnitude_costs_digits(values: list[float]) -> None:
    if max(map(abs, values)) < 1e307:
        assert_equals_oracle(series(values), "wind_speed")
    found = bins(series(values))[0]
    assert math.isclose(found["mean"], statistics.mean(values), rel_tol=1e-9)
    assert math.isclose(found["std"], statistics.stdev(values), rel_tol=1e-9)
    assert found["min"] <= found["mean"] <= found["max"]


def test_equal_values_deviate_by_nothing() -> None:
    assert [(row["mean"], row["std"]) for row in bins(series([0.1] * 9))] == [(0.1, 0.0)]


def test_a_deviation_that_no_float_can_hold_is_null() -> None:
    (row,) = bins(series([1.7e308, -1.7e308]))
    assert (row["mean"], row["min"], row["max"], row["std"], row["n"]) == (0.0, -1.7e308, 1.7e308, None, 2)


some_values = st.none() | st.floats(-50, 50) | st.floats(-1e300, 1e300) | st.sampled_from([0.0, 1e6, 1e6 + 2**-30])
some_rows = st.lists(
    st.tuples(
        st.sampled_from(["", "T01", "T02"]),
        st.datetimes(datetime(1969, 12, 30), datetime(1970, 1, 2)) | st.just(datetime(1970, 1, 1)),
        some_values,
        some_values,
        st.integers(0, 9),
    ),
    max_size=40,
)


@given(rows=some_rows)
def test_any_minutes_have_the_statistics_that_python_gives_them(rows: list[Any]) -> None:
    # Half of the instants are on the minute, so that bins have several samples and instants come twice.
    turbines, times, power, wind, positions = zip(*rows, strict=True) if rows else ((),) * 5
    stamps = [
        (time.replace(hour=0, minute=time.minute % 20, second=0, microsecond=0) if time.second % 2 else time)
        for time in times
    ]
    table = pa.table(
        {
            "turbine": pa.array(turbines, pa.string()),
            "timestamp": pa.array([stamp.replace(tzinfo=UTC) for stamp in stamps], pa.timestamp("us", "UTC")),
            "power": pa.array(power, pa.float64()),
            "wind_speed": pa.array(wind, pa.float64()),
            "position": pa.array(positions, pa.int64()),
        }
    )
    assert_equals_oracle(table, "power", "wind_speed")


def test_rows_come_by_time_then_turbine_then_signal_whatever_the_order_of_arrival() -> None:
    later = [series([3.0], begin=10, turbine=turbine) for turbine in ("T10", "T02")]
    table = pa.concat_tables([*later, series([1.0], turbine="T10")])
    table = table.append_column("power", table["wind_speed"])
    found = ten_minute_statistics(table, columns=["wind_speed", "power"])
    assert list(zip(*(found[name].to_pylist() for name in ("timestamp", "turbine", "source_signal")), strict=True)) == [
        (at(0), "T10", "power"),
        (at(0), "T10", "wind_speed"),
        (at(10), "T02", "power"),
        (at(10), "T02", "wind_speed"),
        (at(10), "T10", "power"),
        (at(10), "T10", "wind_speed"),
    ]


def test_a_row_exactly_at_the_end_of_a_bin_belongs_to_the_next() -> None:
    found = bins(minutes([(0, 1.0), (9 + 59.999999 / 60, 3.0), (10, 10.0), (1440, 7.0)]))
    assert [(row["timestamp"], row["mean"]) for row in found] == [(at(0), 2.0), (at(10), 10.0), (at(1440), 7.0)]


def test_bins_before_1970_begin_before_their_samples() -> None:
    day = datetime(1969, 12, 31, tzinfo=UTC)
    found = bins(minutes([(1429, 1.0), (1439.99, 2.0)], day=day))
    assert [row["timestamp"] for row in found] == [at(1420, day=day), at(1430, day=day)]


def test_one_sample_has_no_deviation_and_keeps_its_row() -> None:
    (row,) = bins(series([5.0], begin=23))
    assert row == {
        "timestamp": at(20),
        "turbine": "",
        "source_signal": "wind_speed",
        "mean": 5.0,
        "min": 5.0,
        "max": 5.0,
        "std": None,
        "n": 1,
        "coverage": 0.1,
        "flags": "gap;low_coverage",
    }


def test_a_bin_is_absent_for_the_column_that_has_no_sample_in_it() -> None:
    table = series([1.0, None, math.nan]).append_column("power", pa.array([None, None, math.nan], pa.float64()))
    found = ten_minute_statistics(table, columns=["power", "wind_speed"])
    assert found["source_signal"].to_pylist() == ["wind_speed"] and found["n"].to_pylist() == [1]


def test_of_a_minute_that_came_twice_the_last_position_with_a_value_counts() -> None:
    table = minutes([(0, 1.0), (1, 2.0), (0, 5.0), (2, 4.0), (1, None)])
    (row,) = bins(table)
    assert (row["n"], row["mean"], row["coverage"]) == (3, statistics.fmean([5.0, 2.0, 4.0]), 0.3)
    (row,) = bins(table.set_column(3, "position", pa.array([9, 8, 0, 0, 0])))
    assert (row["n"], row["mean"]) == (3, statistics.fmean([1.0, 2.0, 4.0]))


def test_the_signals_of_an_instant_may_come_in_rows_of_their_own() -> None:
    wind, power = series([8.0, 8.5], column="wind_speed"), series([700.0, 800.0], column="power")
    split = pa.concat_tables([wind, power], promote_options="default").set_column(
        wind.column_names.index("position"), "position", pa.array(range(4))
    )
    whole = wind.append_column("power", power["power"])
    columns = ["wind_speed", "power"]
    assert ten_minute_statistics(split, columns=columns) == ten_minute_statistics(whole, columns=columns)


@pytest.mark.parametrize("value", [-999.0, float(np.float32(-999.9))])
def test_values_that_stand_for_none_are_no_samples(value: float) -> None:
    table = series([8.0, value, 9.0, None, 9999.0])
    no_value = {"wind_speed": (-999.9, -999.0), "power": (9999.0,)}
    (row,) = ten_minute_statistics(table, columns=["wind_speed"], no_value=no_value).to_pylist()
    assert (row["n"], row["min"], row["max"], row["flags"]) == (3, 8.0, 9999.0, "gap;out_of_range;low_coverage")
    assert bins(table)[0]["n"] == 4


def test_what_is_no_direction_is_no_value_and_flagged() -> None:
    (row,) = bins(series([10.0, -999.0, 12.0, 360.5], column="wind_direction"))
    assert (row["n"], row["min"], row["max"], row["flags"]) == (2, 10.0, 12.0, "gap;out_of_range;low_coverage")
    assert bins(series([-1.0, 361.0], column="wind_direction")) == []


def test_an_impossible_direction_does_not_take_the_place_of_one_of_the_same_instant() -> None:
    table = minutes([(0, 10.0), (0, -999.0)], column="wind_direction")
    (row,) = bins(table)
    assert (row["n"], row["mean"], row["flags"]) == (1, 10.0, "gap;out_of_range;low_coverage")


def test_two_samples_of_one_minute_are_two_samples_and_one_minute_of_coverage() -> None:
    (row,) = bins(minutes([(second / 60, second / 10) for second in range(0, 600, 30)]))
    assert (row["n"], row["coverage"], row["flags"]) == (20, 1.0, "")
    (row,) = bins(minutes([(second / 60, second / 10) for second in range(0, 60, 6)]))
    assert (row["n"], row["coverage"], row["flags"]) == (10, 0.1, "gap;low_coverage")


@pytest.mark.long
def test_a_day_comes_out_the_same_alone_and_among_others() -> None:
    length = 45
    frozen: list[Cell] = [*FULL_DAY[:1430], *[9.75] * 10]
    table = pa.concat_tables(
        [
            series(frozen, turbine=turbine, day=MIDNIGHT + timedelta(days=day))
            for day in range(length)
            for turbine in ("T01", "T02", "T03")
        ]
    )
    together = ten_minute_statistics(table, columns=["wind_speed"])
    alone = ten_minute_statistics(series(frozen, turbine="T01"), columns=["wind_speed"])
    assert together.num_rows == length * 3 * 144
    for name in ("mean", "min", "max", "std", "n", "coverage", "flags"):
        values = together[name].to_numpy().reshape(length, 144, 3)
        assert (values == alone[name].to_numpy()[None, :, None]).all(), name


def test_times_in_another_zone_and_unit_are_the_same_instants() -> None:
    table = series([1.0, 2.0])
    lisbon = table.set_column(1, "timestamp", table["timestamp"].cast(pa.timestamp("ns", "Europe/Lisbon")))
    assert ten_minute_statistics(lisbon, columns=["wind_speed"]) == ten_minute_statistics(table, columns=["wind_speed"])


@pytest.mark.parametrize(
    ("table", "columns", "said"),
    [
        (
            series([1.0]).set_column(1, "timestamp", pa.array([0], pa.timestamp("us"))),
            ["wind_speed"],
            "give the times a zone",
        ),
        (series([1.0]), ["power"], "minutes lack power: they have turbine"),
        (series([1.0]), ["wind_speed", "wind_speed"], "twice"),
        (series([1.0, math.inf]), ["wind_speed"], "wind_speed has an infinite value in 1 bins"),
        (
            series([1.0]).set_column(0, "turbine", pa.array([None], pa.string())),
            ["wind_speed"],
            "1 minutes have no turbine",
        ),
        (
            pa.concat_tables(
                series([1.0], turbine=str(i), day=datetime(1 + i * 100, 1, 1, tzinfo=UTC)) for i in range(99)
            ),
            ["wind_speed"],
            "days lie between",
        ),
    ],
    ids=["naive", "missing", "twice", "infinite", "no turbine", "centuries"],
)
def test_minutes_that_make_no_sense_are_refused(table: pa.Table, columns: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ten_minute_statistics(table, columns=columns)


def directions(values: Sequence[Cell]) -> Any:
    (row,) = bins(series(values, column="wind_direction"))
    return row


def apart(one: float, other: float) -> float:
    return abs((one - other + 180) % 360 - 180)


@pytest.mark.parametrize(
    ("values", "mean", "left", "right"),
    [
        ([350.0, 10.0], 0.0, 350.0, 10.0),
        ([359.0, 1.0, 3.0], 1.0, 359.0, 3.0),
        ([350.0, 340.0], 345.0, 340.0, 350.0),
        ([360.0, 0.0], 0.0, 0.0, 0.0),
        ([270.0, 90.0, 80.0], 80.0, 270.0, 90.0),
        ([42.5] * 10, 42.5, 42.5, 42.5),
    ],
    ids=str,
)
def test_directions_are_averaged_on_the_circle(values: list[float], mean: float, left: float, right: float) -> None:
    row = directions(values)
    assert apart(row["mean"], mean) < 1e-9 and 0 <= row["mean"] < 360
    assert (row["min"], row["max"]) == (left, right)


def test_directions_that_cancel_out_have_no_mean_and_no_ends() -> None:
    row = directions([0.0, 180.0])
    assert (row["mean"], row["min"], row["max"], row["n"]) == (None, None, None, 2)
    assert row["std"] == pytest.approx(math.degrees(math.pi / 3**0.5))


def test_one_direction_has_no_deviation() -> None:
    assert directions([1.0])["std"] is None and directions([90.0, 90.0])["std"] == 0.0


def test_yamartinos_deviation_is_that_of_its_paper() -> None:
    """Its limits: the ordinary deviation for a narrow sector, 103.9° for a uniform distribution, by definition in between."""
    narrow = [(358 + 0.4 * i) % 360 for i in range(10)]
    assert directions(narrow)["std"] == pytest.approx(statistics.pstdev(358 + 0.4 * i for i in range(10)), rel=1e-3)
    assert directions([36.0 * i for i in range(10)])["std"] == pytest.approx(103.923, abs=1e-3)
    epsilon = math.sqrt(1 - (1 / 4 + 1 / 4))  # of 0° and 90°
    wanted = math.degrees(math.asin(epsilon) * (1 + 0.1547 * epsilon**3))
    assert directions([0.0, 90.0])["std"] == pytest.approx(wanted, rel=1e-4)


def test_nearly_equal_directions_keep_the_digits_of_their_deviation() -> None:
    assert directions([10.0, 10.0 + 2**-30])["std"] == pytest.approx(2**-31, rel=1e-6)


@pytest.mark.long
@given(values=st.lists(st.floats(0, 360), min_size=1, max_size=10), turn=st.sampled_from([0.0, 90.0, 180.0, 270.0]))
def test_any_directions_lie_on_the_arc_around_their_mean(values: list[float], turn: float) -> None:
    values = [(value + turn) % 360 for value in values]
    north = statistics.fmean(math.cos(math.radians(value)) for value in values)
    east = statistics.fmean(math.sin(math.radians(value)) for value in values)
    row = directions(values)
    if math.hypot(north, east) < 1e-3:
        return
    assert apart(row["mean"], math.degrees(math.atan2(east, north))) < 1e-9
    away = [(value - row["mean"] + 180) % 360 - 180 for value in values]
    assert row["min"] in values and apart(row["min"], row["mean"] + min(away)) < 1e-9
    assert row["max"] in values and apart(row["max"], row["mean"] + max(away)) < 1e-9
    if len(values) > 1:
        epsilon = math.sqrt(max(0.0, 1 - north**2 - east**2))
        wanted = math.degrees(math.asin(min(1.0, epsilon)) * (1 + (2 / math.sqrt(3) - 1) * epsilon**3))
        # The oracle has lost digits where the directions are nearly equal: 1 - R² is nothing but rounding there.
        assert row["std"] == pytest.approx(wanted, abs=1e-5)
