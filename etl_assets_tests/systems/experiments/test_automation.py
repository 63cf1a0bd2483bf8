"""When the system runs by itself: every day, and when the files say something else than the tables."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from etl_assets.errors import TransientError
from etl_assets.systems.experiments import assets, automation, source
from etl_assets.systems.experiments.assets import ExperimentFilesResource
from etl_assets_tests.systems.experiments.world import EXPERIMENTS, USERS, World, touch
from etl_assets_tests.systems.outages.runs import QUIET


class Sensor:
    """The sensor of the files from tick to tick, and the runs that it asks for, at a time of the test's own."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: Any) -> None:
        self.definitions, self.instance = definitions, instance
        self.wait_s = 0.0
        clock = automation.time.time
        monkeypatch.setattr(automation.time, "time", lambda: clock() + self.wait_s)
        monkeypatch.setattr(automation, "REST_S", 0.0)

    def tick(self) -> dg.RunRequest | str:
        """The run that a tick asks for, or why it asks for none."""
        context = dg.build_sensor_context(
            instance=self.instance, resources={"experiment_files": ExperimentFilesResource()}
        )
        result = automation.experiment_files(context)
        return str(result.skip_message) if isinstance(result, dg.SkipReason) else result

    def run(self, request: dg.RunRequest | str) -> dg.ExecuteInProcessResult:
        assert isinstance(request, dg.RunRequest), request
        return self.definitions.resolve_job_def("experiments_job").execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            tags=dict(request.tags),
            run_config=dict(QUIET),
            raise_on_error=False,
        )


@pytest.fixture
def sensor(definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Sensor:
    return Sensor(definitions, instance, monkeypatch)


def test_new_files_are_loaded_once(sensor: Sensor, world: World) -> None:
    days = [f"{datetime.now(UTC):%Y-%m-%d}"]
    request = sensor.tick()
    days.append(f"{datetime.now(UTC):%Y-%m-%d}")
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key in days
    assert sensor.run(request).success
    assert sensor.tick() == "the files are those of the tables"
    assert len(world.tables()["user_features"]) == 3


@pytest.mark.long
def test_another_time_of_the_same_content_asks_for_nothing(sensor: Sensor, world: World) -> None:
    sensor.run(sensor.tick())
    touch(world.folder / "users.csv", later_s=3600)
    assert sensor.tick() == "the files are those of the tables"


@pytest.mark.long
def test_other_content_of_the_same_size_and_time_is_seen(sensor: Sensor, world: World) -> None:
    sensor.run(sensor.tick())
    path = world.folder / "users.csv"
    before = path.stat()
    world.rewrite(users=[USERS[0].replace("Alice", "Alina"), *USERS[1:]])
    touch(path, later_s=before.st_mtime - path.stat().st_mtime)
    assert path.stat().st_size == before.st_size
    assert isinstance(sensor.tick(), dg.RunRequest)


@pytest.mark.long
def test_files_that_still_grow_are_waited_for(sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automation, "REST_S", 5.0)
    rows = iter(range(1, len(EXPERIMENTS)))
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        world.rewrite(experiments=EXPERIMENTS[: next(rows, len(EXPERIMENTS))])

    monkeypatch.setattr(automation.time, "sleep", sleep)
    for _ in EXPERIMENTS:
        assert sensor.tick() == "the files are being written"
    assert isinstance(sensor.tick(), dg.RunRequest)
    assert set(waited) == {5.0}


def test_files_that_rest_are_asked_for_at_once(sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automation, "REST_S", 5.0)
    for file in world.folder.iterdir():
        touch(file, later_s=-60)

    def sleep(seconds: float) -> None:
        raise AssertionError("nothing is to be waited for")

    monkeypatch.setattr(automation.time, "sleep", sleep)
    assert isinstance(sensor.tick(), dg.RunRequest)


def test_the_same_tick_twice_asks_for_the_same_run(sensor: Sensor) -> None:
    first = sensor.tick()
    second = sensor.tick()
    assert isinstance(first, dg.RunRequest)
    assert isinstance(second, dg.RunRequest)
    assert first.run_key == second.run_key


@pytest.mark.long
def test_files_that_a_run_refused_are_not_asked_for_again_before_they_change(sensor: Sensor, world: World) -> None:
    (world.folder / "users.csv").write_text("user_id,name\n1,Alice")
    assert not sensor.run(sensor.tick()).success
    for sensor.wait_s in (0.0, 1e6):
        message = sensor.tick()
        assert isinstance(message, str)
        assert "was refused, and will be again unless something changes" in message
        assert "users.csv" in message
    world.rewrite()
    assert sensor.run(sensor.tick()).success


@pytest.mark.long
def test_after_another_failure_the_same_files_are_asked_for_with_growing_waits_and_new_keys(
    sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: Any) -> Any:
        raise TransientError("the disk is away")

    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.001)
    keys = set()
    with monkeypatch.context() as broken:
        broken.setattr(source.ExperimentFolder, "read", unavailable)
        for wait_s in (60, 120):
            request = sensor.tick()
            assert not sensor.run(request).success
            assert isinstance(request, dg.RunRequest)
            keys.add(request.run_key)
            message = sensor.tick()
            assert isinstance(message, str)
            assert f"asked for after {wait_s} s" in message
            sensor.wait_s += wait_s
    assert sensor.run(sensor.tick()).success
    assert len(keys) == 2


@pytest.mark.long
def test_content_that_was_there_before_is_loaded_again(sensor: Sensor, world: World) -> None:
    first = sensor.tick()
    sensor.run(first)
    world.rewrite(users=USERS[:2])
    sensor.run(sensor.tick())
    world.rewrite()
    again = sensor.tick()
    assert isinstance(first, dg.RunRequest)
    assert isinstance(again, dg.RunRequest)
    assert again.run_key != first.run_key
    sensor.run(again)
    assert len(world.tables()["users"]) == 3


@pytest.mark.long
def test_a_run_that_is_queued_is_not_asked_for_twice(sensor: Sensor, definitions: dg.Definitions) -> None:
    sensor.tick()
    job = definitions.resolve_job_def("experiments_job")
    sensor.instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
    assert sensor.tick() == "a run of experiments_job is queued or running"


def test_a_missing_file_is_named_and_nothing_is_asked_for(sensor: Sensor, world: World) -> None:
    (world.folder / "compounds.csv").unlink()
    message = sensor.tick()
    assert isinstance(message, str)
    assert "compounds.csv is missing" in message


def test_without_a_folder_the_sensor_names_the_variable(sensor: Sensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPERIMENTS_DIR")
    assert "EXPERIMENTS_DIR is not set" in str(sensor.tick())


def test_the_schedule_asks_for_the_day_that_begins() -> None:
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2024, 2, 29, 0, 10, tzinfo=UTC))
    request = automation.experiments_every_day(context)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2024-02-29"


@pytest.mark.long
def test_files_whose_run_failed_behind_the_first_tables_are_asked_for_again(
    sensor: Sensor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.001)

    def unavailable(*_: Any) -> Any:
        raise TransientError("the database is away")

    with monkeypatch.context() as broken:
        broken.setattr(assets, "experience", unavailable)
        assert not sensor.run(sensor.tick()).success
    assert len(world.tables()["users"]) == 3
    message = sensor.tick()
    assert isinstance(message, str)
    assert "asked for after 60 s" in message
    sensor.wait_s += 60
    assert sensor.run(sensor.tick()).success
    assert sensor.tick() == "the files are those of the tables"
