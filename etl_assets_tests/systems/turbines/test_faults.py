"""What happens to days when the target database, the process or its time fails in the middle of a load.

Faults of the source are in `test_api`, `test_answers` and `test_script`; those that any table can meet, in
`io_managers/test_faults`; processes that are killed, in `prove/test_turbines_kills`.
"""

import datetime
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import psycopg
import pyarrow as pa
import pytest

from etl_assets.core.database import locks as database_locks
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import session, transaction
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.transaction import Transaction
from etl_assets.errors import ContractError, PermanentError, PlatformError, TransientError
from etl_assets.systems.turbines import databases, script, transform
from etl_assets.systems.turbines.statistics import ten_minute_statistics
from etl_assets.systems.turbines.transform import DAY, Statistics
from etl_assets_tests.core.slices.proxy import Proxy, proxied
from etl_assets_tests.systems.outages.runs import QUIET, failed_steps
from etl_assets_tests.systems.turbines.conftest import definitions_of
from etl_assets_tests.systems.turbines.minute_tables import series
from etl_assets_tests.systems.turbines.world import FIRST, World, assert_same

SECOND, THIRD = FIRST + DAY, FIRST + 2 * DAY
END_OTHERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
# A sequence is not rolled back, so that the fault happens once, whatever becomes of its transaction.
FAULT_AT_ROW = """
    CREATE SEQUENCE loaded;
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF nextval('loaded') {when} THEN {fault}; END IF; RETURN NEW; END $$;
    CREATE TRIGGER fail BEFORE INSERT ON data FOR EACH ROW EXECUTE FUNCTION fail()
"""
MEND = "DROP TRIGGER fail ON data"


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each day is a transaction of its own."""
    monkeypatch.setattr(transform, "ROWS_TOGETHER", 1)


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts, and locks are not waited for."""
    monkeypatch.setattr(session, "ATTEMPTS", 2)
    monkeypatch.setattr(database_locks, "LOCK_TIMEOUT", datetime.timedelta(milliseconds=50))
    monkeypatch.setitem(transaction.SETTINGS, "lock_timeout", "50")


@pytest.fixture
def proxy(world: World) -> Iterator[Proxy]:
    """The way to the target database, which can be cut."""
    with proxied(world.target.url) as opened:
        yield opened


def through(url: str, world: World) -> World:
    """The same world with another way to the target, and new connections."""
    return World(world.database, Database(url, name="target"), world.simulator, world.url)


def faulty(world: World, fault: str, *, when: str = "= 500") -> None:
    """The target fails at the row of this number, once; or at all rows from then on."""
    world.execute(FAULT_AT_ROW.format(fault=fault, when=when))


def raising(state: str) -> str:
    return f"RAISE EXCEPTION 'on purpose' USING ERRCODE = '{state}'"


def assert_whole(world: World, *days: datetime.date) -> None:
    """Exactly these days are there, with all their values, and the books agree."""
    expected = {key: row for day in days for key, row in world.computed(day).items()}
    assert_same(world.ten_minute(), expected)
    assert world.days() == list(days)
    entries = world.query(
        "SELECT asset, partition, inserted FROM etl.ledger WHERE inserted > 0 AND partition <> '' ORDER BY 1, 2"
    )
    bins = {day: len(world.computed(day)) for day in days}
    assert entries == sorted(
        [("public.bin", f"{day}", bins[day]) for day in days]
        + [("public.data", f"{day}", 4 * bins[day]) for day in days]
    )


# Postgres: what passes is tried again.


@pytest.mark.long
def test_a_backend_that_is_terminated_in_the_middle_of_a_copy_is_replaced_and_the_day_loaded(world: World) -> None:
    faulty(world, "PERFORM pg_terminate_backend(pg_backend_pid())")
    world.load(FIRST)
    assert_whole(world, FIRST)


@pytest.mark.long
@pytest.mark.parametrize(
    "state",
    [
        pytest.param("40P01", id="deadlock"),
        pytest.param("40001", id="serialization", marks=pytest.mark.long),
        pytest.param("57014", id="statement-timeout", marks=pytest.mark.long),
        pytest.param("55P03", id="lock-timeout", marks=pytest.mark.long),
        pytest.param("53100", id="disk-full-for-a-moment", marks=pytest.mark.long),
        pytest.param("53300", id="too-many-connections", marks=pytest.mark.long),
    ],
)
def test_what_may_pass_is_tried_again_and_the_day_is_loaded_once(world: World, state: str) -> None:
    faulty(world, raising(state))
    world.load(FIRST)
    assert_whole(world, FIRST)


