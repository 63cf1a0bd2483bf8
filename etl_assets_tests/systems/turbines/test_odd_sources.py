"""Sources that are not as they should be, from their answer to the tables: what is good stays, and what is wrong is said."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from etl_assets.cli import run
from etl_assets.systems.turbines.automation import changed_signals
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.source import TurbinesApi
from etl_assets_tests.core.sources.canned import Canned, CannedServer
from etl_assets_tests.systems.outages.runs import metadata
from etl_assets_tests.systems.turbines.test_assets import STATISTICS, Job
from etl_assets_tests.systems.turbines.world import FIRST, World, at

Row = dict[str, Any]


def minute(number: int, **values: Any) -> Row:
    """A row of a minute of the first day."""
    return {"timestamp": (at("00:00") + timedelta(minutes=number)).isoformat(), **values}


def good(number: int) -> Row:
    return minute(number, wind_speed=8 + number % 7 / 4, power=900 + number % 7)


def answer(*rows: Row, **headers: str) -> Canned:
    return Canned(body=json.dumps(rows).encode(), headers={n.lower().replace("_", "-"): v for n, v in headers.items()})


def hour(make: Callable[[int], Row] = good) -> Canned:
    """An hour of minutes."""
    return answer(*map(make, range(60)))


@pytest.fixture
def source(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedServer]:
    """A source that says what it is told to; the world loads from it."""
    with CannedServer().served() as server:
        monkeypatch.setenv("TURBINES_API_URL", server.url)
        yield server


@pytest.fixture
def load(source: CannedServer, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Loads the first day from answers by the command: its exit code, and what it says on the two streams."""

    def loaded(*answers: Canned, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        source.gives(*answers)
        code = run(["turbines", "load", "2024-05-20", *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return loaded


def loaded_bins(world: World) -> list[tuple[Any, ...]]:
    return world.query(
        "SELECT turbine, source_signal, count(*), sum(n), string_agg(DISTINCT flags, ',') FROM bin GROUP BY 1, 2 ORDER BY 1, 2"
    )


BOTH = [("", "power", 6, 60, ""), ("", "wind_speed", 6, 60, "")]


# Rows of others


def named(number: int, turbine: str) -> Row:
    return {**good(number), "turbine": turbine}


def test_each_turbine_has_its_own_rows_of_a_source_that_sends_all(
    world: World, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBINES", "T01,T02")
    everybody = answer(*(named(number, name) for number in range(60) for name in ("T01", "T02", "T03")))
    code, _, err = load(everybody)
    assert (code, err) == (0, "240 rows are of other turbines than was asked for, left out\n")
    assert {(turbine, n, flags) for turbine, _, _, n, flags in loaded_bins(world)} == {("T01", 60, ""), ("T02", 60, "")}


def test_a_source_that_sends_only_other_turbines_is_refused_and_nothing_is_stored(
    world: World, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBINES", "T01,T02")
    code, _, err = load(hour(lambda number: named(number, "T01")))
    assert code == 1
    assert "only rows of other turbines came (T01), none of T02" in err
    assert not world.written()


# Silence


def test_the_signals_of_an_instant_in_rows_of_their_own_are_those_of_one_row(world: World, load: Any) -> None:
    load(hour())
    before = world.tables()
    rows = [good(number) for number in range(60)]
    split = [{"timestamp": row["timestamp"], name: row[name]} for name in ("wind_speed", "power") for row in rows]
    assert "48 unchanged" in load(answer(*split))[1]
    assert world.tables() == before
    assert loaded_bins(world) == BOTH


def test_a_signal_without_a_value_is_said_and_stays_unless_it_is_to_be_replaced(world: World, load: Any) -> None:
    load(hour())
    before = world.tables()
    without_power = hour(lambda number: {**good(number), "power": None})
    code, _, err = load(without_power)
    assert (code, err) == (
        0,
        "2024-05-20: the source has no value of power; statistics that are there stay as they are\n",
    )
    assert world.tables() == before
    _, out, err = load(without_power, options=("--replace-empty",))
    assert err == "2024-05-20: the source has no value of power; what there was of that is deleted\n"
    assert "24 values (0 inserted, 0 updated, 24 deleted, 24 unchanged)" in out
    assert loaded_bins(world) == BOTH[1:]


def test_what_one_turbine_lacks_is_said_of_it(world: World, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBINES", "T01,T02")
    load(hour())
    before = world.tables()
    _, _, err = load(hour(), hour(lambda number: {**good(number), "power": None}))
    assert "the source has no value of power of T02; statistics" in err
    assert world.tables() == before
    _, _, err = load(hour(), answer())
    assert "the source has no value of T02; statistics" in err
    assert world.tables() == before


def test_a_day_without_a_value_stays_unless_it_is_to_be_replaced(world: World, load: Any) -> None:
    load(hour())
    before = world.tables()
    assert "the source has no value of it; statistics that are there stay" in load(answer())[2]
    assert world.tables() == before
    code, out, err = load(answer(), options=("--replace-empty",))
    assert (code, loaded_bins(world)) == (0, [])
    assert "2024-05-20: 0 bins, 0 values (0 inserted, 0 updated, 48 deleted, 0 unchanged)" in out
    assert "the source has no value of it; what there was of that is deleted" in err


@pytest.mark.long
def test_an_asset_says_what_has_no_value_and_replaces_it_when_it_is_told_to(
    world: World, source: CannedServer, definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    job = Job(definitions, instance)
    source.gives(hour())
    assert metadata(job(), STATISTICS, "2024-05-20")["without_value"] == "none"
    before = world.tables()
    source.gives(hour(lambda number: {**good(number), "power": None}))
    assert metadata(job(), STATISTICS, "2024-05-20")["without_value"] == "power"
    assert world.tables() == before
    assert job(replace_empty=True).success
    assert loaded_bins(world) == BOTH[1:]
    source.gives(answer())
    assert job(replace_empty=True).success
    assert loaded_bins(world) == []


# No value


def test_values_that_stand_for_none_are_named_by_a_setting_and_kept_in_the_raw_layer(
    world: World, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBINES_NO_VALUE", "-999, power=0")
    load(hour(lambda number: minute(number, wind_speed=-999 if number % 10 == 0 else 8 + number % 7, power=0)))
    assert loaded_bins(world) == [("", "wind_speed", 6, 54, "gap")]
    assert world.raw()["wind_speed"].to_pylist().count(-999) == 6


@pytest.mark.parametrize("given", ["none", "rotor=1", "power=", "power=nan", "inf"])
def test_a_value_that_is_none_is_a_number_of_a_signal(world: World, load: Any, monkeypatch: Any, given: str) -> None:
    monkeypatch.setenv("TURBINES_NO_VALUE", given)
    code, _, err = load(hour())
    assert code == 2
    assert f"TURBINES_NO_VALUE: '{given}' must be a number, or a signal and a number" in err


# A cell that is no number


def with_a_bad_cell(number: int) -> Row:
    return {**good(number), "power": "12,5"} if number == 30 else good(number)


def entry_of(world: World) -> str:
    ((entry, outcome, faults),) = world.query("SELECT id, outcome, faults FROM etl.quarantine", world.database)
    assert (outcome, json.loads(faults)) == ("flagged", [{"column": "power", "rule": "not a number", "raw": "12,5"}])
    return str(entry)


def power_at_half_past(world: World) -> Any:
    ((value,),) = world.query(
        "SELECT max FROM ten_minute WHERE source_signal = 'power' AND timestamp = '2024-05-20T00:30Z'"
    )
    return value


def test_a_cell_that_is_no_number_is_in_quarantine_and_its_row_stays(world: World, load: Any) -> None:
    code, _, err = load(hour(with_a_bad_cell))
    assert (code, err) == (
        0,
        "1 row has a value that is no number, and nothing in its place: see `etl-assets quarantine list`\n",
    )
    assert loaded_bins(world) == [("", "power", 6, 59, ",gap"), ("", "wind_speed", 6, 60, "")]
    entry_of(world)


def test_a_cell_is_replayed_into_its_row_and_outlives_the_next_load(world: World, load: Any) -> None:
    load(hour(with_a_bad_cell))
    entry, rows = entry_of(world), world.raw().num_rows
    for _ in range(2):
        assert run(["quarantine", "replay", entry, "--set", "power=1250"]) == 0
        assert world.raw().num_rows == rows
        assert world.raw()["power"].null_count == 0
    code, _, err = load(hour(with_a_bad_cell))
    assert (code, err) == (0, "")
    assert loaded_bins(world) == [("", "power", 6, 60, ""), ("", "wind_speed", 6, 60, "")]
    assert power_at_half_past(world) == 1250
    assert world.query("SELECT status FROM etl.quarantine", world.database) == [("replayed",)]
    query = "SELECT received, inserted, unchanged, deduplicated FROM etl.ledger WHERE asset LIKE '%raw%' ORDER BY committed_at DESC"
    assert world.query(query, world.database)[0] == (61, 0, 60, 1)


def test_cells_are_replayed_by_a_filter(world: World, load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    load(hour(with_a_bad_cell))
    assert run(["quarantine", "replay", "--column", "power", "--set", "power=1250"]) == 0
    assert "stored in turbines.raw_turbine_signals" in capsys.readouterr().out


def test_a_cell_that_is_no_number_still_is_not_stored(
    world: World, load: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    load(hour(with_a_bad_cell))
    assert run(["quarantine", "replay", entry_of(world), "--set", "power=much"]) == 1
    assert "power: not a number" in capsys.readouterr().out
    assert run(["quarantine", "replay", entry_of(world), "--set", "timestamp=2024-05-21T00:00:00"]) == 1
    assert world.raw()["power"].null_count == 1


def test_a_row_without_a_time_is_replayed_behind_the_others_of_its_turbine(
    world: World, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBINES", "T01,T02")
    bad = [{**good(30), "timestamp": "half past"} if number == 30 else good(number) for number in range(60)]
    assert load(hour(), answer(*bad))[0] == 0
    ((entry,),) = world.query("SELECT id FROM etl.quarantine", world.database)
    assert run(["quarantine", "replay", entry, "--set", "timestamp=2024-05-20T00:30:00"]) == 0
    assert load(hour(), answer(*bad))[2] == ""
    assert {(turbine, n) for turbine, _, _, n, _ in loaded_bins(world)} == {("T01", 60), ("T02", 60)}


@pytest.mark.long
def test_a_day_with_a_corrected_cell_is_not_loaded_for_ever(
    world: World, source: CannedServer, definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    source.gives(hour(with_a_bad_cell))
    job = Job(definitions, instance)
    assert job().success
    assert run(["quarantine", "replay", entry_of(world), "--set", "power=1250"]) == 0
    assert job().success
    settings = TurbinesSettings.load()
    assert power_at_half_past(world) == 1250
    assert changed_signals(settings, TurbinesApi.from_settings(settings), world.database, instance, FIRST) is None


# Times and names


def test_minutes_that_are_labelled_by_their_end_are_those_before_it(
    world: World, load: Any, source: CannedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBINES_LABEL", "end")
    load(answer(*(good(number) for number in range(1, 1441))))
    assert [(count, n, flags) for _, _, count, n, flags in loaded_bins(world)] == [(144, 1440, "")] * 2


def test_a_source_that_spells_a_signal_otherwise_is_asked_as_it_spells(world: World, load: Any) -> None:
    unknown = Canned(400, b'{"detail": "Invalid column names"}')
    spelled = hour(lambda number: minute(number, ambient_temprature=9 + number % 7))
    for name in ("ambient_temperature", "ambient_temprature"):
        assert load(unknown, spelled, options=("--columns", name))[0] == 0
    assert loaded_bins(world) == [("", "ambient_temperature", 6, 60, "")]


# Pages, and answers of which nothing can be read


def test_a_day_in_pages_is_one_day(world: World, load: Any) -> None:
    rows = [good(number) for number in range(60)]
    load(answer(*rows[:25], Link='</data?page=2>; rel="next"'), answer(*rows[25:]))
    assert loaded_bins(world) == BOTH


@pytest.mark.parametrize(
    "headers", [{"Link": '<http://127.0.0.1:9/data?page=2>; rel="next"'}, {"Content_Range": "rows 0-24/60"}]
)
def test_a_page_of_a_day_never_replaces_it(world: World, load: Any, headers: dict[str, str]) -> None:
    load(hour())
    before = world.tables()
    assert load(answer(*map(good, range(25)), **headers))[0] == 1
    assert world.tables() == before


def test_times_of_which_none_can_be_read_fail_and_nothing_is_changed(world: World, load: Any) -> None:
    load(hour())
    before = world.tables()
    code, _, err = load(hour(lambda number: {**good(number), "timestamp": f"20. May, minute {number}"}))
    assert code == 1
    assert "none of the 60 rows could be read, the first for its timestamp '20. May, minute 0', not a time" in err
    assert world.tables() == before
    assert world.query("SELECT count(*) FROM etl.quarantine", world.database) == [(0,)]
