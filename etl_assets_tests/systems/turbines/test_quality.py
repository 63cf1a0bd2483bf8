"""Flags: each raised by its fault, in the bins of that fault, and by nothing a healthy turbine does."""

import statistics
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.systems.turbines.contracts import FLAGS, SIGNALS
from etl_assets.systems.turbines.simulator.data import planted, rows
from etl_assets.systems.turbines.statistics import (
    FROZEN_SAMPLES,
    LOW_COVERAGE,
    MINUTE_US,
    SPIKE_LEAST,
    SPIKE_MADS,
    SPIKE_REACH_US,
    SPIKE_SAMPLES,
    SPIKE_STEP,
    ordered,
    spikes,
    summary,
    ten_minute_statistics,
)
from etl_assets_tests.systems.turbines.minute_tables import MIDNIGHT, Cell, at, bins, minutes, series

# A healthy hour of each signal: no two neighbours are equal, nothing stands out.
WIND: list[Cell] = [8 + 0.25 * (i % 7) for i in range(60)]
POWER: list[Cell] = [900 + 25.0 * (i % 7) for i in range(60)]
AIR: list[Cell] = [15 + 0.1 * (i % 7) for i in range(120)]
VANE: list[Cell] = [(355 + 3.0 * (i % 7)) % 360 for i in range(60)]


def flagged(table: pa.Table, flag: str) -> list[int]:
    """Minutes after midnight at which the bins with the flag begin."""
    assert flag in FLAGS
    return [
        round((row["timestamp"] - MIDNIGHT) / timedelta(minutes=1))
        for row in bins(table)
        if flag in row["flags"].split(";")
    ]


def changed(values: Sequence[Cell], **new: Cell) -> list[Cell]:
    """The values, other ones at `m<minute>`."""
    return [new.get(f"m{i}", value) for i, value in enumerate(values)]


def held(values: Sequence[Cell], value: float, begin: int, end: int) -> list[Cell]:
    return [value if begin <= i < end else old for i, old in enumerate(values)]


