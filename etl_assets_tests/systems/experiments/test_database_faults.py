"""The faults of the database that can reach a load, by name, each with its stated outcome: at each of the tables, not only in
one write (`io_managers.test_faults`).

In the end every table is whole, and the next load puts right what the one before did not come to.
"""

import datetime
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from etl_assets.cli import run
from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.core.slices import commit as one_commit
from etl_assets.core.slices import lock, session
from etl_assets.core.slices.transaction import Transaction
from etl_assets.errors import ContractError, TransientError
from etl_assets.systems import experiments
from etl_assets.systems.experiments import assets, script
from etl_assets.systems.experiments.simulator import write_files
from etl_assets_tests.core.slices.proxy import proxied
from etl_assets_tests.core.slices.test_faults import TERMINATE
from etl_assets_tests.systems.experiments.model import Model
from etl_assets_tests.systems.experiments.test_script import FEATURES, NEW_YEARS_EVE
from etl_assets_tests.systems.experiments.world import COMPOUNDS, EXPERIMENTS, USERS, World, write_sample
from etl_assets_tests.systems.outages.runs import QUIET, attempts

pytestmark = pytest.mark.long

SIZES = {"users": 3, "compounds": 3, "user_experiments": 4, "experiment_compounds": 7, "user_features": 3}
EARLIER = {"users": USERS[:2], "experiments": EXPERIMENTS[:3]}
EARLIER_SIZES = {"users": 2, "compounds": 3, "user_experiments": 3, "experiment_compounds": 5, "user_features": 2}


def load(world: World, database: Database | None = None) -> Any:
    return experiments.load(world.folder, as_of=NEW_YEARS_EVE, database=database or world.database)


def sizes(world: World) -> dict[str, int]:
    return {name: len(rows) for name, rows in world.tables().items()}


def assert_whole(world: World) -> None:
    """All tables are those of the sample, and each write of the ledger was stored once."""
    assert sizes(world) == SIZES
    assert world.tables()["user_features"] == FEATURES
    for table, *_ in world.query("SELECT DISTINCT asset FROM etl.ledger"):
        net = world.query(f"SELECT sum(inserted - deleted)::int FROM etl.ledger WHERE asset = '{table}'")
        assert net == world.query(f"SELECT count(*) FROM {table}")


def at_call(monkeypatch: pytest.MonkeyPatch, place: Any, step: str, number: int, fault: Callable[[], Any]) -> list[int]:
    """Lets a fault happen before the how many-th call of a step; gives the calls."""
    original, calls = getattr(place, step), list[int]()

    def faulty(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            fault()
        return original(*args, **options)

    monkeypatch.setattr(place, step, faulty)
    return calls


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("step", ["_entered", "append", "record", "commit"])
def test_backends_that_are_terminated_at_any_table_are_replaced_and_the_load_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    place: Any = {"_entered": one_commit, "record": one_commit, "commit": session}.get(step, Transaction)
    calls = at_call(monkeypatch, place, step, number, lambda: world.execute(TERMINATE))
    load(world)
    assert len(calls) > 5
    assert_whole(world)
    assert len(world.ledger()) == 5


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_connection_that_is_cut_at_the_commit_of_any_table_leaves_each_row_once(
    world: World, monkeypatch: pytest.MonkeyPatch, cut: Any, number: int
) -> None:
    with proxied(world.database.url) as proxy:
        at_call(monkeypatch, session, "commit", number, lambda: setattr(proxy, "cut", cut))
        done = load(world, Database(proxy.url))
        assert proxy.cuts == 1
    assert [outcome.loaded for outcome in done.tables] == [3, 3, 4, 7, 3]
    assert_whole(world)
    assert len(world.ledger()) == 5


def test_a_backend_that_is_terminated_amid_its_rows_is_replaced(world: World, tmp_path: Path) -> None:
    written = write_files(tmp_path / "many", users=500, experiments=60_000)
    killed: list[tuple[Any, ...]] = []
    done = threading.Event()

    def terminate() -> None:
        with psycopg.connect(world.database.url, autocommit=True) as connection:
            while not done.is_set() and not killed:
                killed.extend(
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_copy"
                        " WHERE datname = current_database() AND type = 'PIPE' AND tuples_processed > 1000"
                    ).fetchall()
                )

    killer = threading.Thread(target=terminate)
    killer.start()
    try:
        experiments.load(written.users.parent, as_of=NEW_YEARS_EVE, database=world.database)
    finally:
        done.set()
        killer.join()
    assert killed
    assert world.tables() == Model.of(written, NEW_YEARS_EVE).tables
    assert len(world.ledger()) == 5