@pytest.mark.long
@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_connection_that_is_cut_at_the_commit_leaves_each_day_once(world: World, proxy: Proxy, cut: Any) -> None:
    world.load(FIRST)  # the signals are known
    by_proxy = through(proxy.url, world)
    by_proxy.target.prepare()
    original = databases.write_together

    def arm(*args: Any) -> Any:
        proxy.cut = cut
        return original(*args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(databases, "write_together", arm)
        by_proxy.load(SECOND, THIRD)
    assert proxy.cuts == 1
    assert_whole(world, FIRST, SECOND, THIRD)


@pytest.mark.long
@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_connection_that_is_cut_where_signals_are_entered_costs_nothing(world: World, proxy: Proxy, cut: Any) -> None:
    by_proxy = through(proxy.url, world)
    by_proxy.target.prepare()
    proxy.cut = cut
    by_proxy.load(FIRST)
    assert proxy.cuts == 1
    assert_whole(world, FIRST)
    assert world.counts()["signal"] == 8


@pytest.mark.long
def test_a_server_that_ends_all_connections_between_two_days_costs_nothing(
    world: World, one_by_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restarting(*args: Any, **options: Any) -> Any:
        done = databases.store_days(*args, **options)
        for database in (world.target, world.database):
            with psycopg.connect(database.url) as connection:
                connection.execute(END_OTHERS)
        return done

    monkeypatch.setattr(script, "store_days", restarting)
    world.load(FIRST, SECOND, THIRD)
    assert_whole(world, FIRST, SECOND, THIRD)


# Postgres: what lasts is a failure that names it; the days before are whole, and the next load does the rest.


@pytest.mark.long
@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        ("53100", TransientError, "the server is out of a resource"),
        pytest.param("XX001", PermanentError, "XX001", id="corrupted", marks=pytest.mark.long),
    ],
)
def test_a_disk_that_is_full_leaves_whole_days_and_the_next_load_does_the_rest(
    world: World, one_by_one: None, quick_end: None, state: str, kind: type[PlatformError], said: str
) -> None:
    faulty(world, raising(state), when="> 1500")
    with pytest.raises(kind, match=said):
        world.load(FIRST, SECOND, THIRD)
    assert_whole(world, FIRST)
    world.execute(MEND)
    world.load(FIRST, SECOND, THIRD)
    assert_whole(world, FIRST, SECOND, THIRD)


@pytest.mark.long
@pytest.mark.parametrize("table", ["data", pytest.param("signal", marks=pytest.mark.long)])
def test_a_table_that_somebody_keeps_locked_is_a_failure_not_a_wait_without_end(
    world: World, quick_end: None, table: str
) -> None:
    with psycopg.connect(world.target.url) as somebody:
        somebody.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        with pytest.raises(TransientError, match="another writer held the lock for too long"):
            world.load(FIRST)
    world.load(FIRST)
    assert_whole(world, FIRST)


@pytest.mark.long
def test_a_column_that_somebody_added_to_the_target_is_named_and_nothing_is_written(world: World) -> None:
    world.load(FIRST)
    before = world.tables()["data"]
    world.execute("ALTER TABLE data ADD COLUMN note text")
    with pytest.raises(ContractError, match="column note of the table is not in the contract"):
        world.load(FIRST, SECOND)
    world.execute("ALTER TABLE data DROP COLUMN note")
    assert world.tables()["data"] == before
    world.load(FIRST, SECOND)
    assert_whole(world, FIRST, SECOND)


@pytest.mark.long
def test_a_column_of_another_type_is_named_and_nothing_is_written(world: World) -> None:
    world.execute("DROP VIEW ten_minute; ALTER TABLE data ALTER COLUMN value TYPE real")
    with pytest.raises(ContractError, match="column value is real in the table and double precision in the contract"):
        world.load(FIRST)
    assert (world.counts()["data"], world.counts()["bin"]) == (0, 0)


