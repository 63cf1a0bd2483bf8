"""Dagster's storage in a real Postgres: a run over it, connections counted, secrets kept."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from etl_assets.core.dagster import storage as dagster_storage
from etl_assets.core.dagster.storage import (
    PooledPostgresEventLogStorage,
    PooledPostgresRunStorage,
    PooledPostgresScheduleStorage,
    PooledPostgresStorage,
    PoolOptions,
    normalised_url,
    pooled_engine,
)
from etl_assets.errors import ConfigurationError

pytestmark = pytest.mark.long

MODULE = dagster_storage.__name__
STEPS = 20
TOGETHER = {
    "storage": {
        "custom": {
            "module": MODULE,
            "class": "PooledPostgresStorage",
            "config": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}},
        }
    }
}
APART = {
    section: {"module": MODULE, "class": name, "config": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    for section, name in {
        "run_storage": "PooledPostgresRunStorage",
        "event_log_storage": "PooledPostgresEventLogStorage",
        "schedule_storage": "PooledPostgresScheduleStorage",
    }.items()
}


@dg.op
def nothing() -> None: ...


@dg.job(executor_def=dg.in_process_executor)
def steps() -> None:
    for number in range(STEPS):
        nothing.alias(f"step_{number}")()


@pytest.fixture
def url(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty database, as DAGSTER_POSTGRES_URL."""
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", empty_database_url)
    yield empty_database_url
    for options in (PoolOptions(), WEBSERVER):
        pooled_engine(normalised_url(empty_database_url), options).dispose()


WEBSERVER = PoolOptions(max_overflow=20, recycle_s=3600, statement_timeout_ms=15_000)


def home(folder: Path, configuration: dict[str, object]) -> str:
    folder.mkdir(exist_ok=True)
    text = json.dumps({**configuration, "telemetry": {"enabled": False}})
    (folder / "dagster.yaml").write_text(text)
    return str(folder)


def sessions(url: str) -> int:
    """How many connections the database of a URL has ever had, these questions left out."""
    with psycopg.connect(url, autocommit=True) as connection:
        # The server counts a session when it next reports, at most a second later.
        time.sleep(1.1)
        connection.execute("SELECT 1")
        row = connection.execute("SELECT sessions FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("configuration", [TOGETHER, APART], ids=["one section", "three sections"])
def test_a_run_is_stored_and_needs_next_to_no_connections(
    configuration: dict[str, object], url: str, tmp_path: Path
) -> None:
    with dg.DagsterInstance.from_config(home(tmp_path / "first", configuration)) as instance:
        instance.add_dynamic_partitions("sites", ["north"])
    before = sessions(url)
    with dg.DagsterInstance.from_config(home(tmp_path / "second", configuration)) as instance:
        result = steps.execute_in_process(
            instance=instance, run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        )
        stored = instance.get_run_by_id(result.run_id)
        assert stored is not None
        assert stored.status is dg.DagsterRunStatus.SUCCESS
        succeeded = instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS).records
        assert len(succeeded) == STEPS
        assert instance.get_dynamic_partitions("sites") == ["north"]
    # One for the questions above; dagster-postgres itself takes more than a hundred here.
    assert sessions(url) - before <= 1 + PoolOptions().size


def test_dagster_shows_the_name_of_the_variable_and_not_the_password(url: str, tmp_path: Path) -> None:
    password = str(sa.make_url(url).password)
    with dg.DagsterInstance.from_config(home(tmp_path / "home", APART)) as instance:
        shown = instance.info_str()
        passed_on = json.dumps(instance.get_ref().to_dict())
    assert "env: DAGSTER_POSTGRES_URL" in shown
    assert password not in shown
    assert password not in passed_on


@pytest.mark.parametrize("name", ["PooledPostgresStorage", "PooledPostgresRunStorage"])
def test_a_password_in_the_file_itself_is_refused(name: str) -> None:
    from dagster._serdes import ConfigurableClassData

    data = ConfigurableClassData(MODULE, name, "postgres_url: postgresql://dagster:hunter2@db/dagster\n")
    with pytest.raises(ConfigurationError, match=r"write postgres_url: \{env: DAGSTER_POSTGRES_URL\}") as caught:
        data.rehydrate()
    assert "hunter2" not in str(caught.value)


def test_an_unset_variable_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_POSTGRES_URL", raising=False)
    with pytest.raises(Exception, match="DAGSTER_POSTGRES_URL"):
        dg.DagsterInstance.from_config(home(tmp_path / "home", TOGETHER)).get_runs()


def test_an_unknown_option_is_an_error_that_names_it(url: str, tmp_path: Path) -> None:
    configuration = json.loads(json.dumps(TOGETHER))
    configuration["storage"]["custom"]["config"]["pool_sise"] = 3
    with pytest.raises(dg.DagsterInvalidConfigError, match="pool_sise"):
        dg.DagsterInstance.from_config(home(tmp_path / "home", configuration)).get_runs()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_way_to_write_a_postgres_url_means_the_driver_that_works(scheme: str) -> None:
    assert normalised_url(f"{scheme}://etl:a%2Fb@db:5432/x?sslmode=require") == (
        "postgresql+psycopg2://etl:a%2Fb@db:5432/x?sslmode=require"
    )


def test_a_url_of_something_else_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        normalised_url("mysql://root:hunter2@db/x")
    assert str(caught.value) == "the URL of Dagster's storage must begin with postgresql://"


def test_the_storages_of_a_process_share_one_pool(url: str) -> None:
    storage = PooledPostgresStorage(url)
    parts = [
        storage.run_storage,
        storage.event_log_storage,
        storage.schedule_storage,
        PooledPostgresRunStorage(url),
        PooledPostgresEventLogStorage(url),
        PooledPostgresScheduleStorage(url),
    ]
    assert len({id(part._engine) for part in parts}) == 1  # type: ignore[attr-defined]


def test_the_webserver_gets_its_statement_timeout_from_one_pool(url: str) -> None:
    storage = PooledPostgresStorage(url)
    parts = [storage.run_storage, storage.event_log_storage, storage.schedule_storage]
    for part in parts:
        part.optimize_for_webserver(statement_timeout=15_000, pool_recycle=3600, max_overflow=20)
    assert {id(part._engine) for part in parts} == {id(pooled_engine(normalised_url(url), WEBSERVER))}  # type: ignore[attr-defined]
    with storage.run_storage.connect() as connection:  # type: ignore[attr-defined]
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar() == "15s"


def test_a_connection_that_the_server_has_cut_is_replaced_without_an_error(url: str) -> None:
    storage = PooledPostgresRunStorage(url)
    assert storage.get_runs() == []
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert storage.get_runs() == []


def test_processes_that_meet_an_empty_database_at_once_all_find_it_complete(url: str) -> None:
    script = (
        f"import os; from {MODULE} import PooledPostgresStorage as Storage;"
        "print(len(Storage(os.environ['DAGSTER_POSTGRES_URL']).run_storage.get_runs()))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = [process.communicate(timeout=60) for process in started]
    assert answers == [("0\n", "")] * 4
