"""The assets in Dagster: the tables, the days that count as there, and what is said of them."""

import base64
import shutil
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.systems.events import assets
from etl_assets.systems.events import raw_layer as intake
from etl_assets.systems.events.checks import CHECKS
from etl_assets.systems.events.map import us_map_svg
from etl_assets_tests.systems.events.world import ROWS, World, quarter
from etl_assets_tests.systems.outages.runs import QUIET, attempts, checks, failed_steps, failure, metadata

RAW, US = "raw_events", "us_event_data"
DAY, NEXT = "2019-01-21", "2019-01-22"
COUNTS = ("received", "inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined")


class Job:
    """The job over a world."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.definitions, self.instance = definitions, instance

    def __call__(self, day: str = DAY, until: str = "", *, master_list: bool = True) -> dg.ExecuteInProcessResult:
        """Runs it for a day, or for all from one to another."""
        tags = {"dagster/asset_partition_range_start": day, "dagster/asset_partition_range_end": until}
        return self.definitions.resolve_job_def("events_job").execute_in_process(
            instance=self.instance,
            tags=tags if until else {"dagster/partition": day},
            run_config={**QUIET, "ops": {f"events__{RAW}": {"config": {"master_list": master_list}}}},
            raise_on_error=False,
        )

    def derive(self, day: str = DAY) -> dg.ExecuteInProcessResult:
        """Runs the US events of a day alone."""
        return dg.materialize(
            assets.ASSETS,
            selection=[dg.AssetKey(["events", US])],
            partition_key=day,
            instance=self.instance,
            resources=self.definitions.resources,
            run_config=QUIET,
        )

    def there(self, asset: str = US) -> list[str]:
        """The partitions of an asset that Dagster shows as materialised."""
        return sorted(self.instance.get_materialized_partitions(dg.AssetKey(["events", asset])))


@pytest.fixture
def job(definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.001)
    return Job(definitions, instance)


def counts(found: dict[str, Any]) -> dict[str, int]:
    """The counts of a materialisation that are not 0."""
    return {name: found[name] for name in COUNTS if found[name]}


def left_out(found: dict[str, Any]) -> dict[str, int]:
    """How many events a materialisation left out, by reason."""
    return {name.removeprefix("left_out, "): value for name, value in found.items() if name.startswith("left_out, ")}


def test_where_the_raw_layer_is_is_shown_without_what_is_secret() -> None:
    root = ParquetRoot("memory://user:hidden@host/lake")
    assert assets.raw_metadata(DAY, [], {}, root=root)["relation"] == "/***@host/lake/events/raw_events"


def test_a_run_stores_the_intervals_of_its_day_and_says_what_became_of_them(job: Job, world: World) -> None:
    result = job()
    assert result.success
    assert world.us() == world.in_the_us(0, 1, 2, 3)
    raw, us = metadata(result, RAW, DAY), metadata(result, US, DAY)
    assert counts(raw) == {"received": 4 * ROWS, "inserted": 4 * ROWS}
    assert (raw["files"], raw["intervals_fetched"], raw["dagster/partition_row_count"]) == (4, 4, 4 * ROWS)
    assert raw["troubled"] == "none"
    assert counts(us) == {"received": 52, "inserted": 52}
    assert (us["intervals"], us["dagster/partition_row_count"]) == (4, 52)
    codes = [event["action_geo_country_code"] for number in range(4) for event in world.served(number)]
    assert left_out(us) == {
        "no action location": codes.count(None),
        "another country": len([code for code in codes if code not in (None, "US")]),
    }
    assert 52 + sum(left_out(us).values()) == 4 * ROWS
    assert job.there() == job.there(RAW) == [DAY]
    assert checks(result) == {
        (RAW, "has_rows"): True,
        (RAW, "no_interval_is_lost"): True,
        (US, "has_rows"): True,
        (US, "the_book_is_right"): True,
        (US, "is_current"): True,
    }


@pytest.mark.long
def test_the_map_of_a_day_has_its_events_with_coordinates(job: Job, world: World) -> None:
    found = metadata(job(), US, DAY)
    picture = base64.b64decode(found["map"].partition("base64,")[2].removesuffix(")")).decode()
    names = ["event_root_code", "action_geo_full_name", "action_geo_lat", "action_geo_long"]
    stored = world.query(f"SELECT {', '.join(names)} FROM events.us_event_data ORDER BY global_event_id")
    columns = dict(zip(names, map(list, zip(*stored, strict=True)), strict=True))
    assert picture == us_map_svg(pa.table(columns), title="Events in the United States", label=f"{DAY}, UTC")
    assert f"{DAY}, UTC" in picture


@pytest.mark.long
def test_a_second_run_fetches_and_writes_nothing(job: Job, world: World) -> None:
    job()
    before, files, asked = world.tables(), world.raw_versions(), world.asked()
    world.ahead += timedelta(minutes=13)
    result = job()
    assert (world.tables(), world.raw_versions(), world.asked()) == (before, files, asked)
    assert counts(metadata(result, RAW, DAY)) == {}
    assert metadata(result, RAW, DAY)["dagster/partition_row_count"] == 4 * ROWS
    assert counts(metadata(result, US, DAY)) == {"received": 52, "unchanged": 52}


@pytest.mark.long
def test_a_backfill_of_days_in_one_run_has_each_day_with_its_own_counts(job: Job, world: World) -> None:
    world.simulator.advance(96)
    result = job(DAY, NEXT)
    assert result.success
    assert world.us() == world.in_the_us(*range(100))
    assert set(world.states().values()) == {"loaded"}
    assert (len(world.manifest()), world.lists(), world.asked()) == (100, 1, 100)
    for day, numbers in ((DAY, range(96)), (NEXT, range(96, 100))):
        raw, us = metadata(result, RAW, day), metadata(result, US, day)
        expected = len(world.in_the_us(*numbers))
        assert (raw["files"], raw["dagster/partition_row_count"]) == (len(numbers), len(numbers) * ROWS)
        assert (us["intervals"], us["dagster/partition_row_count"], us["inserted"]) == (
            len(numbers),
            expected,
            expected,
        )
        assert expected + sum(left_out(us).values()) == len(numbers) * ROWS
        assert f"{day}, UTC" in base64.b64decode(us["map"].partition("base64,")[2].removesuffix(")")).decode()
    assert job.there() == job.there(RAW) == [DAY, NEXT]


@pytest.mark.long
def test_a_run_of_the_newest_file_reads_no_list_and_leaves_other_intervals_alone(job: Job, world: World) -> None:
    result = job(master_list=False)
    assert (world.states(), world.lists(), world.asked()) == ({3: "loaded"}, 0, 1)
    assert metadata(result, RAW, DAY)["files"] == 1
    assert world.us() == world.in_the_us(3)


@pytest.mark.long
def test_intervals_that_the_feed_does_not_have_yet_are_missing_and_no_failure(job: Job, world: World) -> None:
    for number in (0, 1, 2):
        world.simulator.change(quarter(number), held=True)
    result = job()
    assert result.success
    raw = metadata(result, RAW, DAY)
    assert (raw["intervals_missing"], raw["intervals_fetched"], raw["files"]) == (3, 1, 1)
    assert raw["troubled"].splitlines() == [
        f"- 00:{minute} missing: the feed does not list it" for minute in ("00", "15", "30")
    ]
    assert world.us() == world.in_the_us(3)
    # What may still come is not lost.
    assert checks(result)[RAW, "no_interval_is_lost"]


@pytest.mark.long
def test_refused_and_absent_intervals_are_named_and_the_check_fails(job: Job, world: World) -> None:
    world.simulator.change(quarter(1), defect="two-members")
    world.simulator.change(quarter(2), held=True)
    world.ahead = timedelta(hours=25)
    result = job()
    assert result.success
    raw = metadata(result, RAW, DAY)
    refused, *others = raw["troubled"].splitlines()
    assert refused.startswith("- 00:15 refused: 20190121001500.export.CSV.zip: ")
    assert others[0] == "- 00:30 absent: the feed does not list it"
    # Of the day's later intervals the simulated feed has none.
    assert (raw["intervals_fetched"], raw["intervals_refused"], raw["intervals_absent"]) == (2, 1, 5)
    assert raw["intervals_missing"] == 88
    assert len(others) == 12
    assert others[-1] == "- and 82 more"
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "no_interval_is_lost"]
    assert not check.passed
    assert check.metadata["lost"].value == 6
    assert str(check.metadata["newest"].value).endswith("2019-01-21T00:30Z absent, 2019-01-21T00:15Z refused")
    assert world.us() == world.in_the_us(0, 3)


@pytest.mark.long
def test_rows_in_quarantine_are_counted(job: Job, world: World) -> None:
    world.simulator.change(quarter(1), defect="bad-rows")
    assert counts(metadata(job(), RAW, DAY)) == {
        "received": 4 * ROWS,
        "inserted": 4 * ROWS - 5,
        "quarantined": 5,
    }


@pytest.mark.long
def test_the_us_events_alone_are_derived_by_another_rule_without_asking_the_feed(
    job: Job, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job()
    asked, lists, by_country = world.asked(), world.lists(), world.us()
    monkeypatch.setenv("EVENTS_US_RULE", "bounding_box")
    found = metadata(job.derive(), US, DAY)
    assert set(left_out(found)) == {"outside the box", "no coordinates"}
    assert len(world.us()) + sum(left_out(found).values()) == 4 * ROWS
    assert (world.asked(), world.lists()) == (asked, lists)
    monkeypatch.setenv("EVENTS_US_RULE", "country_code")
    job.derive()
    assert world.us() == by_country


@pytest.mark.long
def test_a_wrong_rule_is_refused_at_once_and_what_is_stored_stays(
    job: Job, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job()
    before = world.tables()
    monkeypatch.setenv("EVENTS_US_COUNTRY_CODES", "USA")
    world.simulator.republish(quarter(0))
    result = job()
    assert failed_steps(result) == [US]
    assert attempts(result, US) == 1
    assert "EVENTS_US_COUNTRY_CODES has 'USA'" in failure(result, US)
    assert world.tables()["us_event_data"] == before["us_event_data"]
    assert world.states() == {0: "fetched", 1: "loaded", 2: "loaded", 3: "loaded"}
    monkeypatch.delenv("EVENTS_US_COUNTRY_CODES")
    assert job().success
    assert world.us() == world.in_the_us(0, 1, 2, 3)


@pytest.mark.long
def test_a_manifest_that_is_wrong_fails_its_check(job: Job, world: World) -> None:
    job()
    world.execute("UPDATE events.intervals SET rows_us = rows_us + 1 WHERE interval = '2019-01-21T00:15Z'")
    (check,) = [check for check in checked(job) if check.check_name == "the_book_is_right"]
    assert (check.passed, check.metadata["wrong"].value) == (False, 1)


def checked(job: Job) -> list[dg.AssetCheckEvaluation]:
    """What the checks alone say of what is there."""
    result = dg.materialize(
        [*assets.ASSETS, *CHECKS],
        selection=dg.AssetSelection.checks_for_assets(dg.AssetKey(["events", US]), dg.AssetKey(["events", RAW])),
        instance=job.instance,
        resources=job.definitions.resources,
        run_config=QUIET,
    )
    return list(result.get_asset_check_evaluations())


@pytest.mark.long
@pytest.mark.parametrize("fault", ["500", "short-body", "reset-mid-body", "429-retry-after"])
def test_a_feed_that_fails_is_asked_again_and_leaves_whole_intervals_or_none(
    job: Job, world: World, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(intake, "AWAY_IN_A_ROW", 2)
    # Of two files in a row and one ahead, in three runs of the step with three attempts each.
    world.simulator.faults.script("files", ["none"] + [fault] * 27)
    result = job()
    assert failed_steps(result) == [RAW]
    assert attempts(result, RAW) == 3
    # The first try stored one interval, and the retries did not ask for it again.
    assert (world.states(), world.us(), world.asked()) == ({0: "fetched", 1: "missing", 2: "missing"}, {}, 28)
    assert world.raw(0).num_rows == ROWS
    world.simulator.faults.script("files", [fault, fault])
    result = job()
    assert (result.success, attempts(result, RAW)) == (True, 1)
    assert world.us() == world.in_the_us(0, 1, 2, 3)
    assert world.left_behind() == []


@pytest.mark.long
def test_an_address_that_is_no_feed_is_refused_at_once(job: Job, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTS_FEED_URL", f"{world.url}/elsewhere")
    result = job()
    assert (failed_steps(result), attempts(result, RAW)) == ([RAW], 1)
    assert "404" in failure(result, RAW)
    assert not world.written()


def test_days_are_partitions_until_the_present_one(world: World) -> None:
    keys = assets.DAYS.get_partition_keys(current_time=datetime.fromisoformat("2019-01-21T00:00:01+00:00"))
    assert keys[-2:] == ["2019-01-20", "2019-01-21"]


@pytest.mark.long
def test_a_raw_layer_that_is_gone_is_fetched_again_by_a_run_of_its_day(world: World, job: Job) -> None:
    world.load_all()
    shutil.rmtree(world.raw_file(0).parent.parent)
    assert job().success
    assert world.raw(0).num_rows == ROWS