@pytest.mark.long
def test_a_target_that_is_away_is_a_failure_without_its_password_and_the_raw_signals_are_kept(world: World) -> None:
    with pytest.raises(TransientError) as failed:
        through("postgresql://me:hidden@127.0.0.1:1/none", world).load(FIRST)
    assert "hidden" not in str(failed.value)
    assert world.raw(FIRST).num_rows == 1440
    world.load(FIRST)
    assert_whole(world, FIRST)


@pytest.mark.long
def test_a_target_that_may_only_be_read_is_refused_at_once(world: World) -> None:
    world.load(FIRST)
    before = world.tables()
    [(name,)] = world.query("SELECT current_database()")
    world.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    # The setting is that of new connections.
    with pytest.raises(PermanentError, match="read-only transaction"):
        through(world.target.url, world).load(SECOND)
    assert world.tables() == before


@pytest.mark.long
def test_names_of_turbines_are_data_whatever_is_in_them(world: World) -> None:
    names = ["'; DROP TABLE data; --", 'T"01', "%s {} $1", "Ω ☃", "a\tb", "a\nb", "wind_speed_mean"]
    minutes = [series(list(map(float, range(10))), column="power", turbine=name) for name in names]
    bins = ten_minute_statistics(pa.concat_tables(minutes), columns=["power"])
    for _ in range(2):
        databases.store_days(
            world.target, Statistics(bins, {FIRST: dict.fromkeys(names, ("power",))}, ("power",)), inputs=Inputs()
        )
    assert {turbine: row.mean for (_, turbine, _), row in world.ten_minute().items()} == dict.fromkeys(names, 4.5)


# Process: what ends a run in the middle leaves whole days, and the next run does the rest.


@pytest.mark.parametrize("end", [KeyboardInterrupt, pytest.param(MemoryError, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("place", "name"),
    [(Transaction, "append"), pytest.param(transform, "ten_minute_statistics", marks=pytest.mark.long)],
    ids=["amid-a-transaction", "amid-the-statistics"],
)
def test_a_load_that_is_ended_leaves_whole_days_and_the_next_one_does_the_rest(
    world: World, one_by_one: None, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, end: type[BaseException]
) -> None:
    with monkeypatch.context() as patched:
        # After the signals the second table of the second day, and the statistics of the second.
        patched.setattr(place, name, ended(getattr(place, name), since=5 if name == "append" else 2, end=end))
        with pytest.raises(end):
            world.load(FIRST, SECOND, THIRD)
    assert_whole(world, FIRST)
    world.load(FIRST, SECOND, THIRD)
    assert_whole(world, FIRST, SECOND, THIRD)


@pytest.mark.long
def test_a_run_that_is_cancelled_leaves_whole_days_and_another_run_does_the_rest(
    world: World, one_by_one: None, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dagster tries an interrupted step again by its retry policy; here somebody goes on cancelling.
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.001)
    job = definitions_of(world).resolve_job_def("turbines_job")
    days = {"dagster/asset_partition_range_start": f"{FIRST}", "dagster/asset_partition_range_end": f"{THIRD}"}
    statistics = dg.AssetKey(["turbines", "ten_minute_statistics"])
    run = {"instance": instance, "tags": days, "run_config": QUIET, "raise_on_error": False}
    with monkeypatch.context() as patched:
        stop = ended(Transaction.append, since=5, end=dg.DagsterExecutionInterruptedError)
        patched.setattr(Transaction, "append", stop)
        assert failed_steps(job.execute_in_process(**run)) == ["ten_minute_statistics"]
    assert_whole(world, FIRST)
    assert instance.get_materialized_partitions(statistics) == {f"{FIRST}"}
    assert job.execute_in_process(**run).success
    assert_whole(world, FIRST, SECOND, THIRD)
    assert instance.get_materialized_partitions(statistics) == {f"{FIRST}", f"{SECOND}", f"{THIRD}"}


def ended(function: Callable[..., Any], *, since: int, end: type[BaseException]) -> Callable[..., Any]:
    """A function that ends the run, from the call of this number on."""
    calls = 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= since:
            raise end()
        return function(*args, **options)

    return call