@pytest.mark.parametrize(("how", "number"), [("between two tables", 3), ("amid a table", 4)])
def test_a_server_that_is_restarted_under_a_load_is_found_again(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, number: int
) -> None:
    server = EmbeddedPostgres(data_dir)
    addresses = [server.acquire()]
    world = World(Database(lambda: addresses[-1]), write_sample(tmp_path / "files"))

    def restart() -> None:
        server.stop()
        addresses.append(server.acquire())
        server.release()

    try:
        place: tuple[Any, str] = (script, "write") if how == "between two tables" else (Transaction, "append")
        at_call(monkeypatch, *place, number, restart)
        load(world)
        assert len(addresses) == 2
        assert_whole(world)
        assert len(world.ledger()) == 5
    finally:
        server.release()
        server.purge()


STATES = {"40P01": "deadlock", "40001": "serialization", "53100": "disk", "53300": "connections", "57014": "cancelled"}


def failing(world: World, table: str, state: str, times: int) -> None:
    """From now on the first statements that change a table fail as the server says it by this SQLSTATE."""
    world.execute("CREATE SEQUENCE IF NOT EXISTS failures")
    world.execute(
        "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF nextval('failures') <= {times} THEN"
        f" RAISE EXCEPTION 'it does not go on' USING ERRCODE = '{state}'; END IF; RETURN NULL; END $$"
    )
    world.execute(
        f"CREATE TRIGGER fail BEFORE INSERT OR UPDATE OR DELETE ON experiments.{table} EXECUTE FUNCTION fail()"
    )


@pytest.mark.parametrize("table", ["users", "experiment_compounds", "user_features"])
@pytest.mark.parametrize("state", STATES)
def test_what_passes_is_tried_again_at_any_table(world: World, table: str, state: str) -> None:
    failing(world, table, state, 1)
    load(world)
    assert_whole(world)
    assert len(world.ledger()) == 5


