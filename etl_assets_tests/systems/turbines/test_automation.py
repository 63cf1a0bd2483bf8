"""When the system runs by itself: every day for the one before, and for days of which signals came late."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.core.dagster.database import PostgresResource
from etl_assets.errors import TransientError
from etl_assets.systems.turbines import automation
from etl_assets.systems.turbines.assets import partitions
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.transform import DAY
from etl_assets_tests.systems.outages.runs import QUIET, failed_steps
from etl_assets_tests.systems.turbines.world import FIRST, QuickTurbinesApiResource, World, assert_same, at

LAST = FIRST + 3 * DAY
QUIET_TICK = "the source has nothing new of the last days"


class Sensor:
    """The sensor from tick to tick, and the runs that it asks for, at a time of the test's own."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: Any) -> None:
        self.definitions, self.instance = definitions, instance
        self.wait_s = 0.0
        clock = automation.time.time
        monkeypatch.setattr(automation.time, "time", lambda: clock() + self.wait_s)

    def tick(self) -> list[dg.RunRequest] | str:
        """The runs that a tick asks for, or why it asks for none."""
        resources = {"turbines_api": QuickTurbinesApiResource(), "postgres": PostgresResource()}
        context = dg.build_sensor_context(instance=self.instance, resources=resources)
        result = automation.late_turbine_signals(context)
        return str(result.skip_message) if isinstance(result, dg.SkipReason) else list(result.run_requests)

    def requests(self) -> list[dg.RunRequest]:
        """The runs of a tick that asks for some."""
        found = self.tick()
        assert isinstance(found, list), found
        return found

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        return self.definitions.resolve_job_def("turbines_job").execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            tags=dict(request.tags),
            run_config={**QUIET, **request.run_config},
            raise_on_error=False,
        )

    def run_all(self) -> list[str]:
        """Runs all that a tick asks for; gives their days."""
        requests = self.requests()
        assert all(self.run(request).success for request in requests)
        return [str(request.partition_key) for request in requests]


@pytest.fixture
def sensor(definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Sensor:
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.001)
    return Sensor(definitions, instance, monkeypatch)


@pytest.mark.long
def test_the_last_days_are_loaded_once_and_then_nothing_is_asked_for(sensor: Sensor, world: World) -> None:
    assert sensor.run_all() == ["2024-05-21", "2024-05-22", "2024-05-23"]
    assert sensor.tick() == QUIET_TICK
    world.quirks(shuffled=True)
    assert sensor.tick() == QUIET_TICK


@pytest.mark.long
def test_a_late_minute_recomputes_its_day_only(sensor: Sensor, world: World) -> None:
    world.simulator.hold(at("12:34", LAST), at("12:35", LAST))
    sensor.run_all()
    before = world.tables()
    world.simulator.release()
    assert sensor.run_all() == ["2024-05-23"]
    changed = {row[0] for row in set(world.tables()["data"]) - set(before["data"])}
    assert changed == {at("12:30", LAST)}
    assert_same(world.ten_minute(LAST), world.computed(LAST))
    assert sensor.tick() == QUIET_TICK


@pytest.mark.long
def test_a_late_minute_recomputes_all_the_signals_that_the_day_was_loaded_with(sensor: Sensor, world: World) -> None:
    columns = ("ambient_temperature", "wind_speed")
    world.simulator.hold(at("12:34", LAST), at("12:35", LAST))
    world.load(LAST - 2 * DAY, LAST - DAY, LAST, columns=columns)
    assert sensor.tick() == QUIET_TICK
    world.simulator.release()
    assert sensor.run_all() == ["2024-05-23"]
    assert_same(world.ten_minute(LAST), world.computed(LAST, columns=columns))


@pytest.mark.long
def test_the_same_tick_twice_asks_for_the_same_runs(sensor: Sensor) -> None:
    first, second = sensor.requests(), sensor.requests()
    assert [request.run_key for request in first] == [request.run_key for request in second]
    assert len({request.run_key for request in first}) == 3


@pytest.mark.long
def test_days_of_which_the_source_has_nothing_are_not_asked_for(sensor: Sensor, world: World) -> None:
    for number in range(3):
        world.only("00:00", "00:00", LAST - number * DAY)
    assert sensor.tick() == QUIET_TICK


