"""The system without an orchestrator: as a function, and as the command `etl-assets turbines load`."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pyarrow as pa
import pytest

from etl_assets.cli import run
from etl_assets.core.contracts import Fault, Record, Split
from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.errors import ConfigurationError, TransientError
from etl_assets.systems.turbines import databases, source
from etl_assets.systems.turbines import page as pages
from etl_assets.systems.turbines.script import LoadResult
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.source import TurbinesApi
from etl_assets.systems.turbines.transform import DAY, FetchedDay
from etl_assets_tests.systems.turbines.conftest import serving
from etl_assets_tests.systems.turbines.world import DEFAULT, FIRST, QUICK, World, assert_same, at

ALL = ("wind_speed", "power", "ambient_temperature")
GAPPY = FIRST + 2 * DAY


def changes(done: LoadResult) -> list[tuple[int, int, int, int]]:
    """Inserted, updated, deleted, unchanged of each write, the raw layer first."""
    outcomes = [*done.raw, *(outcome for day in done.stored for outcome in (day.data, day.bins))]
    return [(o.change.inserted, o.change.updated, o.change.deleted, o.change.unchanged) for o in outcomes]


# What a day becomes


def test_a_full_day_of_two_signals_is_144_bins_of_each_and_1152_values(world: World) -> None:
    done = world.load()
    assert world.counts() == {"signal": 8, "data": 1152, "bin": 288}
    assert (len(world.ten_minute()), done.missing, done.quarantined) == (288, [], 0)
    assert_same(world.ten_minute(), world.computed())
    assert world.query("SELECT DISTINCT n, coverage, flags FROM bin") == [(10, 1.0, "")]
    assert world.query("SELECT name, turbine FROM signal ORDER BY id") == [
        (f"{column}_{what}", "") for column in DEFAULT for what in ("mean", "min", "max", "std")
    ]


def partial(world: World) -> None:
    world.only("00:00", "12:34")


def gappy(world: World) -> None:
    for begin, end in (("00:00", "00:07"), ("03:20", "03:50"), ("11:11", "11:12"), ("23:51", "24:00")):
        world.simulator.hold(at(begin), at(end))


def duplicated(world: World) -> None:
    world.quirks(repeat_every=7, repeat_differs=True)


def one_row(world: World) -> None:
    world.only("11:37", "11:38")


def shuffled(world: World) -> None:
    world.quirks(shuffled=True, repeat_every=3, repeat_differs=True)


def including_the_end(world: World) -> None:
    world.quirks(include_end=True)


@pytest.mark.long
@pytest.mark.parametrize(
    ("spoil", "bins"),
    [(partial, 76), (gappy, 141), (duplicated, 144), (one_row, 1), (shuffled, 144), (including_the_end, 144)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_value_is_what_python_makes_of_the_answer(
    world: World, spoil: Callable[[World], None], bins: int
) -> None:
    spoil(world)
    world.load(columns=ALL)
    assert_same(world.ten_minute(), world.computed(columns=ALL))
    assert world.counts() == {"signal": 12, "data": 12 * bins, "bin": 3 * bins}


@pytest.mark.long
def test_a_day_of_one_row_has_a_bin_whose_deviation_is_null(world: World) -> None:
    one_row(world)
    world.load(columns=["power"])
    ((key, row),) = world.ten_minute().items()
    assert key == (at("11:30"), "", "power")
    assert (row.mean, row.min, row.max, row.std, row.n) == (row.mean, row.mean, row.mean, None, 1)
    assert world.query("SELECT count(*), count(value) FROM data") == [(4, 3)]
    assert world.flags() == {key: "gap;low_coverage"}


@pytest.mark.long
def test_minutes_that_come_twice_are_flagged_and_the_last_one_counts(world: World) -> None:
    duplicated(world)
    world.load()
    assert set(world.flags().values()) == {"duplicate"}
    assert len(world.flags()) == 288
    assert world.query("SELECT DISTINCT n FROM bin") == [(10,)]
    assert world.raw().num_rows == 1440 + 206
    world.quirks()
    assert_same(world.ten_minute(), world.computed())


@pytest.mark.long
def test_days_with_faults_of_every_kind_have_their_values(world: World) -> None:
    days = [FIRST + number * DAY for number in range(4)]
    world.load(*days, columns=ALL)
    expected = {key: row for day in days for key, row in world.computed(day, columns=ALL).items()}
    assert_same(world.ten_minute(), expected)
    assert len(expected) == 3 * (4 * 144 - 18 - 1)


@pytest.mark.long
def test_a_row_at_the_end_of_a_day_belongs_to_the_next(world: World) -> None:
    world.quirks(include_end=True)
    world.load(FIRST)
    assert world.days() == [FIRST]
    assert world.raw().num_rows == 1440
    before = world.tables()
    world.load(FIRST + DAY)
    assert world.days() == [FIRST, FIRST + DAY]
    assert [row for row in world.tables()["data"] if row[0] < at("24:00")] == before["data"]


# Again, and at once


def test_the_same_day_again_writes_nothing_whatever_the_order_of_the_answer(world: World) -> None:
    world.load()
    before, file = world.tables(), world.raw_file().read_bytes()
    for quirks in ({}, {"shuffled": True}):
        world.quirks(**quirks)
        assert changes(world.load()) == [(0, 0, 0, 1440), (0, 0, 0, 1152), (0, 0, 0, 288)]
        assert world.tables() == before
        assert world.raw_file().read_bytes() == file


@pytest.mark.long
def test_a_minute_that_comes_late_changes_its_bin_only(world: World) -> None:
    world.simulator.hold(at("05:05"), at("05:06"))
    world.load(FIRST, FIRST + DAY)
    before = world.tables()
    world.simulator.release()
    done = world.load()
    bins = {row[0] for row in set(world.tables()["data"]) - set(before["data"])}
    assert bins == {at("05:00")}
    assert done.stored[0].bins.change.updated == 2
    assert_same(world.ten_minute(FIRST), world.computed())


@pytest.mark.long
def test_what_the_source_no_longer_says_is_gone_after_the_next_load(world: World) -> None:
    world.load(FIRST, FIRST + DAY)
    world.only("00:00", "06:00")
    done = world.load()
    assert done.stored[0].data.change.deleted == 8 * 108
    assert_same(world.ten_minute(FIRST), world.computed())
    assert len(world.ten_minute(FIRST + DAY)) == 2 * 126


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What calls give that begin together."""
    start = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result() for done in [pool.submit(begin, call) for call in calls]]


