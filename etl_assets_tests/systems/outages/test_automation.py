"""When the system runs by itself: the schedule, and the sensors for new sites and for what is pending."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable
from etl_assets.simulators.controls import Refusal
from etl_assets.systems.outages import automation
from etl_assets.systems.outages.automation import (
    SITES,
    LastRequest,
    Pending,
    requests_due,
    wait_s,
)
from etl_assets.systems.outages.settings import OutagesSettings
from etl_assets_tests.systems.outages.world import SITE, World, outage

FIRST, SECOND = "2022-01-01T00:00:00.000Z", "2022-02-01T00:00:00.000Z"


@pytest.fixture
def instance(world: World) -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral(tempdir=str(OutagesSettings.load().etl_data_dir))


@pytest.fixture
def pending(world: World, instance: dg.DagsterInstance) -> World:
    """A registered site at which one outage waits."""
    instance.add_dynamic_partitions(SITES.name, [SITE])
    world.serve([outage("d1", FIRST)])
    world.store()
    return world


class Sensor:
    """The sensor of pending outages with its cursor from tick to tick, at a time of the test's own."""

    def __init__(self, world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.instance = world, instance
        self.cursor: str | None = None
        self.now = 1_000_000.0
        monkeypatch.setattr(automation.time, "time", lambda: self.now)

    def tick(self) -> Any:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"postgres": PostgresResource(url=self.world.database.url)},
        )
        result = automation.pending_site_outages(context)
        self.cursor = result.cursor
        return result

    def requested(self) -> list[str]:
        """The sites that a tick asks a delivery for."""
        return [str(request.partition_key) for request in self.tick().run_requests]


