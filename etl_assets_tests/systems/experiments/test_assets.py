"""The assets in Dagster: the tables, the features by day, and their metadata."""

from typing import Any

import dagster as dg
import pytest

from etl_assets.core.dagster.database import PostgresResource
from etl_assets.systems.experiments.checks import (
    compounds_are_known,
    every_user_has_features,
    experiments_belong_to_users,
)
from etl_assets_tests.systems.experiments.test_script import FEATURES, NINE_OF_TEN_BAD
from etl_assets_tests.systems.experiments.world import EXPERIMENTS, USERS, World
from etl_assets_tests.systems.outages.runs import QUIET, attempts, checks, failure, metadata

DAY = "2023-12-31"


class Job:
    """The job over a world."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.definitions, self.instance = definitions, instance

    def __call__(self, day: str = DAY, until: str | None = None, **more: str) -> dg.ExecuteInProcessResult:
        tags = {"dagster/partition": day}
        if until:
            tags = {"dagster/asset_partition_range_start": day, "dagster/asset_partition_range_end": until}
        tags |= {f"etl_assets/{name}": value for name, value in more.items()}
        return self.definitions.resolve_job_def("experiments_job").execute_in_process(
            instance=self.instance, tags=tags, run_config=dict(QUIET), raise_on_error=False
        )


@pytest.fixture
def job(definitions: dg.Definitions, instance: dg.DagsterInstance) -> Job:
    return Job(definitions, instance)


def counts(found: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(found[name] for name in ("received", "inserted", "deduplicated", "quarantined"))


def test_a_run_stores_the_tables_and_the_features_of_its_day(job: Job, world: World) -> None:
    result = job()
    assert result.success
    assert world.tables()["user_features"] == FEATURES
    assert counts(metadata(result, "experiment_compounds", None)) == (8, 7, 1, 0)
    assert metadata(result, "experiment_compounds", None)["repeated_compound_ids"] == 1
    assert metadata(result, "user_features", DAY)["dagster/partition_row_count"] == 3
    assert checks(result) == {
        ("users", "has_rows"): True,
        ("compounds", "has_rows"): True,
        ("user_experiments", "has_rows"): True,
        ("experiment_compounds", "has_rows"): True,
        ("user_features", "has_rows"): True,
        ("user_experiments", "experiments_belong_to_users"): True,
        ("experiment_compounds", "compounds_are_known"): True,
        ("user_features", "every_user_has_features"): True,
        ("user_features", "is_current"): True,
    }


@pytest.mark.long
def test_each_table_tells_which_files_it_is_from(job: Job, world: World) -> None:
    first = metadata(job(), "users", None)
    world.rewrite(users=USERS[:2])
    second = metadata(job(), "users", None)
    assert len(first["files"]) == 64
    assert first["files"] != second["files"]
    assert first["sha256 of users.csv"] != second["sha256 of users.csv"]
    assert first["sha256 of compounds.csv"] == second["sha256 of compounds.csv"]


@pytest.mark.long
def test_a_second_run_writes_nothing(job: Job, world: World) -> None:
    job()
    before = world.tables()
    result = job()
    assert world.tables() == before
    for asset, day in (("users", None), ("experiment_compounds", None), ("user_features", DAY)):
        found = metadata(result, asset, day)
        assert (found["inserted"], found["updated"], found["deleted"]) == (0, 0, 0)


@pytest.mark.long
def test_several_days_of_one_run_are_each_a_slice_of_its_own(job: Job, world: World) -> None:
    result = job("2023-12-30", "2024-01-01")
    assert result.success
    assert world.query("SELECT as_of::text, count(*) FROM experiments.user_features GROUP BY 1 ORDER BY 1") == [
        ("2023-12-30", 3),
        ("2023-12-31", 3),
        ("2024-01-01", 3),
    ]
    assert [row[:3] for row in world.ledger() if row[0] == "experiments.user_features"] == [
        ("experiments.user_features", 3, 3)
    ] * 3
    assert metadata(result, "user_features", "2024-01-01")["inserted"] == 3


@pytest.mark.long
def test_a_missing_file_fails_at_once_and_nothing_changes(job: Job, world: World) -> None:
    job()
    before, ledger = world.tables(), world.ledger()
    world.rewrite(users=USERS[:1], experiments=EXPERIMENTS[:1])
    (world.folder / "compounds.csv").unlink()
    result = job()
    assert not result.success
    assert "compounds.csv is missing (there is: user_experiments.csv, users.csv)" in failure(
        result, "experiment_tables"
    )
    assert attempts(result, "experiment_tables") == 1
    assert (world.tables(), world.ledger()) == (before, ledger)


@pytest.mark.long
def test_bad_rows_are_said_in_the_metadata_of_their_table(job: Job, world: World) -> None:
    world.rewrite(experiments=[*EXPERIMENTS, "5,99,1,10"])
    result = job()
    assert result.success
    assert counts(metadata(result, "user_experiments", None)) == (5, 4, 0, 1)
    (entry,) = world.quarantine()
    assert entry[:2] == ("experiments.user_experiments", "user_experiments.csv, line 6")


def judged(check: Any, world: World) -> tuple[bool, int]:
    """Whether a check passes, and how many rows it looked at."""
    result = check(postgres=PostgresResource(url=world.database.url))
    return result.passed, result.metadata["rows_evaluated"].value


@pytest.mark.long
def test_files_of_which_nearly_all_rows_are_bad_fail_at_once_unless_the_run_says_otherwise(
    job: Job, world: World
) -> None:
    assert job().success
    before = world.tables()
    world.rewrite(users=NINE_OF_TEN_BAD, experiments=["1,1,1,10"])
    result = job()
    assert "9 of 10 rows are rejected, more than 80%, nothing was changed" in failure(result)
    assert attempts(result, "experiment_tables") == 1
    assert world.tables() == before
    assert job(allow_rejected="true").success
    assert [row[0] for row in world.tables()["users"]] == [1]


def test_users_without_features_fail_their_check(job: Job, world: World) -> None:
    job()
    world.execute("DELETE FROM experiments.user_features WHERE user_id = 3")
    assert judged(every_user_has_features, world) == (False, 2)


@pytest.mark.long
def test_features_of_other_experiments_than_those_of_the_table_fail_their_check(job: Job, world: World) -> None:
    job()
    world.execute("DELETE FROM experiments.user_experiments WHERE experiment_id = 4")
    assert judged(every_user_has_features, world) == (False, 3)


def test_features_that_were_never_computed_fail_their_check(world: World) -> None:
    assert judged(every_user_has_features, world) == (False, 0)


@pytest.mark.long
def test_an_experiment_of_a_stranger_fails_its_check(job: Job, world: World) -> None:
    job()
    world.execute("DELETE FROM experiments.users WHERE user_id = 1")
    assert judged(experiments_belong_to_users, world) == (False, 4)


@pytest.mark.long
@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM experiments.compounds WHERE compound_id = 3", "DELETE FROM experiments.user_experiments"],
)
def test_a_compound_or_an_experiment_that_is_gone_fails_the_check_of_their_rows(
    job: Job, world: World, statement: str
) -> None:
    job()
    world.execute(statement)
    assert judged(compounds_are_known, world) == (False, 7)