@pytest.mark.parametrize(
    ("column", "values"),
    [("wind_speed", WIND), ("power", POWER), ("ambient_temperature", AIR), ("wind_direction", VANE)],
)
def test_a_healthy_signal_has_no_flag(column: str, values: list[Cell]) -> None:
    assert [row["flags"] for row in bins(series(values, column=column))] == [""] * (len(values) // 10)


def test_a_minute_without_a_row_or_a_value_is_a_gap_of_its_bin() -> None:
    table = minutes([(m, None if m == 34 else value) for m, value in enumerate(WIND) if m != 17])
    assert flagged(table, "gap") == [10, 30]
    assert flagged(table, "low_coverage") == []


@pytest.mark.parametrize(("there", "raised"), [(7, []), (6, [0]), (1, [0])])
def test_coverage_is_low_below_two_thirds(there: int, raised: list[int]) -> None:
    assert 0.6 < LOW_COVERAGE < 0.7
    assert flagged(series(WIND[:there]), "low_coverage") == raised


def test_a_minute_that_came_twice_is_a_duplicate_even_with_the_same_value() -> None:
    table = minutes([*enumerate(WIND), (25, WIND[25]), (25, WIND[25]), (40, 9.0)])
    assert flagged(table, "duplicate") == [20, 40]
    assert flagged(table, "gap") == []


def test_the_duplicate_of_one_turbine_is_none_of_another() -> None:
    table = pa.concat_tables([series(WIND, turbine="T01"), minutes([(0, 8.0), (0, 8.5)], turbine="T02")])
    assert [(row["turbine"], row["timestamp"]) for row in bins(table) if "duplicate" in row["flags"]] == [
        ("T02", MIDNIGHT)
    ]


@pytest.mark.parametrize("column", SIGNALS)
def test_a_value_outside_the_physical_range_is_flagged_and_counted_in_unless_it_is_no_direction(column: str) -> None:
    signal = SIGNALS[column]
    for value, raised in [
        (signal.lowest, []),
        (signal.highest, []),
        (np.nextafter(signal.lowest, -np.inf), [0]),
        (np.nextafter(signal.highest, np.inf), [0]),
    ]:
        table = series([signal.lowest + 1, value], column=column)
        assert flagged(table, "out_of_range") == raised
        assert bins(table)[0]["n"] == (1 if signal.circular and raised else 2)
    table = series([signal.highest + 100], column=column)
    assert [row["mean"] for row in bins(table)] == ([] if signal.circular else [signal.highest + 100])


def test_every_bin_that_a_run_of_equal_values_touches_is_frozen() -> None:
    least = FROZEN_SAMPLES["wind_speed"]
    assert flagged(series(held(WIND, 8.1, 18, 18 + least)), "frozen") == [10, 20]
    assert flagged(series(held(WIND, 8.1, 18, 18 + least - 1)), "frozen") == []
    assert flagged(series(held(WIND, 8.1, 15, 45)), "frozen") == [10, 20, 30, 40]
    assert flagged(series(held(WIND, 8.1, 50, 60)), "frozen") == [50]
    assert flagged(series(held(held(WIND, 8.1, 0, 10), 8.2, 40, 50)), "frozen") == [0, 40]


def test_the_air_is_frozen_after_an_hour_only() -> None:
    assert flagged(series(held(AIR, 15.05, 30, 90), column="ambient_temperature"), "frozen") == [30, 40, 50, 60, 70, 80]
    assert flagged(series(held(AIR, 15.05, 30, 89), column="ambient_temperature"), "frozen") == []


def test_a_run_goes_on_over_a_short_silence_and_ends_in_a_long_one() -> None:
    run = held(WIND, 8.1, 10, 22)
    assert flagged(minutes([(m, v) for m, v in enumerate(run) if not 13 <= m < 15]), "frozen") == [10, 20]
    apart = [(m if m < 16 else m + 20, v) for m, v in enumerate(run)]
    assert flagged(minutes(apart), "frozen") == []


@pytest.mark.parametrize("column", ["wind_speed", "power"])
def test_a_turbine_at_rest_is_not_frozen(column: str) -> None:
    assert flagged(series([0.0] * 60, column=column), "frozen") == []


def test_power_held_at_its_maximum_is_rated_and_below_it_frozen() -> None:
    at_rated = held(POWER, 2000.0, 30, 60)
    assert flagged(series(at_rated, column="power"), "frozen") == []
    assert flagged(series(held(at_rated, 950.0, 0, 20), column="power"), "frozen") == [0, 10]
    assert flagged(series(held(WIND, 11.0, 30, 60)), "frozen") == [30, 40, 50]


def test_a_spike_or_an_impossible_value_is_not_the_maximum_that_rated_power_is_told_by() -> None:
    at_rated = held(POWER, 2000.0, 30, 60)
    for impossible in (9000.0, 65_535.0):
        assert flagged(series(changed(at_rated, m15=impossible), column="power"), "frozen") == []


def test_power_that_is_one_value_all_day_is_frozen() -> None:
    assert flagged(series([1234.5] * 20, column="power"), "frozen") == [0, 10]


def test_another_turbines_maximum_does_not_count() -> None:
    table = pa.concat_tables(
        [
            series(held(POWER, 3000.0, 0, 20), column="power", turbine="T01"),
            series(held(POWER, 2000.0, 30, 60), column="power", turbine="T02"),
        ]
    )
    assert not [row for row in bins(table) if "frozen" in row["flags"]]


def test_runs_and_surroundings_end_at_midnight() -> None:
    run = minutes([(m, 8.1) for m in range(1431, 1449)])
    assert flagged(run, "frozen") == []
    spike = minutes([(1430 + m, 40.0 if m == 10 else value) for m, value in enumerate(WIND[:20])])
    assert flagged(spike, "spike") == []


@pytest.mark.parametrize(
    ("column", "values", "spike"),
    [
        ("wind_speed", WIND, 40.0),
        ("wind_speed", WIND, 0.0),
        ("power", POWER, 9000.0),
        ("ambient_temperature", AIR, 21.0),
        ("wind_direction", VANE, 180.0),
        ("wind_direction", VANE, 75.0),
    ],
)
def test_a_minute_that_stands_out_is_a_spike(column: str, values: list[Cell], spike: float) -> None:
    assert flagged(series(changed(values, m25=spike), column=column), "spike") == [20]


def test_a_spike_of_some_minutes_is_one_and_a_level_that_stays_is_none() -> None:
    assert flagged(series(held(WIND, 40.0, 28, 33)), "spike") == [30]
    assert flagged(series(held(WIND, 40.0, 28, 34)), "spike") == []
    assert flagged(series(held(WIND, 40.0, 33, 60)), "spike") == []
    assert flagged(series([i * 1.0 for i in range(60)]), "spike") == []


def test_beside_a_constant_the_physical_step_alone_decides() -> None:
    calm: list[Cell] = [0.0] * 30
    step = SPIKE_STEP["wind_speed"]
    assert flagged(series(changed(calm, m15=step)), "spike") == [10]
    assert flagged(series(changed(calm, m15=step - 0.01)), "spike") == []


def test_what_gusts_do_is_no_spike() -> None:
    gusts: list[Cell] = [12 + 6.0 * (i % 3 - 1) for i in range(60)]
    assert flagged(series(changed(gusts, m25=22.0)), "spike") == []
    assert flagged(series(changed(WIND, m25=22.0)), "spike") == [20]


def test_a_step_beside_a_gap_is_no_spike_and_a_spike_beside_a_gap_is_one() -> None:
    before: list[tuple[float, Cell]] = list(enumerate(WIND[:20]))
    assert flagged(minutes([*before, (20, 30.0), (21, 30.5), (22, 30.2)]), "spike") == []
    assert flagged(minutes([*before, (20, 30.0)]), "spike") == []
    assert flagged(minutes([*before, (20, 30.0), (21, 8.0), (22, 8.5)]), "spike") == [20]
    after: list[tuple[float, Cell]] = [(m + 60, value) for m, value in enumerate(WIND[:20])]
    assert flagged(minutes([*before, *after]), "spike") == []
    assert flagged(minutes([*before[:-3], (17, 40.0), *before[-2:], *after]), "spike") == [10]


def test_north_is_no_spike_of_a_vane() -> None:
    assert flagged(series([359.0, 1.0] * 30, column="wind_direction"), "spike") == []


def test_a_column_that_is_not_known_is_neither_out_of_range_nor_spiky_and_can_be_frozen() -> None:
    assert {row["flags"] for row in bins(series(changed(WIND, m25=1e9), column="rotor_speed"))} == {""}
    assert len(flagged(series([7.0] * 60, column="rotor_speed"), "frozen")) == 6


def test_flags_are_written_in_their_order() -> None:
    table = minutes([*((m, 8.1) for m in range(10, 22)), (10, 8.1), (22, -1.0)])
    assert [row["flags"] for row in bins(table)] == ["duplicate;frozen", "gap;out_of_range;frozen;low_coverage"]


@pytest.mark.long
@given(
    times=st.lists(st.integers(0, 40), min_size=1, max_size=30, unique=True).map(sorted),
    data=st.data(),
)
@settings(max_examples=60)
def test_spikes_are_those_of_the_obvious_way(times: list[int], data: Any) -> None:
    values = data.draw(st.lists(st.sampled_from([8.0, 8.5, 9.0, 14.0, 20.0]), min_size=len(times), max_size=len(times)))
    table = minutes(list(zip(times, values, strict=True)))
    wanted = []
    for i, (time, value) in enumerate(zip(times, values, strict=True)):
        near = [abs(other - time) * MINUTE_US <= SPIKE_REACH_US for other in times]
        sides = [
            [values[j] for j in places if 0 <= j < len(times) and near[j]]
            for places in (range(i - SPIKE_SAMPLES, i), range(i + 1, i + 1 + SPIKE_SAMPLES))
        ]
        if min(map(len, sides)) < SPIKE_LEAST:
            continue
        left, right = (value - statistics.median(side) for side in sides)
        window = [*sides[0], value, *sides[1]]
        median = statistics.median(window)
        mad = 1.4826 * statistics.median(abs(one - median) for one in window)
        step = SPIKE_STEP["wind_speed"]
        if (min(left, right) >= step or max(left, right) <= -step) and abs(value - median) > SPIKE_MADS * mad:
            wanted.append(i)
    samples = ordered(table, ["wind_speed"]).samples("wind_speed", table["wind_speed"])
    assert spikes("wind_speed", samples).tolist() == wanted


def test_every_fault_that_the_simulator_plants_is_found_and_little_else() -> None:
    start, days, turbines = date(2024, 5, 20), 10, ("T01", "T02")
    table = pa.Table.from_batches(rows(start, days, turbines))
    table = table.set_column(2, "timestamp", table["timestamp"].cast(pa.timestamp("us", "UTC")))
    table = table.append_column("position", table["id"])
    found = ten_minute_statistics(table, columns=list(SIGNALS)).to_pylist()
    faults = [one for one in planted(start, days, turbines) if one.kind in FLAGS]
    assert {one.kind for one in faults} == {"gap", "frozen", "spike", "out_of_range"}
    explained: set[tuple[datetime, str, str, str]] = set()
    for one in faults:
        touched = [
            row
            for row in found
            if row["turbine"] == one.turbine
            and row["source_signal"] in (one.signal or tuple(SIGNALS))
            and row["timestamp"] < one.end
            and one.begin < row["timestamp"] + timedelta(minutes=10)
        ]
        assert all(one.kind in row["flags"].split(";") for row in touched), one
        # A value that cannot be stands out of its surroundings as well.
        raised = {one.kind, "spike"} if one.kind == "out_of_range" else {one.kind}
        explained |= {
            (row["timestamp"], row["turbine"], row["source_signal"], flag) for row in touched for flag in raised
        }
    unexplained = [
        row
        for row in found
        for flag in row["flags"].split(";")
        if flag in ("frozen", "spike", "out_of_range")
        and (row["timestamp"], row["turbine"], row["source_signal"], flag) not in explained
    ]
    assert len(unexplained) <= len(found) // 500


def test_the_summary_counts_bins_missing_bins_and_flags_of_each_column() -> None:
    table = series(changed(WIND, m25=40.0)).append_column("power", pa.array([*POWER[:55], *[None] * 5], pa.float64()))
    found = ten_minute_statistics(table, columns=["wind_speed", "power"])
    none = dict.fromkeys(FLAGS, 0)
    assert summary(found) == {
        "power": {"bins": 6, "missing": 138, **none, "gap": 1, "low_coverage": 1},
        "wind_speed": {"bins": 6, "missing": 138, **none, "spike": 1},
    }


def test_the_summary_knows_what_was_asked_for_and_did_not_come() -> None:
    found = ten_minute_statistics(series(WIND, turbine="T01"), columns=["wind_speed"])
    asked = summary(
        found, columns=["power"], turbines=["T01", "T02"], days=[MIDNIGHT.date(), at(1440).date(), date(1960, 1, 1)]
    )
    assert list(asked) == ["power", "wind_speed"]
    assert (asked["power"]["bins"], asked["power"]["missing"]) == (0, 864)
    assert (asked["wind_speed"]["bins"], asked["wind_speed"]["missing"]) == (6, 858)
    assert summary(found.slice(0, 0)) == {}