@pytest.mark.long
def test_two_loads_of_a_day_at_once_leave_one_result(world: World) -> None:
    at_once(*[lambda: world.load(FIRST, FIRST + DAY)] * 3)
    expected = {key: row for day in (FIRST, FIRST + DAY) for key, row in world.computed(day).items()}
    assert_same(world.ten_minute(), expected)
    assert world.query("SELECT count(*), count(DISTINCT (name, turbine)) FROM signal") == [(8, 8)]
    # Four statistics and a bin of each, and the signals, once.
    assert world.query("SELECT sum(inserted), sum(updated), sum(deleted) FROM etl.ledger") == [
        (5 * len(expected) + 8, 0, 0)
    ]


@pytest.mark.long
def test_two_loads_of_other_signals_at_once_leave_both(world: World) -> None:
    at_once(lambda: world.load(columns=["wind_speed"]), lambda: world.load(columns=["power", "ambient_temperature"]))
    assert_same(world.ten_minute(), world.computed(columns=ALL))
    assert world.counts() == {"signal": 12, "data": 12 * 144, "bin": 3 * 144}


@pytest.mark.long
def test_a_load_replaces_only_the_signals_that_it_asked_for(world: World) -> None:
    world.load(columns=["wind_speed", "ambient_temperature"])
    others = [row for row in world.tables()["bin"] if row[2] != "wind_speed"]
    world.only("00:00", "06:00")
    done = world.load(columns=["wind_speed", "power"])
    assert [row for row in world.tables()["bin"] if row[2] == "ambient_temperature"] == others
    assert Counter(column for _, _, column in world.ten_minute()) == {
        "wind_speed": 36,
        "power": 36,
        "ambient_temperature": 144,
    }
    assert done.stored[0].bins.change.deleted == 108


# Turbines


@pytest.mark.long
def test_several_turbines_share_the_tables(farm: World) -> None:
    farm.load(FIRST, FIRST + DAY)
    expected = {
        key: row for day in (FIRST, FIRST + DAY) for key, row in farm.computed(day, turbines=("T01", "T02")).items()
    }
    assert_same(farm.ten_minute(), expected)
    assert farm.query("SELECT turbine, count(*) FROM signal GROUP BY 1 ORDER BY 1") == [("T01", 8), ("T02", 8)]
    assert farm.counts()["bin"] == len(expected)


