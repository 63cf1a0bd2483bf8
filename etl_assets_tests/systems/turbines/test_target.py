"""The target database: what is replaced, which signals there are, and what the view makes of them."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.inputs import Inputs
from etl_assets.errors import PermanentError
from etl_assets.systems.turbines.contracts import STATISTICS
from etl_assets.systems.turbines.databases import StoredDay, days_with_bins, signal_ids, store_days
from etl_assets.systems.turbines.statistics import OUTPUT
from etl_assets.systems.turbines.transform import DAY, Statistics

DATE = date(2024, 5, 20)
Bins = Mapping[tuple[int, str, str], float | None]


def bins(values: Bins) -> pa.Table:
    """Bins by hour after the first midnight, turbine and column, all statistics of one value."""
    start = datetime(2024, 5, 20, tzinfo=UTC)
    rows = [
        {
            "timestamp": start + timedelta(hours=hour),
            "turbine": turbine,
            "source_signal": column,
            **dict.fromkeys(STATISTICS, value),
            "n": 1,
            "coverage": 0.1,
            "flags": "gap",
        }
        for (hour, turbine, column), value in values.items()
    ]
    return pa.Table.from_pylist(rows, schema=OUTPUT)


def store(
    database: Database, values: Bins, *turbines: str, columns: Sequence[str] = ("power",), days: int = 1
) -> list[StoredDay]:
    of_days = {DATE + number * DAY: dict.fromkeys(turbines or ("",), columns) for number in range(days)}
    return store_days(database, Statistics(bins(values), of_days, tuple(columns)), inputs=Inputs())


def query(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        return connection.execute(statement.encode()).fetchall()


def there(database: Database) -> dict[tuple[int, str, str], float | None]:
    """Means of the view, as `bins` takes them."""
    found = query(database, "SELECT timestamp, turbine, source_signal, mean FROM ten_minute")
    start = datetime(2024, 5, 20, tzinfo=UTC)
    return {(int((t - start) / timedelta(hours=1)), turbine, column): mean for t, turbine, column, mean in found}


def test_a_day_is_replaced_for_the_turbines_and_columns_that_are_named(target_database: Database) -> None:
    everything = {(hour, t, c): 1.0 for hour in (0, 23, 24) for t in ("a", "b") for c in ("power", "wind_speed")}
    store(target_database, everything, "a", "b", columns=("power", "wind_speed"), days=2)
    (done,) = store(target_database, {(1, "a", "power"): 2.0}, "a")
    replaced = {(0, "a", "power"), (23, "a", "power")}
    assert there(target_database) == {k: v for k, v in everything.items() if k not in replaced} | {
        (1, "a", "power"): 2.0
    }
    assert (done.bins.change.deleted, done.bins.change.inserted) == (2, 1)
    assert (done.data.change.deleted, done.data.change.inserted) == (8, 4)


def test_of_each_turbine_its_own_signals_are_replaced(target_database: Database) -> None:
    everything = {(0, t, c): 1.0 for t in ("a", "b") for c in ("power", "wind_speed")}
    store(target_database, everything, "a", "b", columns=("power", "wind_speed"))
    values = {(0, "a", "power"): 2.0, (0, "b", "wind_speed"): 2.0}
    signals = {DATE: {"a": ["power"], "b": ["wind_speed"]}}
    store_days(target_database, Statistics(bins(values), signals, ("power", "wind_speed")), inputs=Inputs())
    assert there(target_database) == everything | values


def test_several_days_are_stored_together_with_an_entry_of_each_table_and_day(target_database: Database) -> None:
    done = store(target_database, {(0, "", "power"): 1.0, (24, "", "power"): 2.0}, days=3)
    assert [(one.day.day, one.data.received, one.bins.received) for one in done] == [(20, 4, 1), (21, 4, 1), (22, 0, 0)]
    assert query(
        target_database, "SELECT asset, partition, inserted FROM etl.ledger WHERE partition <> '' ORDER BY 1, 2"
    ) == [
        (table, f"2024-05-{day}", count)
        for table, most in (("public.bin", 1), ("public.data", 4))
        for day, count in ((20, most), (21, most), (22, 0))
    ]
    assert query(target_database, "SELECT count(DISTINCT xmin::text) FROM etl.ledger WHERE partition <> ''") == [(1,)]


@pytest.mark.long
def test_a_value_that_is_not_defined_keeps_its_bin(target_database: Database) -> None:
    store(target_database, {(0, "", "power"): None})
    assert there(target_database) == {(0, "", "power"): None}
    assert query(target_database, "SELECT count(*), count(value) FROM data") == [(4, 0)]


def test_what_the_target_refuses_leaves_all_days_as_they_were(target_database: Database) -> None:
    store(target_database, {(0, "", "power"): 1.0, (24, "", "power"): 1.0}, days=2)
    with target_database.connect() as connection:
        connection.execute("ALTER TABLE bin ADD CONSTRAINT early CHECK (timestamp < '2024-05-21 12:00Z')")
    with pytest.raises(PermanentError, match="early"):
        store(target_database, {(0, "", "power"): 2.0, (47, "", "power"): 2.0}, days=2)
    assert there(target_database) == {(0, "", "power"): 1.0, (24, "", "power"): 1.0}
    assert query(target_database, "SELECT count(*) FROM etl.ledger WHERE partition <> ''") == [(4,)]


def test_signals_have_the_same_ids_for_ever_and_new_ones_the_next(target_database: Database) -> None:
    first = signal_ids(target_database, turbines=[""], columns=["power"])
    assert first == {("", "power", what): number for number, what in enumerate(STATISTICS, 1)}
    more = signal_ids(target_database, turbines=["", "T01"], columns=["ambient_temperature", "power"])
    assert {key: more[key] for key in first} == first
    assert sorted(more.values()) == list(range(1, 17))
    assert query(target_database, "SELECT name, turbine FROM signal WHERE id = 2") == [("power_min", "")]


@pytest.mark.long
def test_signals_that_somebody_else_has_entered_are_left_alone(target_database: Database) -> None:
    with target_database.connect() as connection:
        connection.execute("INSERT INTO signal VALUES (40, 'rotor', ''), (7, 'power_mean', 'T01')")
    found = signal_ids(target_database, turbines=["T01"], columns=["power"])
    assert found == {("T01", "power", what): n for what, n in zip(STATISTICS, (7, 41, 42, 43), strict=True)}


@pytest.mark.long
def test_many_that_enter_the_same_signals_at_once_get_the_same_ids(target_database: Database) -> None:
    def enter(number: int) -> Any:
        columns = ["power", "wind_speed"][:: 1 if number % 2 else -1]
        return signal_ids(target_database, turbines=["a", "b"], columns=columns)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(enter, range(8)))
    assert all(one == found[0] for one in found)
    assert query(target_database, "SELECT count(*), count(DISTINCT (name, turbine)), max(id) FROM signal") == [
        (16, 16, 16)
    ]


@pytest.mark.long
def test_the_days_that_are_there_are_counted_in_utc_whatever_zone_the_session_has(target_database: Database) -> None:
    store(target_database, {(0, "", "power"): 1.0, (23, "", "power"): 1.0, (48, "", "power"): 1.0}, days=3)
    name = query(target_database, "SELECT current_database()")[0][0]
    with psycopg.connect(target_database.url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'Pacific/Kiritimati'".encode())
    last = DATE + 2 * DAY
    assert days_with_bins(target_database, first=DATE, last=last) == {DATE: 2, last: 1}
    assert days_with_bins(target_database, first=DATE, last=DATE + DAY) == {DATE: 2}
    assert days_with_bins(target_database, first=last, last=DATE) == {}


@pytest.mark.long
def test_an_underscore_in_a_name_is_no_wildcard_of_the_view(target_database: Database) -> None:
    with target_database.connect() as connection:
        connection.execute("INSERT INTO signal VALUES (90, 'windXspeed_mean', ''), (91, 'wind_speed_mean', 'T01')")
    store(target_database, {(0, "", "wind_speed"): 3.0}, columns=("wind_speed",))
    assert there(target_database) == {(0, "", "wind_speed"): 3.0}
