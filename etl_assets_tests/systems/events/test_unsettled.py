"""What is left to do, and who is told of it: newer files that cannot be had, losses that somebody has accepted, damage, and both at once."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from etl_assets.cli import run
from etl_assets.errors import ConfigurationError, PermanentError
from etl_assets.systems.events import manifest as manifest
from etl_assets.systems.events import raw_layer as intake
from etl_assets.systems.events import script
from etl_assets.systems.events import source as feed
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.us_events import StoredIntervals
from etl_assets_tests.systems.events.manifests import record
from etl_assets_tests.systems.events.sensor import NOTHING_NEW, Sensor
from etl_assets_tests.systems.events.test_command import lost
from etl_assets_tests.systems.events.test_script import damage
from etl_assets_tests.systems.events.world import World, quarter, quick_feed

DAY = "2019-01-21"
BROKEN = {"global_event_id": "7", "action_geo_lat": "95"}
ADVISORY_LOCKS = """SELECT count(*) FROM pg_locks JOIN pg_database ON database = pg_database.oid
    WHERE datname = current_database() AND locktype = 'advisory' AND granted"""
THE_HOUR = ("--from", "2019-01-21", "--to", "2019-01-21T01:00Z")


def accept(number: int, reason: str = "we have it") -> int:
    return run(["events", "accept", "--interval", f"{quarter(number):%Y-%m-%dT%H:%MZ}", "--reason", reason])


def unsettled(world: World) -> list[int]:
    return [(entry.interval - quarter(0)) // timedelta(minutes=15) for entry in manifest.unsettled(world.database)]


def settled_hours(world: World, hours: int) -> None:
    """Lets the feed and the clock go on, and stores what comes."""
    for _ in range(hours):
        world.simulator.advance(4)
        there = len(world.simulator.intervals())
        world.load(there - 4, there)


# A newer version that cannot be had


@pytest.mark.long
@pytest.mark.parametrize("spoilt", [{"withdrawn": True}, {"halves": 30}])
def test_a_newer_version_that_cannot_be_had_is_named_and_asked_for_hourly_until_it_is_there(
    sensor: Sensor, world: World, spoilt: dict[str, Any]
) -> None:
    world.load_all()
    world.simulator.republish(quarter(1))
    world.simulator.change(quarter(1), **spoilt)
    world.load_all()
    assert (world.states()[1], lost(world), unsettled(world)) == ("loaded", (1, 0), [1])
    assert sensor.tick() == NOTHING_NEW
    settled_hours(world, 1)
    assert sensor.run_all() == [(DAY, True)]
    assert (lost(world), sensor.tick()) == ((1, 0), NOTHING_NEW)
    world.simulator.change(quarter(1), withdrawn=False, halves=0)
    settled_hours(world, 1)
    assert sensor.run_all() == [(DAY, True)]
    assert (lost(world), unsettled(world)) == ((0, 0), [])
    assert world.us() == world.in_the_us(*range(12))


@pytest.mark.long
def test_a_newer_version_that_the_feed_no_longer_lists_is_asked_for_hourly_until_somebody_accepts_that(
    sensor: Sensor, world: World
) -> None:
    world.load_all()
    world.simulator.republish(quarter(1))
    world.simulator.change(quarter(1), withdrawn=True)
    world.load_all()
    world.simulator.change(quarter(1), held=True)
    settled_hours(world, 1)
    assert sensor.run_all() == [(DAY, True)]
    assert (sensor.tick(), world.manifest()[1].attempts) == (NOTHING_NEW, 3)
    assert accept(1) == 0
    settled_hours(world, 1)
    assert (sensor.tick(), lost(world), unsettled(world)) == (NOTHING_NEW, (0, 1), [])


@pytest.mark.long
def test_a_third_version_that_cannot_be_had_is_not_forgotten_for_the_second_that_was_refused(world: World) -> None:
    world.load_all()
    world.simulator.change(quarter(1), defect="truncated")
    world.load_all()
    assert (unsettled(world), lost(world)) == ([], (1, 0))
    world.simulator.restore(quarter(1))
    world.simulator.republish(quarter(1))
    world.simulator.change(quarter(1), withdrawn=True)
    world.load_all()
    assert (unsettled(world), lost(world)) == ([1], (1, 0))


@pytest.mark.long
def test_rows_of_a_version_that_nobody_knows_are_asked_for_until_they_are_known(sensor: Sensor, world: World) -> None:
    """As a load of before rows and manifest were one commit has left it that ended between them; then the feed had no file."""
    world.load_all()
    record(world.database, replace(world.manifest()[1], state="fetched", md5=None))
    world.simulator.change(quarter(1), withdrawn=True)
    world.load_all()
    assert (world.manifest()[1].md5, lost(world), unsettled(world)) == (None, (1, 0), [1])
    world.simulator.change(quarter(1), withdrawn=False)
    settled_hours(world, 1)
    assert sensor.run_all() == [(DAY, True)]
    assert (lost(world), unsettled(world), world.us()) == ((0, 0), [], world.in_the_us(*range(8)))


@pytest.mark.long
def test_the_newest_file_that_is_listed_and_not_there_is_asked_for_every_five_minutes(
    sensor: Sensor, world: World
) -> None:
    world.simulator.change(quarter(3), withdrawn=True)
    world.ahead = -timedelta(minutes=14)
    assert sensor.run_all() == [(DAY, False)]
    assert world.states() == {3: "missing"}
    for _ in range(4):
        world.ahead += timedelta(minutes=1)
        assert sensor.tick() == NOTHING_NEW
    world.ahead += timedelta(minutes=1)
    assert sensor.run_all() == [(DAY, False)]


# What somebody has accepted


@pytest.mark.long
def test_a_line_that_is_replayed_is_derived_though_somebody_has_accepted_the_loss_of_a_newer_version(
    sensor: Sensor, world: World
) -> None:
    world.load_own(0, 0, BROKEN, 1)
    for number in (1, 2, 3):
        world.load(number)
    world.simulator.change(quarter(0), defect="truncated")
    world.load_all()
    assert accept(0) == 0
    ((identity,),) = world.query("SELECT id FROM etl.quarantine")
    assert run(["quarantine", "replay", identity, "--set", "action_geo_lat=61.2"]) == 0
    assert unsettled(world) == [0]
    sensor.run_all()
    assert 7 in world.us()
    assert (unsettled(world), lost(world), world.manifest()[0].accepted) == ([], (0, 1), "we have it")


@pytest.mark.long
def test_who_accepts_the_loss_of_a_newer_version_does_not_accept_damage_of_what_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.load_all()
    world.simulator.change(quarter(1), defect="truncated")
    world.load_all()
    assert accept(1) == 0
    damage(world.raw_file(1))
    monkeypatch.setenv("EVENTS_US_RULE", "bounding_box")
    assert world.command(*THE_HOUR) == 1
    assert f"{world.raw_file(1)} is damaged" in capsys.readouterr().err
    assert (world.states()[1], world.manifest()[1].accepted, unsettled(world)) == ("missing", None, [1])
    assert world.command(*THE_HOUR) == 0
    assert (world.states()[1], lost(world)) == ("refused", (1, 0))
    assert accept(1, "all of it") == 0
    assert world.command(*THE_HOUR) == 0
    assert lost(world) == (0, 1)


@pytest.mark.long
def test_what_was_accepted_is_not_accepted_again_with_another_reason(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        world.simulator.change(quarter(number), held=True)
    world.load_all()
    assert accept(1, "agreed, ticket 12") == 0
    capsys.readouterr()
    assert run(["events", "accept", *THE_HOUR, "--reason", "the feed stood still"]) == 0
    assert capsys.readouterr().out == "1 interval accepted as lost: the feed stood still\n"
    assert [world.manifest()[number].accepted for number in (1, 2)] == ["agreed, ticket 12", "the feed stood still"]
    assert run(["events", "accept", *THE_HOUR, "--reason", "again"]) == 2


@pytest.mark.long
def test_a_file_that_comes_while_its_loss_is_accepted_is_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.simulator.change(quarter(1), held=True)
    world.load_all()
    world.simulator.restore(quarter(1))
    fetched = intake._fetched

    def accepted_meanwhile(*args: Any, **options: Any) -> Any:
        found = fetched(*args, **options)
        manifest.accept(world.database, quarter(1), quarter(2), reason="gone for good")
        return found

    monkeypatch.setattr(intake, "_fetched", accepted_meanwhile)
    world.load(1)
    assert (world.states()[1], world.manifest()[1].accepted, world.manifest()[1].attempts) == ("loaded", None, 2)
    assert world.us() == world.in_the_us(0, 1, 2, 3)


# Damage beside what is missing


@pytest.mark.long
def test_damage_of_an_interval_holds_up_no_other_of_its_day(sensor: Sensor, world: World) -> None:
    world.simulator.change(quarter(2), held=True)
    world.load_all()
    damage(world.raw_file(1))
    world.simulator.change(quarter(1), held=True)
    with pytest.raises(PermanentError, match="is damaged"):
        world.load_all()
    world.simulator.restore(quarter(2))
    settled_hours(world, 1)
    sensor.wait_s = 3600
    assert sensor.run_all() == [(DAY, True)]
    assert (world.states()[2], world.states()[1], unsettled(world)) == ("loaded", "missing", [1])
    assert sensor.tick() == NOTHING_NEW
    world.simulator.restore(quarter(1))
    settled_hours(world, 1)
    assert sensor.run_all() == [(DAY, True)]
    assert (lost(world), world.us()) == ((0, 0), world.in_the_us(*range(12)))


@pytest.mark.long
def test_a_raw_file_that_may_not_be_read_is_named_with_what_to_do(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.load_all()
    path = world.raw_file(1)
    path.unlink()
    path.mkdir()
    assert world.command(*THE_HOUR) == 1
    said = capsys.readouterr().err
    assert (
        f"{path} cannot be used (Is a directory): let ETL_STORAGE_URL name a folder that this process may write to and read"
        in said
    )
    assert "by a run of raw_events" not in said


# One writer at a time


@pytest.mark.long
def test_a_server_that_ends_idle_transactions_does_not_give_the_turn_to_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = world.database.url.rpartition("/")[2]
    world.execute(f'ALTER DATABASE "{name}" SET idle_in_transaction_session_timeout = 50')
    store, turns = intake.store_files, []

    def slow(*args: Any, **options: Any) -> Any:
        threading.Event().wait(0.3)
        turns.extend(world.query(ADVISORY_LOCKS))
        return store(*args, **options)

    monkeypatch.setattr(intake, "store_files", slow)
    world.load(0)
    # Of the slice, and of its table together with other slices.
    assert turns == [(2,)]
    assert world.states() == {0: "loaded"}


# What is said


@pytest.mark.long
@pytest.mark.parametrize("arguments", [["--interval", "2019-01-21T00:45Z"], ["--from", "2019-01-21T00:45Z"]])
def test_an_interval_that_is_not_over_and_not_listed_exits_with_1(
    world: World, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    world.simulator.change(quarter(3), held=True)
    world.ahead = -timedelta(minutes=5)
    assert world.command(*arguments) == 1
    assert "is not over yet, and the feed does not list a file of it: ask again later" in capsys.readouterr().err
    assert world.states() == {}


@pytest.mark.long
def test_a_file_that_is_too_large_is_said_to_be_that_and_not_what_a_programmer_may_change(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LARGEST_FILE_BYTES", 500)
    assert world.command("--interval", "2019-01-21T00:15Z") == 1
    said = capsys.readouterr().err
    assert "20190121001500.export.CSV.zip: has more than 500 bytes: see whether it is a file of the feed" in said
    assert "max_body_bytes" not in said
    assert world.states() == {1: "refused"}


def test_a_first_day_before_the_feed_is_refused_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTS_START_DATE", "2014-12-31")
    with pytest.raises(ConfigurationError, match="EVENTS_START_DATE.*2015"):
        EventsSettings.load()


def test_an_end_without_a_begin_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="last is .* without first"):
        script.load(last=quarter(1), database=world.database)
    assert world.lists() == 0


@pytest.mark.long
def test_an_interval_that_is_derived_twice_in_a_load_counts_once(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    abroad = {"global_event_id": "99", "action_geo_country_code": "GM"}
    world.load_own(1, 0, 7)
    world.load_own(0, 1, 7, abroad)
    monkeypatch.setattr("etl_assets.systems.events.us_events.STORED_TOGETHER", 1)
    store = script.store_us_events

    def also_the_other(stores: Any, intervals: list[Any], **options: Any) -> Iterator[StoredIntervals]:
        return store(stores, [quarter(0), quarter(1)], **options)

    monkeypatch.setattr(script, "store_us_events", also_the_other)
    assert world.command("--file", str(world.own(1, 0))) == 0
    assert capsys.readouterr().out == (
        "1 file taken with 1 event; 1 US events inserted, 0 updated, 1 deleted, 2 unchanged\n"
    )
    assert {number: (entry.rows_us, entry.rows_repeated) for number, entry in world.manifest().items()} == {
        0: (2, 0),
        1: (1, 0),
    }


# A feed that lists and does not give


@pytest.mark.long
def test_a_file_that_is_listed_and_not_there_is_absent_only_when_it_was_asked_for_in_vain_for_a_day(
    world: World,
) -> None:
    world.simulator.change(quarter(1), withdrawn=True)
    world.simulator.change(quarter(2), held=True)
    world.ahead = timedelta(days=9)
    world.load_all()
    assert [world.states()[number] for number in (1, 2)] == ["missing", "absent"]
    world.ahead += timedelta(hours=23)
    world.load_all()
    assert (world.states()[1], unsettled(world)) == ("missing", [1])
    world.ahead += timedelta(hours=1)
    world.load_all()
    assert (world.states()[1], unsettled(world)) == ("absent", [])


@pytest.mark.long
def test_an_accepted_file_that_the_feed_refuses_fails_no_run(sensor: Sensor, world: World) -> None:
    world.simulator.change(quarter(0), held=True)
    world.load_own(0, 0, BROKEN, 1)
    world.simulator.change(quarter(1), withdrawn=True, withdrawn_as=403)
    world.load_all()
    assert accept(1, "not for us") == 0
    ((identity,),) = world.query("SELECT id FROM etl.quarantine")
    assert run(["quarantine", "replay", identity, "--set", "action_geo_lat=61.2"]) == 0
    sensor.run_all()
    assert (7 in world.us(), world.manifest()[1].accepted, unsettled(world)) == (True, "not for us", [])


@pytest.mark.long
def test_a_half_file_in_the_place_of_one_that_was_refused_days_ago_is_looked_for(world: World) -> None:
    world.simulator.change(quarter(1), defect="truncated")
    world.load_all()
    world.simulator.restore(quarter(1))
    world.simulator.republish(quarter(1))
    world.simulator.change(quarter(1), halves=30)
    world.ahead = timedelta(days=3)
    world.load_all()
    assert (world.states()[1], unsettled(world)) == ("missing", [1])


@pytest.mark.long
def test_who_accepts_the_loss_of_a_version_is_told_of_the_next_one(sensor: Sensor, world: World) -> None:
    world.load_all()
    world.simulator.change(quarter(3), defect="truncated")
    world.load_all()
    assert accept(3) == 0
    world.simulator.restore(quarter(3))
    world.simulator.republish(quarter(3))
    world.simulator.change(quarter(3), withdrawn=True)
    assert sensor.run_all() == [(DAY, False)]
    assert (lost(world), unsettled(world)) == ((1, 0), [3])
    for _ in range(4):
        world.ahead += timedelta(minutes=1)
        assert sensor.tick() == NOTHING_NEW


@pytest.mark.long
def test_rows_that_a_killed_load_has_written_are_derived_though_the_feed_has_the_file_no_more(
    sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load_own(1, 7)
    for number in (0, 2, 3):
        world.load(number)
    store = intake.store_files

    def killed(*args: Any, **options: Any) -> Any:
        store(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(intake, "store_files", killed)
        with pytest.raises(KeyboardInterrupt):
            world.load(1)
    world.simulator.change(quarter(1), withdrawn=True)
    sensor.run_all()
    assert world.us() == world.in_the_us(0, 1, 2, 3)
    assert (world.manifest()[1].md5, unsettled(world)) == (world.simulator.listed(quarter(1)).md5, [])


@pytest.mark.long
def test_the_version_that_is_stored_does_not_hide_that_a_newer_one_cannot_be_had(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One list says the version that is stored, and the other one that is not there."""
    world.load_all()
    stored, file = world.manifest()[3].md5, quick_feed().latest()
    assert stored == file.md5
    monkeypatch.setattr(feed.EventsFeed, "latest", lambda _: replace(file, md5="0" * 32))
    for _ in range(2):
        world.load_all()
        assert (world.manifest()[3].md5, lost(world), unsettled(world)) == (stored, (1, 0), [3])