@pytest.mark.long
def test_a_turbine_without_rows_on_a_day_is_left_as_it_was(farm: World) -> None:
    farm.load()
    before = {key: row for key, row in farm.ten_minute().items() if key[1] == "T02"}
    farm.simulator.hold(at("00:00"), at("24:00"), turbine="T02")
    farm.simulator.hold(at("00:00"), at("12:00"), turbine="T01")
    done = farm.load()
    assert (done.missing, done.stored[0].data.change.deleted) == ([], 8 * 72)
    assert {key: row for key, row in farm.ten_minute().items() if key[1] == "T02"} == before
    assert len(farm.ten_minute()) == len(before) + 144


@pytest.mark.long
def test_a_turbine_that_the_source_does_not_know_is_refused_and_nothing_is_written(
    farm: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TURBINES", "T01,T09")
    assert run(["turbines", "load", "2024-05-20"]) == 1
    assert "there is no turbine 'T09'" in capsys.readouterr().err
    assert not farm.written()


@pytest.mark.long
def test_without_turbines_the_source_is_asked_without_any(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = TurbinesApi.minutes

    def minutes(self: Any, **question: Any) -> Any:
        asked.append(question["turbine"])
        return original(self, **question)

    monkeypatch.setattr(TurbinesApi, "minutes", minutes)
    world.load()
    assert asked == [""]
    assert world.query("SELECT DISTINCT turbine FROM signal") == [("",)]
    assert world.query("SELECT DISTINCT turbine FROM bin") == [("",)]


# A source that fails


@pytest.mark.long
@pytest.mark.parametrize(
    "fault",
    [
        *("500", "503", "429-retry-after", "reset", "html", "empty", "timeout"),
        *("timeout-mid-body", "reset-mid-body", "truncated-json", "short-body"),
    ],
)
def test_a_source_that_fails_gives_the_same_table_or_a_clear_failure(world: World, fault: str) -> None:
    world.simulator.faults.retry_after_s = 0.0
    world.load(FIRST)
    world.only("00:00", "06:00")
    world.only("00:00", "06:00", FIRST + DAY)
    before = world.tables(), world.raw().num_rows
    world.simulator.faults.script("data", [fault] * 3)
    with pytest.raises(TransientError, match="turbines"):
        world.load(FIRST, FIRST + DAY)
    assert (world.tables(), world.raw().num_rows) == before
    world.simulator.faults.script("data", [fault, fault])
    world.load(FIRST, FIRST + DAY)
    expected = {key: row for day in (FIRST, FIRST + DAY) for key, row in world.computed(day).items()}
    assert_same(world.ten_minute(), expected)


@pytest.mark.long
def test_a_failure_in_a_later_stretch_leaves_whole_days_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LONGEST_STRETCH_DAYS", 1)
    monkeypatch.setattr("etl_assets.systems.turbines.transform.ROWS_TOGETHER", 1)
    world.simulator.faults.script("data", ["none", "none", "none", "500", "500", "500"])
    days = [FIRST + number * DAY for number in range(4)]
    with pytest.raises(TransientError):
        world.load(*days)
    there = world.days()
    assert FIRST in there
    assert days[3] not in there
    for day in there:
        assert_same(world.ten_minute(day), world.computed(day))
    world.load(*days)
    assert world.days() == days


@pytest.mark.long
def test_an_element_that_cannot_be_read_is_in_quarantine_and_the_rest_loads(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = source.fetched_days
    bad = Record((Fault("power", "number", "n/a"),), {"power": "n/a"})

    def with_a_bad_element(*arguments: Any, **options: Any) -> Iterator[FetchedDay]:
        for fetched in original(*arguments, **options):
            yield replace(fetched, rows=Split(fetched.rows.valid, (bad,)))

    monkeypatch.setattr(source, "fetched_days", with_a_bad_element)
    assert run(["turbines", "load", "2024-05-20"]) == 0
    assert "1 element in quarantine" in capsys.readouterr().err
    assert world.counts()["data"] == 1152
    assert world.query("SELECT asset, partition FROM etl.quarantine", world.database) == [
        ("turbines.raw_turbine_signals", "2024-05-20")
    ]


@pytest.mark.long
def test_a_day_of_which_the_source_has_nothing_is_named_and_nothing_is_deleted(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.load(FIRST)
    before = world.tables()
    world.only("00:00", "00:00")
    assert run(["turbines", "load", "2024-05-20", "--to", "2024-05-21"]) == 0
    said = capsys.readouterr()
    assert said.err == "2024-05-20: the source has no value of it; statistics that are there stay as they are\n"
    assert said.out.startswith(
        "2024-05-21: 126 bins, 1,008 values (1,008 inserted, 0 updated, 0 deleted, 0 unchanged)\n"
    )
    assert [row for row in world.tables()["data"] if row[0] < at("24:00")] == before["data"]


# Days


def test_days_that_cannot_have_statistics_are_refused_and_nothing_is_written(world: World) -> None:
    now = datetime(2024, 5, 22, 23, 59, 59, tzinfo=UTC)
    for day, message in (
        (date(2024, 5, 19), "2024-05-19 is before 2024-05-20, the first day: TURBINES_START_DATE"),
        (date(2024, 5, 24), "2024-05-24 is after 2024-05-23, the last day: TURBINES_END_DATE"),
        (date(2024, 5, 22), "2024-05-22 is not over yet: it is 2024-05-22 23:59 in UTC"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            world.load(FIRST, day, now=now)
    assert (world.asked(), world.written()) == (0, False)


@pytest.fixture
def elsewhen(
    request: pytest.FixtureRequest, world: World, postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """The world with a source that begins on another day, and has three."""
    first: date = request.param
    for simulator, url in serving(postgres_server, f"fonte_{first:%Y_%m_%d}", start=first, days=3):
        monkeypatch.setenv("TURBINES_API_URL", url)
        monkeypatch.setenv("TURBINES_START_DATE", f"{first}")
        monkeypatch.setenv("TURBINES_END_DATE", f"{first + 2 * DAY}")
        yield World(world.database, world.target, simulator, url)


@pytest.mark.long
@pytest.mark.parametrize(
    "elsewhen", [date(2024, 2, 28), date(2023, 12, 30)], indirect=True, ids=["leap day", "turn of the year"]
)
def test_the_calendar_makes_no_difference(elsewhen: World) -> None:
    first = TurbinesSettings.load().turbines_start_date
    days = [first + number * DAY for number in range(3)]
    elsewhen.load(*days)
    assert elsewhen.days() == days
    for day in days:
        assert_same(elsewhen.ten_minute(day), elsewhen.computed(day))


def hours(world: World, day: date) -> list[int]:
    """The hours in UTC of which there are six bins of power."""
    found = world.query(
        "SELECT extract(hour FROM timestamp AT TIME ZONE 'UTC')::int FROM bin WHERE source_signal = 'power'"
        f" AND (timestamp AT TIME ZONE 'UTC')::date = '{day}' GROUP BY 1 HAVING count(*) = 6 ORDER BY 1"
    )
    return [hour for (hour,) in found]


@pytest.mark.long
@pytest.mark.parametrize("elsewhen", [date(2024, 10, 27)], indirect=True)
def test_the_hour_that_occurs_twice_is_in_quarantine_and_all_else_is_in_its_hour_of_utc(
    elsewhen: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBINES_ZONE", "Europe/Lisbon")
    done = elsewhen.load(date(2024, 10, 27), columns=["power"])
    # 01:00 to 02:00 in Lisbon is 00:00 or 01:00 in UTC: nobody can tell which.
    assert hours(elsewhen, date(2024, 10, 27)) == list(range(2, 24))
    assert done.quarantined == 60
    ((power,),) = elsewhen.query(
        "SELECT mean FROM ten_minute WHERE timestamp = '2024-10-27 12:00Z' AND source_signal = 'power'"
    )
    monkeypatch.setenv("TURBINES_ZONE", "UTC")
    assert elsewhen.computed(date(2024, 10, 27))[at("12:00", date(2024, 10, 27)), "", "power"].mean == pytest.approx(
        power, abs=1e-9
    )


@pytest.mark.long
@pytest.mark.parametrize("elsewhen", [date(2024, 3, 31)], indirect=True)
def test_a_day_with_an_hour_that_is_skipped_has_all_its_hours_of_utc(
    elsewhen: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBINES_ZONE", "Europe/Lisbon")
    done = elsewhen.load(date(2024, 3, 31), columns=["power"])
    assert hours(elsewhen, date(2024, 3, 31)) == list(range(24))
    # The simulated source knows no zones: its minutes from 01:00 to 02:00 are at no time in Lisbon.
    assert done.quarantined == 60


@pytest.mark.long
def test_a_source_in_a_zone_of_fixed_offset_gives_its_days_of_utc(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBINES_ZONE", "Etc/GMT+3")
    world.load(FIRST, FIRST + DAY)
    # Its midnight is at 03:00 in UTC, and with 21 to 24 o'clock of the day before it has nothing to do.
    assert hours(world, FIRST) == list(range(3, 24))
    local = {key: row for day in (FIRST, FIRST + DAY) for key, row in world.computed(day).items()}
    moved = {(t + timedelta(hours=3), turbine, column): row for (t, turbine, column), row in local.items()}
    assert_same(world.ten_minute(), {key: row for key, row in moved.items() if key[0] < at("48:00")})


# The command


def command(*arguments: str) -> int:
    return run(["turbines", "load", *arguments])


def test_the_command_says_what_became_of_each_day_and_where_its_page_is(
    world: World, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("2024-05-20") == 0
    page = data_dir / "reports" / "turbines" / "2024-05-20" / "day.html"
    assert capsys.readouterr().out == (
        f"2024-05-20: 144 bins, 1,152 values (1,152 inserted, 0 updated, 0 deleted, 0 unchanged)\n2024-05-20: {page}\n"
    )
    assert "288 of 288 bins have values" in page.read_text()
    assert_same(world.ten_minute(), world.computed())


@pytest.mark.long
def test_a_page_is_of_all_that_the_target_has_of_a_day(
    world: World, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.load(FIRST)
    world.load(FIRST, columns=["ambient_temperature"])
    assert run(["turbines", "page", "2024-05-20", "2024-05-21"]) == 0
    pages = data_dir / "reports" / "turbines"
    assert [line.partition("day.html")[2] for line in capsys.readouterr().out.splitlines()] == [
        "",
        " (the target has nothing of it)",
    ]
    page = (pages / "2024-05-20" / "day.html").read_text()
    assert "432 of 432 bins have values" in page
    assert [name in page for name in ALL] == [True] * 3
    assert "the source had nothing to say" in (pages / "2024-05-21" / "day.html").read_text()


@pytest.mark.long
def test_a_page_of_a_day_that_there_is_none_of_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["turbines", "page", "2024-05-19"]) == 2
    assert "before 2024-05-20, the first day" in capsys.readouterr().err


@pytest.mark.long
def test_a_day_of_rows_without_a_value_is_missing_and_keeps_the_statistics_that_are_there(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.load()
    before = world.tables()
    original = source.fetched_days

    def without_values(*arguments: Any, **options: Any) -> Iterator[FetchedDay]:
        for fetched in original(*arguments, **options):
            table = fetched.rows.valid
            for name in DEFAULT:
                nothing = pa.nulls(table.num_rows, pa.float64())
                table = table.set_column(table.column_names.index(name), table.schema.field(name), nothing)
            yield replace(fetched, rows=Split(table))

    monkeypatch.setattr(source, "fetched_days", without_values)
    assert command("2024-05-20", "2024-05-21") == 0
    assert capsys.readouterr().err.count("the source has no value of it") == 2
    assert world.tables() == before


@pytest.mark.long
def test_rows_of_other_days_are_left_out_and_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.quirks(include_end=True)
    assert command("2024-05-20") == 0
    assert capsys.readouterr().err == "1 row lies outside of the days asked for, left out\n"


@pytest.mark.long
def test_the_command_draws_no_pages_of_many_days(
    world: World, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pages, "DAYS_DRAWN", 1)
    assert command("2024-05-20", "2024-05-21") == 0
    assert "day.html" not in capsys.readouterr().out
    assert not (data_dir / "reports").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [
        ["2024-05-20", "--columns", "power", "wind_speed", "ambient_temperature"],
        ["--columns", "power", "wind_speed", "ambient_temperature", "2024-05-20"],
        ["--columns", "power", "--columns", "wind_speed", "--columns", "ambient_temperature", "2024-05-20"],
        ["--columns=power", "2024-05-20", "--columns", "wind_speed", "ambient_temperature", "power"],
    ],
    ids=["after", "before", "repeated", "mixed"],
)
def test_columns_are_given_in_any_way(world: World, arguments: list[str]) -> None:
    assert command(*arguments) == 0
    assert_same(world.ten_minute(), world.computed(columns=ALL))


REFUSED = {
    "before the first": (["2024-05-19"], "TURBINES_START_DATE"),
    "after the last": (["2024-05-24"], "TURBINES_END_DATE"),
    "one of several": (["2024-05-20", "2024-05-24"], "TURBINES_END_DATE"),
    "malformed": (["20.05.2024"], "give one like 2024-05-20"),
    "no such day": (["2024-02-30"], "give one like 2024-05-20"),
    "no day at all": ([], "Missing argument"),
    "no such column": (["2024-05-20", "--columns", "power", "rpm"], "rpm"),
    "no column": (["2024-05-20", "--columns"], "--columns"),
    "no column before the day": (["--columns", "2024-05-20"], "Missing argument 'DAY...'"),
    "to before from": (["2024-05-21", "--to", "2024-05-20"], "not before"),
    "to malformed": (["2024-05-20", "--to", "tomorrow"], "give one like 2024-05-20"),
    "to with several": (["2024-05-20", "2024-05-21", "--to", "2024-05-22"], "one day"),
    "no such option": (["2024-05-20", "--colums", "power"], "--colums"),
}


def test_wrong_usage_exits_with_2_and_nothing_is_written(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for case, (arguments, said) in REFUSED.items():
        assert command(*arguments) == 2, case
        assert said in capsys.readouterr().err, case
    assert (world.asked(), world.written()) == (0, False)


@pytest.mark.long
def test_a_day_that_is_not_over_exits_with_2(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TURBINES_END_DATE")
    # Not today's, which may be over when the command looks.
    for day in (f"{datetime.now(UTC) + timedelta(minutes=1):%Y-%m-%d}", "9999-12-31"):
        assert command(day) == 2
        assert f"{day} is not over yet" in capsys.readouterr().err
    assert not world.written()


@pytest.mark.long
def test_a_column_that_the_source_does_not_know_exits_with_2_and_nothing_is_written(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.quirks(renamed={"power": "active_power"})
    assert command("2024-05-20") == 2
    said = capsys.readouterr().err
    assert "power" in said
    assert "active_power" in said
    assert not world.written()


@pytest.mark.long
def test_an_unset_source_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TURBINES_API_URL")
    assert command("2024-05-20") == 2
    assert "TURBINES_API_URL is not set" in capsys.readouterr().err
    assert not world.written()


@pytest.mark.long
def test_a_source_that_is_away_exits_with_1(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TurbinesApi, "from_settings", lambda _: TurbinesApi(world.url, limits=QUICK))
    world.simulator.faults.script("data", ["503"] * 3)
    assert command("2024-05-20") == 1
    assert "503" in capsys.readouterr().err
    assert not world.written()


# The target database


@pytest.fixture
def beside(world: World, no_default_target: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name that the target has by default, as long as TURBINES_TARGET_URL is unset."""
    monkeypatch.delenv("TURBINES_TARGET_URL")
    return databases.TARGET


@pytest.mark.long
def test_by_default_the_target_is_made_beside_the_platforms_database(world: World, beside: str) -> None:
    for _ in range(2):
        assert command("2024-05-20") == 0
    url = urlunsplit(urlsplit(world.database.url)._replace(path=f"/{beside}"))
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM ten_minute").fetchone() == (288,)
    assert beside == "alvo"
    assert world.counts()["bin"] == 0


@pytest.mark.long
def test_two_processes_that_make_the_default_target_at_once_both_have_it(world: World, beside: str) -> None:
    targets = [databases.turbines_target() for _ in range(4)]
    at_once(*[database.prepare for database in targets])
    assert len({database.url for database in targets}) == 1


@pytest.mark.long
def test_a_role_that_may_not_make_the_target_is_told_what_to_set(
    world: World, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(world.database.url)
    with psycopg.connect(world.database.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE limited LOGIN PASSWORD 'limited-secret'")
        try:
            url = urlunsplit(parts._replace(netloc=f"limited:limited-secret@{parts.hostname}:{parts.port}"))
            monkeypatch.setenv("ETL_POSTGRES_URL", url)
            with pytest.raises(ConfigurationError, match=r"no database alvo .* set TURBINES_TARGET_URL"):
                databases.turbines_target().prepare()
        finally:
            connection.execute("DROP ROLE limited")