@pytest.mark.long
def test_after_a_failed_run_the_day_is_asked_for_with_growing_waits_and_new_keys(sensor: Sensor, world: World) -> None:
    world.load(LAST - 2 * DAY, LAST - DAY)
    keys = set()
    for wait_s in (60, 120):
        (request,) = sensor.requests()
        world.simulator.faults.script("data", ["500"] * 9)
        assert not sensor.run(request).success
        keys.add(request.run_key)
        assert f"asked for after {wait_s} s" in str(sensor.tick())
        sensor.wait_s += wait_s
    (request,) = sensor.requests()
    assert sensor.run(request).success
    assert len({*keys, request.run_key}) == 3
    assert sensor.tick() == QUIET_TICK
    assert_same(world.ten_minute(LAST), world.computed(LAST))


@pytest.mark.long
def test_a_run_that_failed_after_the_raw_layer_was_stored_is_asked_for_again(
    sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load(LAST - 2 * DAY, LAST - DAY)
    (request,) = sensor.requests()
    with monkeypatch.context() as broken:
        broken.setattr("etl_assets.systems.turbines.assets.store_days", unavailable)
        assert failed_steps(sensor.run(request)) == ["ten_minute_statistics"]
    assert world.raw(LAST).num_rows == 1440
    assert "asked for after 60 s" in str(sensor.tick())
    sensor.wait_s += 60
    assert sensor.run_all() == ["2024-05-23"]
    assert_same(world.ten_minute(LAST), world.computed(LAST))
    assert sensor.tick() == QUIET_TICK


def unavailable(*_: Any, **__: Any) -> Any:
    raise TransientError("the target is away")


@pytest.mark.long
def test_a_day_that_a_run_refused_is_not_asked_for_again_before_something_changes(sensor: Sensor, world: World) -> None:
    world.load(LAST - 2 * DAY, LAST - DAY)
    (request,) = sensor.requests()
    world.execute("ALTER TABLE bin ADD CONSTRAINT early CHECK (timestamp < '2024-05-23')")
    assert not sensor.run(request).success
    for sensor.wait_s in (0.0, 1e6):
        assert "was refused, and will be again unless something changes" in str(sensor.tick())
    world.simulator.hold(at("12:34", LAST), at("12:35", LAST))
    (other,) = sensor.requests()
    assert other.run_key != request.run_key


@pytest.mark.long
def test_a_run_that_is_queued_is_not_asked_for_twice(sensor: Sensor, definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def("turbines_job")
    sensor.instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
    assert "a run of turbines_job is queued or running" in str(sensor.tick())


@pytest.mark.long
def test_a_source_that_is_away_is_said_and_nothing_is_asked_for(sensor: Sensor, world: World) -> None:
    world.simulator.faults.script("data", ["503"] * 3)
    assert "503" in str(sensor.tick())


@pytest.mark.long
def test_an_unset_source_is_named(sensor: Sensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURBINES_API_URL")
    assert "TURBINES_API_URL is not set" in str(sensor.tick())


def test_the_last_days_are_within_the_dates_of_the_settings(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBINES_END_DATE", "2024-05-23")

    def days(today: datetime) -> list[int]:
        return [day.day for day in automation.last_days(TurbinesSettings.load(), today=today.date())]

    assert days(datetime(2024, 5, 20, tzinfo=UTC)) == []
    assert days(datetime(2024, 5, 21, tzinfo=UTC)) == [20]
    assert days(datetime(2024, 5, 24, tzinfo=UTC)) == [21, 22, 23]
    assert days(datetime(2025, 5, 24, tzinfo=UTC)) == [21, 22, 23]


def scheduled(year: int, month: int, day: int) -> dg.RunRequest | dg.SkipReason:
    """What the schedule asks for on a day at 00:20 UTC."""
    context = dg.build_schedule_context(scheduled_execution_time=datetime(year, month, day, 0, 20, tzinfo=UTC))
    return automation.turbines_every_day(context)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("today", "day"),
    [((2024, 5, 21), "2024-05-20"), ((2025, 1, 1), "2024-12-31"), ((2025, 3, 1), "2025-02-28")],
)
def test_the_schedule_asks_for_the_day_that_is_over(today: tuple[int, int, int], day: str) -> None:
    request = scheduled(*today)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == day


def test_the_schedule_asks_for_nothing_outside_of_the_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(scheduled(2024, 5, 20), dg.SkipReason)
    monkeypatch.setenv("TURBINES_END_DATE", "2024-05-22")
    monkeypatch.setattr(automation, "DAYS", partitions())
    assert isinstance(scheduled(2024, 5, 23), dg.RunRequest)
    skipped = scheduled(2024, 5, 24)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "2024-05-23 is not between TURBINES_START_DATE and TURBINES_END_DATE"


def test_the_days_begin_and_end_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBINES_START_DATE", "2024-02-28")
    monkeypatch.setenv("TURBINES_END_DATE", "2024-03-01")
    assert partitions().get_partition_keys() == ["2024-02-28", "2024-02-29", "2024-03-01"]