@pytest.mark.parametrize("state", ["40P01", "53100"])
@pytest.mark.parametrize(
    ("table", "stored"),
    [("users", []), ("user_experiments", ["users", "experiment_compounds"]), ("user_features", list(SIZES)[:-1])],
)
def test_what_does_not_pass_fails_the_load_and_leaves_whole_tables_for_the_next_one(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    table: str,
    stored: list[str],
    state: str,
) -> None:
    world.rewrite(**EARLIER)
    load(world)
    world.rewrite()
    failing(world, table, state, 1000)
    monkeypatch.setattr(session, "ATTEMPTS", 2)
    assert run(["experiments", "load", str(world.folder), "--as-of", "2023-12-31"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: could not use the platform database: ")
    assert STATES[state] in message
    assert "Traceback" not in message
    assert sizes(world) == {**EARLIER_SIZES, **{name: SIZES[name] for name in [*stored, "compounds"]}}
    world.execute(f"DROP TRIGGER fail ON experiments.{table}")
    load(world)
    assert_whole(world)


def test_a_table_that_another_writer_keeps_is_waited_for_and_then_named_as_busy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LOCK_TIMEOUT", datetime.timedelta(milliseconds=50))
    monkeypatch.setattr(lock, "LOOKED_AT_EVERY_S", 0.02)
    monkeypatch.setattr(session, "ATTEMPTS", 2)
    with psycopg.connect(world.database.url) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('experiments.user_features', 0))")
        with pytest.raises(TransientError, match="another writer has held the lock of experiments.user_features"):
            load(world)
    assert sizes(world) == {**SIZES, "user_features": 0}
    load(world)
    assert_whole(world)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("users", "DROP COLUMN email", "column email is missing in the table"),
        ("compounds", "ADD COLUMN weight float8", "column weight of the table is not in the contract"),
        ("user_experiments", "ALTER COLUMN user_id TYPE text", "column user_id is text in the table and bigint"),
        ("user_features", "RENAME COLUMN as_of TO day", "column as_of is missing in the table"),
    ],
)
def test_a_column_that_changed_under_us_is_named_and_no_row_of_the_table_is_lost(
    world: World, capsys: pytest.CaptureFixture[str], table: str, change: str, message: str
) -> None:
    load(world)
    world.rewrite(**EARLIER)
    world.execute(f"ALTER TABLE experiments.{table} {change}")
    count = f"SELECT count(*) FROM experiments.{table}"
    assert run(["experiments", "load", str(world.folder), "--as-of", "2023-12-31"]) == 1
    assert (
        f"experiments.{table} has drifted from its contract, nothing was written: {message}" in capsys.readouterr().err
    )
    assert world.query(count) == [(SIZES[table],)]
    with pytest.raises(ContractError):
        load(world)


def test_a_database_whose_default_is_serializable_makes_no_difference(world: World) -> None:
    ((name,),) = world.query("SELECT current_database()")
    world.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")
    load(world)
    assert_whole(world)


def test_a_database_that_is_not_there_is_an_error_without_its_secret(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ETL_POSTGRES_URL", "postgresql://somebody:the-secret@127.0.0.1:1/nowhere")
    assert run(["experiments", "load", str(world.folder)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: could not ")
    assert "the-secret" not in message
    assert "Traceback" not in message


# Two loads at once


def test_two_loads_of_different_files_take_turns(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_sample(tmp_path / "other", **EARLIER)
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with ThreadPoolExecutor(1) as pool:
        second: list[Future[Any]] = []

        def begun() -> None:
            """While the one is between its first tables and its last, the other begins."""
            second.append(pool.submit(experiments.load, other, as_of=NEW_YEARS_EVE, database=world.database))
            while world.query(waits) == [(0,)]:
                assert not second[0].done()

        at_call(monkeypatch, script, "write", 3, begun)
        first = load(world)
        assert [outcome.loaded for outcome in first.tables] == [3, 3, 4, 7, 3]
        second[0].result()
    assert sizes(world) == EARLIER_SIZES
    load(world)
    assert_whole(world)


def test_features_of_files_that_were_loaded_again_meanwhile_are_those_of_the_new_files(
    world: World,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = write_sample(tmp_path / "other", users=USERS[1:], experiments=EXPERIMENTS[2:], compounds=COMPOUNDS)
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.001)

    def job() -> dg.ExecuteInProcessResult:
        return definitions.resolve_job_def("experiments_job").execute_in_process(
            instance=instance, partition_key="2023-12-31", run_config=dict(QUIET), raise_on_error=False
        )

    with monkeypatch.context() as meanwhile:
        # The tables of the run are loaded, and the features are still to be derived.
        at_call(
            meanwhile,
            assets,
            "experience",
            1,
            lambda: experiments.load(other, as_of=NEW_YEARS_EVE, database=world.database),
        )
        result = job()
    assert result.success
    assert attempts(result, "user_features") == 2
    assert {row[0] for row in world.tables()["user_features"]} == {row[0] for row in world.tables()["users"]}
    assert sizes(world)["users"] == len(USERS[1:])
    assert job().success
    assert_whole(world)