@pytest.fixture
def sensor(pending: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Sensor:
    return Sensor(pending, instance, monkeypatch)


# The schedule


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance that a schedule can be given: it is passed on by reference."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.mark.long
def test_the_schedule_asks_for_all_sites_in_one_run(on_disk: dg.DagsterInstance) -> None:
    instance = on_disk
    instance.add_dynamic_partitions(SITES.name, ["b", "a", "c"])
    request = automation.outages_every_15_minutes(dg.build_schedule_context(instance=instance))
    assert isinstance(request, dg.RunRequest)
    order = instance.get_dynamic_partitions(SITES.name)
    assert (request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"]) == (
        order[0],
        order[-1],
    )
    assert set(order) == {"a", "b", "c"}


@pytest.mark.long
def test_the_schedule_skips_and_says_why_while_no_site_is_registered(on_disk: dg.DagsterInstance) -> None:
    skipped = automation.outages_every_15_minutes(dg.build_schedule_context(instance=on_disk))
    assert isinstance(skipped, dg.SkipReason)
    assert "the sensor outages_sites adds those of OUTAGES_SITES" in str(skipped.skip_message)


def test_the_schedule_is_every_quarter_of_an_hour_in_utc_and_starts_switched_off() -> None:
    schedule = automation.outages_every_15_minutes
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("*/15 * * * *", "UTC")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


# New sites


def register(instance: dg.DagsterInstance) -> Any:
    return automation.outages_sites(dg.build_sensor_context(instance=instance))


def test_new_sites_are_registered_and_old_ones_keep_their_partition(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTAGES_SITES", "a, b ,a,")
    instance.add_dynamic_partitions(SITES.name, ["b", "gone"])
    [request] = register(instance).dynamic_partitions_requests
    assert (request.partition_keys, isinstance(request, dg.AddDynamicPartitionsRequest)) == (["a"], True)


def test_with_all_sites_registered_the_sensor_skips(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTAGES_SITES", "a")
    instance.add_dynamic_partitions(SITES.name, ["a"])
    assert "all sites of OUTAGES_SITES are registered" in str(register(instance).skip_message)


# What is pending


def test_a_site_with_something_pending_gets_a_delivery(sensor: Sensor) -> None:
    [request] = sensor.tick().run_requests
    assert request.partition_key == SITE
    assert request.run_key


def test_a_site_without_anything_pending_gets_none(sensor: Sensor) -> None:
    sensor.world.deliver()
    result = sensor.tick()
    assert result.run_requests == []
    assert "0 sites have pending outages" in str(result.skip_reason.skip_message)


def test_a_site_that_is_not_registered_gets_none(sensor: Sensor) -> None:
    sensor.instance.delete_dynamic_partition(SITES.name, SITE)
    assert sensor.requested() == []
    sensor.instance.add_dynamic_partitions(SITES.name, [SITE])
    assert sensor.requested() == [SITE]


@pytest.mark.long
def test_the_same_is_asked_for_again_with_growing_waits_and_a_new_key_each_time(sensor: Sensor) -> None:
    keys = [sensor.tick().run_requests[0].run_key]
    for wait in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        sensor.now += wait - 1
        assert sensor.requested() == []
        sensor.now += 1
        keys += [request.run_key for request in sensor.tick().run_requests]
    assert len(keys) == len(set(keys)) == 9


def test_something_new_is_asked_for_at_once(sensor: Sensor) -> None:
    assert sensor.requested() == [SITE]
    sensor.world.simulator.add_outage(SITE, 0, SECOND, SECOND)
    sensor.world.store()
    assert sensor.requested() == [SITE]
    assert sensor.requested() == []


def test_a_failed_delivery_does_not_block_the_next_request(sensor: Sensor) -> None:
    first = sensor.tick().run_requests[0].run_key
    sensor.world.simulator.faults.script("site-outages", ["503"] * 3)
    with pytest.raises(ApiUnavailable):
        sensor.world.deliver()
    sensor.now += 60
    [again] = sensor.tick().run_requests
    assert again.run_key != first
    sensor.world.deliver()
    assert sensor.requested() == []
    assert json.loads(sensor.cursor or "") == {}


@pytest.mark.long
@pytest.mark.parametrize("status", [400, 422, 401, 403, 404])
@pytest.mark.parametrize("faults_before", [0, 3], ids=["at once", "after a run without an answer"])
def test_what_the_api_has_refused_is_not_asked_for_again(
    sensor: Sensor, monkeypatch: pytest.MonkeyPatch, status: int, faults_before: int
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> int:
        raise Refusal(status, "no")

    assert sensor.requested() == [SITE]
    if faults_before:
        sensor.world.simulator.faults.script("site-outages", ["429"] * faults_before)
        with pytest.raises(ApiUnavailable):
            sensor.world.deliver()
    monkeypatch.setattr(sensor.world.simulator, "deliver", refuse)
    with pytest.raises(ApiRefused):
        sensor.world.deliver()
    for _ in range(3):
        sensor.now += 100_000
        assert sensor.requested() == []
    sensor.world.simulator.add_outage(SITE, 0, SECOND, SECOND)
    sensor.world.store()
    assert sensor.requested() == [SITE]


def test_a_disputed_delivery_is_not_asked_for_again_until_it_is_settled(sensor: Sensor) -> None:
    assert sensor.requested() == [SITE]
    sensor.world.simulator.faults.script("site-outages", ["429"] * 3)
    with pytest.raises(ApiUnavailable):
        sensor.world.deliver()
    sensor.world.execute("UPDATE outages.delivery_batches SET state = 'disputed'")
    sensor.now += 100_000
    assert sensor.requested() == []


@pytest.mark.long
def test_two_ticks_from_the_same_cursor_ask_for_the_same_run_once(sensor: Sensor) -> None:
    [first] = sensor.tick().run_requests
    sensor.cursor = None
    [second] = sensor.tick().run_requests
    assert first.run_key == second.run_key


# The rule of the sensor


def test_what_is_due_follows_from_what_is_pending_and_what_was_asked() -> None:
    one = requests_due({"a": Pending(("k1",), False)}, {}, now=0.0)
    assert (one["a"].at, one["a"].times) == (0.0, 1)
    assert requests_due({"a": Pending(("k1",), False)}, one, now=59.9) == {}
    two = requests_due({"a": Pending(("k1",), False)}, one, now=60.0)
    assert two == {"a": LastRequest(one["a"].pending, 60.0, 2)}
    assert requests_due({"a": Pending(("k1",), True)}, two, now=1e9) == {}
    assert requests_due({"a": Pending(("k1", "k2"), True)}, two, now=60.0)["a"].times == 1
    assert requests_due({}, two, now=1e9) == {}


def test_the_wait_doubles_up_to_an_hour() -> None:
    assert [wait_s(times) for times in (1, 2, 3, 6, 7, 8, 10_000)] == [60, 120, 240, 1920, 3600, 3600, 3600]
