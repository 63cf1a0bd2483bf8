"""`--dry-run` of every load: it says what the load then does, and changes nothing, in no table, no file, no stream, at no API."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from psycopg import sql

from etl_assets import cli
from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres
from etl_assets.settings import load_settings
from etl_assets.simulators.server import serve
from etl_assets.systems.events.simulator import EventsSimulator
from etl_assets.systems.outages.simulator import OutagesSimulator
from etl_assets.systems.production.simulator import ProductionSimulator
from etl_assets.systems.turbines.simulator import TurbinesSimulator, fill

MIDNIGHT = datetime(2024, 5, 20, tzinfo=UTC)
COUNTS = ("received", "inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined", "flagged")
Command = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with its servers, and each source simulated; for all tests of this module."""
    folder = tmp_path_factory.mktemp("dry") / "data"
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETL_DATA_DIR", str(folder))
        stack.enter_context(EmbeddedPostgres(folder))
        stack.enter_context(EmbeddedBroker(folder))
        outages = OutagesSimulator(sites=("kingfisher",))
        source = EmbeddedPostgres(folder).create_database("fonte")
        fill(source, start=MIDNIGHT.date(), days=2, turbines=("T01",))
        served = {
            "OUTAGES_API_URL": outages.app,
            "PRODUCTION_API_URL": ProductionSimulator().app,
            "TURBINES_API_URL": TurbinesSimulator(source, turbines=("T01",)).app,
            "EVENTS_FEED_URL": EventsSimulator(MIDNIGHT, datetime(2024, 5, 21, tzinfo=UTC), rows=50).app,
        }
        for name, app in served.items():
            patch.setenv(name, stack.enter_context(serve(app)))
        patch.setenv("OUTAGES_API_KEY", outages.api_key)
        patch.setenv("TURBINES", "T01")
        patch.setenv("EXPERIMENTS_DIR", str(folder.parent / "files"))
        assert cli.run(["simulate", "experiments", str(folder.parent / "files"), "--users", "20", "--faults"]) == 0
        assert cli.run(["migrate"]) == 0
        yield folder
        cli.run(["down", "--purge"])


@pytest.fixture
def command(home: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command and gives its result."""

    def run(*arguments: str) -> dict[str, Any]:
        capfd.readouterr()
        assert cli.run([*arguments, "--json"]) == 0, capfd.readouterr().err
        printed = capfd.readouterr()
        assert ("dry run: nothing was changed" in printed.err) == ("--dry-run" in arguments)
        found: dict[str, Any] = json.loads(printed.out)
        return found

    return run


def state(home: Path) -> dict[str, object]:
    """All that is stored: each table of both databases, each file, each key of the broker."""
    found: dict[str, object] = {}
    platform = EmbeddedPostgres(home).url_if_running()
    assert platform
    for name in ("etl", "alvo"):
        with psycopg.connect(platform.rsplit("/", 1)[0] + f"/{name}") as connection:
            query = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            for table in connection.execute(query).fetchall():
                rows = connection.execute(
                    sql.SQL("SELECT md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM {} AS t").format(
                        sql.Identifier(*table)
                    )
                ).fetchone()
                found[f"{name} {table}"] = rows
    for path in (home / "lake", home / "reports"):
        for file in path.rglob("*"):
            if file.is_file():
                found[str(file)] = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    url = EmbeddedBroker(home).url_if_running()
    assert url
    with redis.Redis.from_url(url) as broker:
        found["broker"] = sorted((key, broker.xlen(key)) for key in broker.keys("*"))
    return found


def counts(of: dict[str, Any]) -> dict[str, int]:
    return {name: of[name] for name in COUNTS if name in of}


def rehearsed(home: Path, command: Command, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a dry run says, which must have changed nothing, and what the load then does."""
    before = state(home)
    dry = command(*arguments, "--dry-run")
    assert state(home) == before
    assert dry["dry_run"] is True
    real = command(*arguments)
    assert real["dry_run"] is False
    return dry, real


def test_experiments_are_judged_and_compared(home: Path, command: Command) -> None:
    for _ in range(2):  # all is new, then all is there
        dry, real = rehearsed(home, command, "experiments", "load", "--as-of", "2023-12-31")
        assert [counts(table) for table in dry["tables"]] == [counts(table) for table in real["tables"]]
        assert dry["quarantined"] == real["quarantined"] > 0
    assert all(table["inserted"] == 0 for table in dry["tables"])


def test_days_of_turbines_are_judged_and_compared_with_their_statistics(home: Path, command: Command) -> None:
    for _ in range(2):
        dry, real = rehearsed(home, command, "turbines", "load", "2024-05-20", "--to", "2024-05-21")
        assert [(day["day"], day["bins"], counts(day["statistics"])) for day in dry["days"]] == [
            (day["day"], day["bins"], counts(day["statistics"])) for day in real["days"]
        ]
        assert {day["page"] for day in dry["days"]} == {None}


def test_outages_are_judged_and_compared_and_nothing_is_sent(home: Path, command: Command) -> None:
    (dry,), (real,) = (run["sites"] for run in rehearsed(home, command, "outages", "sync", "kingfisher"))
    assert (dry["outages"], dry["pending"], dry["delivered"]) == (real["outages"], real["delivered"], 0)
    assert dry["pending"] > 0
    assert (dry["quarantined"], dry["new"], real["new"]) == (real["quarantined"], True, True)
    (dry,), (real,) = (run["sites"] for run in rehearsed(home, command, "outages", "sync", "kingfisher"))
    assert (dry["outages"], dry["pending"], dry["new"]) == (real["outages"], 0, False)


def test_files_of_events_are_fetched_judged_and_compared(home: Path, command: Command) -> None:
    stretch = ("--from", "2024-05-20T00:00Z", "--to", "2024-05-20T01:00Z")
    dry, real = rehearsed(home, command, "events", "load", *stretch)
    assert (dry["files"], dry["events"]) == (real["files"], real["events"])
    assert dry["files"] == 4
    assert dry["us_events"]["inserted"] == 0


def test_streams_are_judged_and_compared_and_nothing_waits_in_the_broker(home: Path, command: Command) -> None:
    for _ in range(2):
        dry, real = rehearsed(home, command, "production", "report")
        for name, (drained,) in dry["streams"].items():
            for count in ("received", "inserted", "updated", "unchanged", "deduplicated", "superseded", "rejected"):
                assert drained[count] == sum(each[count] for each in real["streams"][name]), (name, count)
        assert "report" not in dry


def test_other_connections_of_a_dry_run_only_read(home: Path) -> None:
    from etl_assets.core.servers import platform_database

    database = platform_database(load_settings()).for_dry_run()
    for opened in (database.connect, database.spare):
        with pytest.raises(Exception, match="read-only transaction"), opened() as connection:
            connection.execute("DELETE FROM etl.ledger")
