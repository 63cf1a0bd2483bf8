"""The assets in Dagster: the tables, the days that count as there, and what is said of them."""

import base64
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.core.dagster.io_managers import ParquetIOManager
from etl_assets.systems.turbines import assets
from etl_assets.systems.turbines.transform import DAY
from etl_assets_tests.systems.outages.runs import QUIET, attempts, checks, failed_steps, failure, metadata
from etl_assets_tests.systems.turbines.conftest import definitions_of
from etl_assets_tests.systems.turbines.world import DEFAULT, FIRST, World, assert_same, at

RAW, STATISTICS = "raw_turbine_signals", "ten_minute_statistics"


class Job:
    """The job over a world."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.definitions, self.instance = definitions, instance

    def __call__(
        self, day: date = FIRST, until: date | None = None, columns: Sequence[str] = (), **options: Any
    ) -> dg.ExecuteInProcessResult:
        """Runs it for a day, or for all from one to another; options are those of the statistics."""
        tags = {"dagster/asset_partition_range_start": f"{day}", "dagster/asset_partition_range_end": f"{until}"}
        config: dict[str, Any] = {**QUIET, "ops": {f"turbines__{STATISTICS}": {"config": options}}}
        if columns:
            config["ops"][f"turbines__{RAW}"] = {"config": {"columns": list(columns)}}
        return self.definitions.resolve_job_def("turbines_job").execute_in_process(
            instance=self.instance,
            tags=tags if until else {"dagster/partition": f"{day}"},
            run_config=config,
            raise_on_error=False,
        )

    def there(self, asset: str = STATISTICS) -> list[str]:
        """The partitions of an asset that Dagster shows as materialised."""
        return sorted(self.instance.get_materialized_partitions(dg.AssetKey(["turbines", asset])))

    def events(self, asset: str = STATISTICS) -> int:
        """How often a day of an asset was materialised."""
        return len(self.instance.fetch_materializations(dg.AssetKey(["turbines", asset]), limit=100).records)


@pytest.fixture
def job(definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.001)
    return Job(definitions, instance)


def test_a_run_stores_its_day_and_says_what_became_of_it(job: Job, world: World) -> None:
    result = job()
    assert result.success
    assert_same(world.ten_minute(), world.computed())
    found = metadata(result, STATISTICS, "2024-05-20")
    assert {name: found[name] for name in ("received", "inserted", "bins", "dagster/partition_row_count")} == {
        "received": 1152,
        "inserted": 1152,
        "bins": 144,
        "dagster/partition_row_count": 1152,
    }
    assert (found["turbines"], found["columns"]) == ("the only one", "wind_speed, power")
    assert json.loads(found["quality"])["power"] == {
        "bins": 144,
        "missing": 0,
        **dict.fromkeys(("gap", "duplicate", "out_of_range", "frozen", "spike", "low_coverage"), 0),
    }
    assert metadata(result, RAW, "2024-05-20")["inserted"] == 1440
    assert job.there() == job.there(RAW) == ["2024-05-20"]


def test_each_day_of_a_run_is_behind_its_own_raw_day_alone(job: Job, world: World) -> None:
    days = [f"{FIRST + number * DAY}" for number in range(2)]
    first = job(FIRST, FIRST + DAY)
    heads = world.query("SELECT partition, inputs FROM etl.heads WHERE asset = 'public.data'")
    inputs = {partition: json.loads(found)["turbines.raw_turbine_signals"] for partition, found in heads}
    assert {partition: [*commits] for partition, commits in inputs.items()} == {day: [day] for day in days}
    assert metadata(first, STATISTICS, days[0])["derived_from"] == {"turbines.raw_turbine_signals": inputs[days[0]]}


@pytest.mark.long
def test_the_plot_of_a_day_is_metadata_and_a_file(job: Job, data_dir: Path) -> None:
    found = metadata(job(), STATISTICS, "2024-05-20")
    folder = data_dir / "reports" / "turbines" / "2024-05-20"
    assert found["page"] == str(folder / "day.html")
    picture = (folder / "turbine.svg").read_bytes()
    assert base64.b64decode(found["plot"].partition("base64,")[2].removesuffix(")")) == picture
    # The range, the deviation and the coverage of each signal, each with its opacity.
    bands = [picture.count(b'fill-opacity="%b"' % opacity) for opacity in (b"0.22", b"0.45", b"0.5")]
    assert min(bands) >= len(DEFAULT), bands


@pytest.mark.long
def test_a_run_of_many_days_draws_none_and_says_how_to(
    job: Job, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "DAYS_DRAWN", 1)
    found = metadata(job(FIRST, FIRST + DAY), STATISTICS, "2024-05-21")
    assert found["page"] == "a run of many days draws none: etl-assets turbines page 2024-05-21"
    assert "plot" not in found
    assert not (data_dir / "reports").exists()


@pytest.mark.long
def test_the_checks_run_with_the_job(job: Job, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBINES_END_DATE", "2024-05-21")
    assert checks(job()) == {
        (RAW, "has_rows"): True,
        (STATISTICS, "no_gaps"): False,
        (STATISTICS, "statistics_are_in_order"): True,
        (STATISTICS, "is_current"): True,
    }
    assert checks(job(FIRST + DAY))[STATISTICS, "no_gaps"]


@pytest.mark.long
def test_a_second_run_writes_nothing(job: Job, world: World) -> None:
    job()
    before, file = world.tables(), world.raw_file().read_bytes()
    world.quirks(shuffled=True)
    result = job()
    assert world.tables() == before
    assert world.raw_file().read_bytes() == file
    for asset in (RAW, STATISTICS):
        found = metadata(result, asset, "2024-05-20")
        assert (found["inserted"], found["updated"], found["deleted"]) == (0, 0, 0)


@pytest.mark.long
def test_a_backfill_in_one_run_has_each_day_but_the_one_that_the_source_has_nothing_of(job: Job, world: World) -> None:
    gap = FIRST + 2 * DAY
    world.only("00:00", "00:00", gap)
    result = job(FIRST, FIRST + 3 * DAY)
    assert result.success
    assert job.there() == ["2024-05-20", "2024-05-21", "2024-05-23"]
    assert job.there(RAW) == ["2024-05-20", "2024-05-21", "2024-05-22", "2024-05-23"]
    for day in (FIRST, FIRST + DAY, FIRST + 3 * DAY):
        assert_same(world.ten_minute(day), world.computed(day))
        assert metadata(result, STATISTICS, f"{day}")["bins"] == len(
            {(at, turbine) for at, turbine, _ in world.ten_minute(day)}
        )
    assert world.days() == [FIRST, FIRST + DAY, FIRST + 3 * DAY]
    assert checks(result)[STATISTICS, "no_gaps"] is False
    world.simulator.release()
    assert job(gap).success
    assert job.there() == job.there(RAW)


@pytest.mark.long
def test_a_day_of_which_the_source_has_nothing_is_not_materialised_and_nothing_is_deleted(
    job: Job, world: World
) -> None:
    job()
    before = world.tables()
    seen = job.events()
    world.only("00:00", "00:00")
    result = job()
    assert result.success
    assert world.tables() == before
    assert job.events() == seen == 1
    assert metadata(result, RAW, "2024-05-20")["received"] == 0


@pytest.mark.long
def test_a_run_replaces_only_the_signals_that_it_asked_for(job: Job, world: World) -> None:
    job(columns=["wind_speed", "ambient_temperature"])
    result = job(columns=["power", "power"])
    assert result.success, failure(result, failed_steps(result)[0])
    columns = ("wind_speed", "ambient_temperature", "power")
    assert_same(world.ten_minute(), world.computed(columns=columns))
    assert metadata(result, STATISTICS, "2024-05-20")["columns"] == "power"


@pytest.mark.long
def test_several_turbines_are_asked_for_by_name(farm: World, instance: dg.DagsterInstance) -> None:
    result = Job(definitions_of(farm), instance)(FIRST, FIRST + DAY)
    assert result.success
    for day in (FIRST, FIRST + DAY):
        assert_same(farm.ten_minute(day), farm.computed(day, turbines=("T01", "T02")))
    assert metadata(result, STATISTICS, "2024-05-21")["turbines"] == "T01, T02"


@pytest.mark.long
def test_unknown_columns_are_refused_at_once_and_nothing_is_written(job: Job, world: World) -> None:
    result = job(columns=["power", "rpm"])
    assert not result.success
    assert "rpm: the columns are wind_speed, power" in failure(result, RAW)
    assert (attempts(result, RAW), world.asked(), world.written()) == (1, 0, False)


@pytest.mark.long
def test_columns_that_the_source_does_not_know_are_refused_at_once(job: Job, world: World) -> None:
    world.quirks(renamed={"power": "active_power"})
    result = job()
    assert "active_power" in failure(result, RAW)
    assert (attempts(result, RAW), world.written()) == (1, False)


@pytest.mark.long
@pytest.mark.parametrize("fault", ["500", "timeout-mid-body", "short-body", "reset-mid-body"])
def test_a_source_that_fails_is_asked_again_and_leaves_whole_days_or_none(job: Job, world: World, fault: str) -> None:
    world.simulator.faults.script("data", [fault] * 9)
    result = job(FIRST, FIRST + DAY)
    assert failed_steps(result) == [RAW]
    assert (attempts(result, RAW), world.asked(), world.written(), job.there()) == (3, 9, False, [])
    world.simulator.faults.script("data", [fault] * 4)
    result = job(FIRST, FIRST + DAY)
    assert (result.success, attempts(result, RAW)) == (True, 2)
    for day in (FIRST, FIRST + DAY):
        assert_same(world.ten_minute(day), world.computed(day))


@pytest.mark.long
def test_a_target_that_refuses_leaves_the_old_day_and_the_next_run_mends_it(job: Job, world: World) -> None:
    world.simulator.hold(at("05:05"), at("05:06"))
    job()
    before = world.tables()
    world.simulator.release()
    world.execute("ALTER TABLE bin ADD CONSTRAINT no_more CHECK (timestamp <> '2024-05-20 05:00Z') NOT VALID")
    result = job()
    assert failed_steps(result) == [STATISTICS]
    assert "no_more" in failure(result, STATISTICS)
    assert attempts(result, STATISTICS) == 1
    assert world.tables() == before
    world.execute("ALTER TABLE bin DROP CONSTRAINT no_more")
    assert job().success
    assert_same(world.ten_minute(), world.computed())


@pytest.mark.long
def test_raw_signals_that_another_run_has_replaced_are_not_taken_for_those_of_this_run(
    job: Job, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(self: Any, context: Any) -> Any:
        world.load(columns=["power"])
        return load_input(self, context)

    load_input = ParquetIOManager.load_input
    monkeypatch.setattr(ParquetIOManager, "load_input", replaced)
    result = job(columns=["wind_speed"])
    assert failed_steps(result) == [STATISTICS]
    assert "another run" in failure(result, STATISTICS)
    assert {key[2] for key in world.ten_minute()} == {"power"}
    monkeypatch.setattr(ParquetIOManager, "load_input", load_input)
    assert job(columns=["wind_speed"]).success
    assert_same(world.ten_minute(), world.computed())


@pytest.mark.long
def test_the_statistics_alone_are_computed_of_the_raw_signals_that_are_there(job: Job, world: World) -> None:
    world.load(columns=["power"])
    world.execute("DELETE FROM data; DELETE FROM bin")
    asked = world.asked()
    result = dg.materialize(
        assets.ASSETS,
        selection=[dg.AssetKey(["turbines", STATISTICS])],
        partition_key="2024-05-20",
        instance=job.instance,
        resources=job.definitions.resources,
    )
    assert result.success
    assert world.asked() == asked
    assert_same(world.ten_minute(), world.computed(columns=["power"]))
