"""When the system runs by itself: for each new file, hourly for what is missing, and every day for the one before."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from etl_assets.errors import TransientError
from etl_assets.systems.events import automation
from etl_assets_tests.systems.events.sensor import NOTHING_NEW, Sensor, by_list
from etl_assets_tests.systems.events.world import World, quarter
from etl_assets_tests.systems.outages.runs import failed_steps

DAY = "2019-01-21"
HOUR = timedelta(hours=1)


@pytest.mark.long
def test_the_newest_file_is_asked_for_once_and_then_nothing_until_the_next(sensor: Sensor, world: World) -> None:
    assert sensor.run_all() == [(DAY, False)]
    assert world.states() == {3: "loaded"}
    assert sensor.tick() == NOTHING_NEW
    world.simulator.advance()
    assert sensor.run_all() == [(DAY, False)]
    assert world.us() == world.in_the_us(3, 4)
    assert (world.lists(), world.asked()) == (0, 2)


@pytest.mark.long
def test_a_republished_newest_file_is_asked_for_again(sensor: Sensor, world: World) -> None:
    sensor.run_all()
    world.simulator.republish(quarter(3))
    assert sensor.run_all() == [(DAY, False)]
    assert world.us() == world.in_the_us(3)
    assert sensor.tick() == NOTHING_NEW


@pytest.mark.long
def test_the_first_file_of_a_day_is_asked_for_with_its_day(sensor: Sensor, world: World) -> None:
    world.simulator.advance(93)
    assert sensor.run_all() == [("2019-01-22", False)]
    assert world.us() == world.in_the_us(96)


@pytest.mark.long
def test_files_that_came_between_two_ticks_are_looked_for_after_an_hour_and_only_after_the_first_known(
    sensor: Sensor, world: World
) -> None:
    world.load(1, 2)
    world.simulator.advance()
    sensor.run_all()
    # Of 3 and 4 the feed may still say something by itself, 2 is not an hour old.
    assert world.states() == {1: "loaded", 4: "loaded"}
    assert sensor.tick() == NOTHING_NEW
    world.ahead += HOUR
    assert sensor.run_all() == [(DAY, True)]
    # A whole day is asked for, from its beginning, by one list.
    assert world.us() == world.in_the_us(0, 1, 2, 3, 4)
    assert world.lists() == 2
    assert {world.states()[number] for number in range(5, 9)} == {"missing"}


@pytest.mark.long
def test_what_is_missing_is_looked_for_hourly_until_it_is_there(sensor: Sensor, world: World) -> None:
    world.simulator.change(quarter(1), held=True)
    world.load_all()
    assert sensor.tick() == NOTHING_NEW
    world.ahead = HOUR - timedelta(seconds=1)
    assert sensor.tick() == NOTHING_NEW
    world.simulator.advance(4)
    world.ahead = timedelta(minutes=1)
    newest, *_ = sensor.requests()
    assert not by_list(newest)
    world.load(4, 8)
    assert sensor.run_all() == [(DAY, True)]
    assert (world.states()[1], world.manifest()[1].last_asked_at) == ("missing", world.now())
    assert sensor.tick() == NOTHING_NEW
    world.simulator.restore(quarter(1))
    world.ahead += HOUR
    sensor.run_all()
    assert world.states()[1] == "loaded"


@pytest.mark.long
def test_what_is_absent_is_not_looked_for_any_more(
    sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTS_LATE_HOURS", "1")
    world.simulator.change(quarter(1), held=True)
    world.simulator.advance(8)
    world.load_all()
    assert world.states() == {**dict.fromkeys(range(12), "loaded"), 1: "absent"}
    world.ahead += timedelta(minutes=58)
    assert sensor.tick() == NOTHING_NEW


@pytest.mark.long
def test_what_was_missing_on_the_day_before_is_looked_for_with_its_day(sensor: Sensor, world: World) -> None:
    world.simulator.advance(96)
    world.simulator.change(quarter(95), held=True)
    world.load(90, 100)
    world.ahead += HOUR
    found = sensor.requests()
    assert [(request.partition_key, by_list(request)) for request in found] == [
        (DAY, True),
        ("2019-01-22", True),
    ]
    world.simulator.restore(quarter(95))
    assert all(sensor.run(request).success for request in found)
    assert world.states()[95] == "loaded"


@pytest.mark.long
def test_a_platform_that_was_just_set_up_has_no_past_to_catch_up_with(sensor: Sensor, world: World) -> None:
    world.simulator.advance(20)
    world.ahead = 3 * HOUR
    assert sensor.run_all() == [(DAY, False)]
    world.ahead += HOUR
    # The feed stands still: what should have come since is looked for, what was before it is not.
    assert sensor.run_all() == [(DAY, True)]


def test_the_same_tick_twice_asks_for_the_same_run(sensor: Sensor) -> None:
    (first,), (second,) = sensor.requests(), sensor.requests()
    assert first.run_key == second.run_key
    assert first.tags == second.tags


def unavailable(*_: Any, **__: Any) -> Any:
    raise TransientError("the database is away")


@pytest.mark.long
@pytest.mark.parametrize("step", ["raw_events", "us_event_data"])
def test_after_a_failed_run_the_file_is_asked_for_with_growing_waits_and_new_keys(
    sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    keys = set()
    for wait_s in (60, 120, 240):
        (request,) = sensor.requests()
        with monkeypatch.context() as broken:
            broken.setattr(
                f"etl_assets.systems.events.assets.{'take' if step == 'raw_events' else 'store_us_events'}", unavailable
            )
            assert failed_steps(sensor.run(request)) == [step]
        keys.add(request.run_key)
        assert f"asked for after {wait_s} s" in str(sensor.tick())
        sensor.wait_s += wait_s
    (request,) = sensor.requests()
    assert sensor.run(request).success
    assert len({*keys, request.run_key}) == 4
    assert sensor.tick() == NOTHING_NEW
    assert world.us() == world.in_the_us(3)


@pytest.mark.long
def test_a_run_that_was_refused_is_not_asked_for_again_until_the_feed_has_another_file(
    sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (request,) = sensor.requests()
    monkeypatch.setenv("EVENTS_US_COUNTRY_CODES", "USA")
    assert failed_steps(sensor.run(request)) == ["us_event_data"]
    for sensor.wait_s in (0.0, 1e6):
        assert "was refused, and will be again unless something changes" in str(sensor.tick())
    monkeypatch.delenv("EVENTS_US_COUNTRY_CODES")
    world.simulator.advance()
    (other,) = sensor.requests()
    assert other.run_key != request.run_key
    assert sensor.run(other).success
    # The one that was refused is of the same day, and is stored with it.
    assert world.us() == world.in_the_us(3, 4)


@pytest.mark.long
def test_a_file_that_is_refused_is_not_asked_for_again_until_it_is_another(sensor: Sensor, world: World) -> None:
    world.simulator.change(quarter(3), defect="nested")
    assert sensor.run_all() == [(DAY, False)]
    assert world.states() == {3: "refused"}
    for sensor.wait_s in (0.0, 1e6):
        assert sensor.tick() == NOTHING_NEW
    world.simulator.restore(quarter(3))
    assert sensor.run_all() == [(DAY, False)]
    assert world.states() == {3: "loaded"}


@pytest.mark.long
def test_a_run_that_is_queued_is_not_asked_for_twice(sensor: Sensor, definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def("events_job")
    sensor.instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
    assert sensor.tick() == f"{DAY}: a run of events_job is queued or running"


@pytest.mark.long
@pytest.mark.parametrize("fault", ["503", "reset", "html", "empty"])
def test_a_feed_that_is_away_is_said_and_nothing_is_asked_for(sensor: Sensor, world: World, fault: str) -> None:
    world.simulator.faults.script("lastupdate.txt", [fault] * 3)
    assert "events API, GET /lastupdate.txt" in str(sensor.tick())


@pytest.mark.long
def test_a_feed_that_stands_still_is_asked_for_what_should_be_there_once_an_hour(sensor: Sensor, world: World) -> None:
    world.load_all()
    world.ahead = 3 * HOUR
    assert sensor.run_all() == [(DAY, True)]
    # Hours that are not over yet when a run looks are looked for by the next.
    assert set(world.states().values()) == {"loaded", "missing"}
    assert sensor.tick() == NOTHING_NEW
    assert world.lists() == 2


@pytest.mark.parametrize(
    ("today", "day"),
    [((2019, 1, 22), "2019-01-21"), ((2020, 1, 1), "2019-12-31"), ((2020, 3, 1), "2020-02-29")],
)
def test_the_schedule_asks_for_the_day_that_is_over_whole(today: tuple[int, int, int], day: str) -> None:
    at = datetime(*today, 0, 40, tzinfo=UTC)
    request = automation.events_every_day(dg.build_schedule_context(scheduled_execution_time=at))
    assert isinstance(request, dg.RunRequest)
    assert (request.partition_key, request.run_config) == (day, {})


@pytest.mark.long
def test_the_schedule_finds_what_was_republished_or_came_late(
    sensor: Sensor, world: World, definitions: dg.Definitions
) -> None:
    world.simulator.change(quarter(1), held=True)
    world.load_all()
    world.simulator.restore(quarter(1))
    world.simulator.republish(quarter(0))
    world.simulator.advance(96)
    at = datetime(2019, 1, 22, 0, 40, tzinfo=UTC)
    request = automation.events_every_day(dg.build_schedule_context(scheduled_execution_time=at))
    assert isinstance(request, dg.RunRequest)
    assert sensor.run(request).success
    assert world.us() == world.in_the_us(*range(96))


@pytest.mark.long
def test_the_newest_file_is_taken_also_before_the_instant_in_its_name(sensor: Sensor, world: World) -> None:
    world.ahead = -timedelta(minutes=20)
    sensor.run_all()
    assert world.states() == {3: "loaded"}
    assert sensor.tick() == NOTHING_NEW


@pytest.mark.long
def test_the_newest_file_that_is_not_there_is_asked_for_every_five_minutes(sensor: Sensor, world: World) -> None:
    world.simulator.change(quarter(3), withdrawn=True)
    sensor.run_all()
    assert world.states() == {3: "missing"}
    world.ahead += timedelta(minutes=5, microseconds=-1)
    assert sensor.tick() == NOTHING_NEW
    world.ahead += timedelta(microseconds=1)
    assert sensor.run_all() == [(DAY, False)]
    assert (world.asked(), sensor.tick()) == (2, NOTHING_NEW)


@pytest.mark.long
def test_an_interval_that_was_fetched_and_not_derived_is_asked_for(sensor: Sensor, world: World) -> None:
    world.simulator.advance(93)
    world.load(92, 97)
    # As a run leaves it whose second step failed before midnight.
    world.execute("UPDATE events.intervals SET state = 'fetched', rows_us = NULL WHERE interval = '2019-01-21T23:45Z'")
    world.execute("DELETE FROM events.us_event_data WHERE file_interval = '2019-01-21T23:45Z'")
    found = sensor.tick()
    assert [request.partition_key for request in found] == [DAY]  # type: ignore[union-attr]


@pytest.mark.long
def test_a_stale_feed_before_the_first_day_is_not_asked_for(
    sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTS_START_DATE", "2019-01-25")
    assert isinstance(sensor.tick(), str)


@pytest.mark.long
def test_the_schedule_asks_for_no_day_before_the_first() -> None:
    at = datetime(2015, 2, 18, 0, 40, tzinfo=UTC)
    found = automation.events_every_day(dg.build_schedule_context(scheduled_execution_time=at))
    assert isinstance(found, dg.SkipReason)


@pytest.mark.long
def test_what_is_left_of_older_days_is_looked_for_too(sensor: Sensor, world: World) -> None:
    world.simulator.change(quarter(1), held=True)
    world.load_all()
    # Nothing ran for more than a week, in which the feed stood still.
    world.ahead = timedelta(days=9)
    assert DAY in [request.partition_key for request in sensor.requests() if sensor.run(request).success]
    assert (world.states()[1], world.manifest()[1].attempts) == ("absent", 2)
    world.execute("UPDATE events.intervals SET state = 'fetched' WHERE interval = '2019-01-21T00:30Z'")
    assert DAY in [request.partition_key for request in sensor.requests() if sensor.run(request).success]
    assert world.states()[2] == "loaded"


@pytest.mark.long
def test_a_pause_of_some_days_is_caught_up(sensor: Sensor, world: World) -> None:
    world.load(0, 4)
    world.simulator.advance(3 * 96)
    world.load(3 * 96, 3 * 96 + 4)
    world.ahead = HOUR
    assert [day for day, _ in sensor.run_all()] == [DAY, "2019-01-22", "2019-01-23"]
    assert world.us() == world.in_the_us(*range(3 * 96 + 4))
    assert sensor.tick() == NOTHING_NEW


@pytest.mark.long
def test_a_run_for_older_intervals_that_was_refused_is_not_asked_for_every_hour(
    sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load_all()
    world.execute("UPDATE events.intervals SET state = 'fetched' WHERE interval = '2019-01-21T00:30Z'")
    (request,) = sensor.requests()
    monkeypatch.setenv("EVENTS_US_COUNTRY_CODES", "USA")
    assert failed_steps(sensor.run(request)) == ["us_event_data"]
    monkeypatch.delenv("EVENTS_US_COUNTRY_CODES")
    world.simulator.advance(4)
    world.load(4, 8)
    world.ahead = timedelta(minutes=1)
    assert "was refused, and will be again unless something changes" in str(sensor.tick())


@pytest.mark.long
def test_a_newest_file_that_is_refused_with_403_keeps_nothing_else_waiting_and_is_asked_for_again(
    sensor: Sensor, world: World
) -> None:
    world.simulator.change(quarter(1), held=True)
    world.load(0, 3)
    world.simulator.change(quarter(3), withdrawn=True, withdrawn_as=403)
    (request,) = sensor.requests()
    assert failed_steps(sensor.run(request)) == ["raw_events"]
    assert (world.states()[3], world.manifest()[3].attempts) == ("missing", 1)
    assert sensor.tick() == NOTHING_NEW
    world.simulator.restore(quarter(1))
    world.ahead += HOUR
    requests = sensor.requests()
    assert [by_list(request) for request in requests] == [False]
    assert failed_steps(sensor.run(requests[0])) == ["raw_events"]
    # While the newest has to wait the other is looked for.
    assert sensor.run_all() == [(DAY, True)]
    assert world.states()[1] == "loaded"
    world.simulator.restore(quarter(3))
    world.ahead += timedelta(minutes=5)
    assert sensor.run_all() == [(DAY, False)]
    assert world.states()[3] == "loaded"


@pytest.mark.long
def test_what_is_fetched_is_derived_though_the_feed_is_down(
    sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (request,) = sensor.requests()
    with monkeypatch.context() as broken:
        broken.setattr("etl_assets.systems.events.assets.store_us_events", unavailable)
        assert failed_steps(sensor.run(request)) == ["us_event_data"]
    world.simulator.faults.rates("lastupdate.txt", {"503": 1.0})
    assert [request.partition_key for request in sensor.requests()] == [DAY]
    world.execute("UPDATE events.intervals SET state = 'loaded'")
    assert "GET /lastupdate.txt" in str(sensor.tick())


def test_a_tick_waits_for_the_feed_no_longer_than_dagster_for_the_tick() -> None:
    from dagster._grpc.utils import default_sensor_grpc_timeout

    most_s = (
        automation.IN_A_TICK.deadline_s + automation.IN_A_TICK.read_timeout_s + automation.IN_A_TICK.connect_timeout_s
    )
    assert most_s < default_sensor_grpc_timeout()
