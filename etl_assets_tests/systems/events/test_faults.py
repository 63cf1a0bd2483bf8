"""What happens to intervals when the feed, the database, the process or its time fails in the middle of a load.

Faults of single files are in `test_script` and `test_archive`, those of the feed's client in `test_feed`; those that any table can meet, in
`io_managers/test_faults`; processes that are killed, in `prove/test_events_kills`.
"""

import datetime
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import dagster as dg
import psycopg
import pytest

from etl_assets.core.database import locks as database_locks
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import session, transaction
from etl_assets.core.slices.transaction import Transaction
from etl_assets.core.slices.writing import write_together
from etl_assets.errors import ContractError, PermanentError, PlatformError, TransientError
from etl_assets.systems.events import manifest as manifest
from etl_assets.systems.events import raw_layer as intake
from etl_assets.systems.events import source as feed
from etl_assets.systems.events import us_events as us_store
from etl_assets.systems.events.script import load_file
from etl_assets.systems.events.source import EventsFeed
from etl_assets_tests.core.slices.proxy import Proxy, proxied
from etl_assets_tests.systems.events.world import ROWS, World, quarter
from etl_assets_tests.systems.outages.runs import QUIET, failed_steps

EVERY = (0, 1, 2, 3)
END_OTHERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
# A sequence is not rolled back, so that the fault happens once, whatever becomes of its transaction.
FAULT_AT_ROW = """
    CREATE SEQUENCE loaded;
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF nextval('loaded') {when} THEN {fault}; END IF; RETURN NEW; END $$;
    CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION fail()
"""
MEND = "DROP TRIGGER fail ON {table}"
US, BOOK = "events.us_event_data", "events.intervals"


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each interval is a transaction of its own and noted at once, and the feed may be away for two in a row."""
    monkeypatch.setattr(intake, "AWAY_IN_A_ROW", 2)
    monkeypatch.setattr(us_store, "STORED_TOGETHER", 1)
    monkeypatch.setattr(intake, "RECORDED_TOGETHER", 1)


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts, and locks are not waited for."""
    monkeypatch.setattr(session, "ATTEMPTS", 2)
    monkeypatch.setattr(database_locks, "LOCK_TIMEOUT", datetime.timedelta(milliseconds=50))
    monkeypatch.setitem(transaction.SETTINGS, "lock_timeout", "50")


@pytest.fixture
def proxy(world: World) -> Iterator[Proxy]:
    """The way to the database, which can be cut."""
    with proxied(world.database.url) as opened:
        yield opened


def through(url: str, world: World) -> World:
    """The same world with another way to the database, and new connections."""
    return replace(world, database=Database(url))


def faulty(world: World, fault: str, *, when: str = "= 20", table: str = US) -> None:
    """The database fails at the row of this number, once; or at all rows from then on."""
    world.execute(FAULT_AT_ROW.format(fault=fault, when=when, table=table))


def raising(state: str) -> str:
    return f"RAISE EXCEPTION 'on purpose' USING ERRCODE = '{state}'"


def assert_whole(world: World, *numbers: int) -> None:
    """Exactly these intervals have US events, all of theirs, each written once, and the manifest says so."""
    expected = world.in_the_us(*numbers)
    assert world.us() == expected
    counts = {number: sum(values[0] == quarter(number) for values in expected.values()) for number in numbers}
    ledger = f"SELECT partition, sum(inserted) FROM etl.ledger WHERE asset = '{US}' GROUP BY 1"
    assert world.query(ledger) == [("2019-01-21", len(expected))]
    assert counts == {number: entry.rows_us for number, entry in world.manifest().items() if entry.state == "loaded"}
    assert (
        world.query(
            "SELECT 1 FROM etl.ledger WHERE received <> inserted + updated + unchanged + deduplicated + quarantined"
        )
        == []
    )
    assert world.left_behind() == []


# Postgres: what passes is tried again.


@pytest.mark.long
def test_a_backend_that_is_terminated_in_the_middle_of_a_copy_is_replaced_and_all_is_loaded(world: World) -> None:
    faulty(world, "PERFORM pg_terminate_backend(pg_backend_pid())")
    world.load_all()
    assert_whole(world, *EVERY)


@pytest.mark.long
@pytest.mark.parametrize(
    "state",
    [
        pytest.param("40P01", id="deadlock"),
        pytest.param("40001", id="serialization"),
        pytest.param("57014", id="statement-timeout"),
        pytest.param("55P03", id="lock-timeout"),
        pytest.param("53100", id="disk-full-for-a-moment"),
        pytest.param("53300", id="too-many-connections"),
    ],
)
def test_what_may_pass_is_tried_again_and_each_event_is_there_once(world: World, state: str) -> None:
    faulty(world, raising(state))
    world.load_all()
    assert_whole(world, *EVERY)


@pytest.mark.long
@pytest.mark.parametrize("state", ["40P01", "40001"])
def test_a_manifest_that_gives_way_is_written_again(world: World, state: str) -> None:
    faulty(world, raising(state), table=BOOK, when="= 2")
    world.load_all()
    assert_whole(world, *EVERY)


@pytest.mark.long
@pytest.mark.parametrize("cut", ["after", "before"])
def test_a_connection_that_is_cut_at_the_commit_leaves_each_event_once(
    world: World, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, cut: Any
) -> None:
    by_proxy = through(proxy.url, world)
    by_proxy.database.prepare()

    def arm(*args: Any) -> Any:
        proxy.cut = cut
        return write_together(*args)

    with monkeypatch.context() as patched:
        patched.setattr(us_store, "write_together", arm)
        by_proxy.load_all()
    assert proxy.cuts == 1
    assert_whole(world, *EVERY)


@pytest.mark.long
@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_connection_that_is_cut_where_files_are_stored_and_noted_leaves_whole_intervals(
    world: World, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, cut: Any
) -> None:
    by_proxy = through(proxy.url, world)
    by_proxy.database.prepare()
    original = intake.store_files

    def arm(*args: Any, **options: Any) -> Any:
        if not proxy.cuts:
            proxy.cut = cut
        return original(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(intake, "store_files", arm)
        try:
            by_proxy.load_all()
        except TransientError:
            assert world.us() == {}
    assert proxy.cuts == 1
    world.load_all()
    assert_whole(world, *EVERY)
    for number in EVERY:
        assert world.raw(number).num_rows == ROWS


@pytest.mark.long
def test_a_server_that_ends_all_connections_between_two_intervals_costs_nothing(
    world: World, one_by_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = us_store._store

    def restarting(*args: Any) -> Any:
        with psycopg.connect(world.database.url) as connection:
            connection.execute(END_OTHERS)
        return original(*args)

    monkeypatch.setattr(us_store, "_store", restarting)
    world.load_all()
    assert_whole(world, *EVERY)


# Postgres: what lasts is a failure that names it; the intervals before are whole, and the next load does the rest.


@pytest.mark.long
@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        ("53100", TransientError, "the server is out of a resource"),
        pytest.param("XX001", PermanentError, "XX001", id="corrupted"),
    ],
)
def test_a_disk_that_is_full_leaves_whole_intervals_and_the_next_load_does_the_rest(
    world: World, one_by_one: None, quick_end: None, state: str, kind: type[PlatformError], said: str
) -> None:
    faulty(world, raising(state), when="> 20")
    with pytest.raises(kind, match=said):
        world.load_all()
    assert_whole(world, 0)
    assert [world.states()[number] for number in (1, 2, 3)] == ["fetched"] * 3
    world.execute(MEND.format(table=US))
    asked = world.asked()
    world.load_all()
    assert_whole(world, *EVERY)
    assert world.asked() == asked


@pytest.mark.long
def test_a_disk_that_is_full_when_intervals_are_noted_loses_none(
    world: World, one_by_one: None, quick_end: None
) -> None:
    faulty(world, raising("53100"), when="> 1", table=BOOK)
    with pytest.raises(TransientError, match="the server is out of a resource"):
        world.load_all()
    assert (world.states(), world.us()) == ({0: "fetched"}, {})
    world.execute(MEND.format(table=BOOK))
    world.load_all()
    assert_whole(world, *EVERY)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE"])
@pytest.mark.parametrize("table", [US, BOOK])
def test_a_table_that_somebody_keeps_locked_is_a_failure_not_a_wait_without_end(
    world: World, quick_end: None, table: str, mode: str
) -> None:
    world.load(0)
    world.simulator.republish(quarter(0))
    with psycopg.connect(world.database.url) as somebody:
        somebody.execute(f"LOCK TABLE {table} IN {mode} MODE".encode())
        with pytest.raises(TransientError, match="another writer held the lock for too long"):
            world.load_all()
    world.load_all()
    assert world.us() == world.in_the_us(*EVERY)


@pytest.mark.long
@pytest.mark.parametrize("table", [US, BOOK])
def test_a_column_that_somebody_added_is_named_and_nothing_is_written(world: World, table: str) -> None:
    world.load(0)
    before = world.tables()["us_event_data"]
    world.execute(f"ALTER TABLE {table} ADD COLUMN note text")
    with pytest.raises(ContractError, match="column note of the table is not in the contract"):
        world.load_all()
    world.execute(f"ALTER TABLE {table} DROP COLUMN note")
    assert world.tables()["us_event_data"] == before
    world.load_all()
    assert_whole(world, *EVERY)


@pytest.mark.long
def test_a_column_of_another_type_is_named_and_nothing_is_written(world: World) -> None:
    world.execute(f"ALTER TABLE {US} ALTER COLUMN action_geo_lat TYPE real")
    with pytest.raises(ContractError, match="column action_geo_lat is real in the table and double precision in the"):
        world.load_all()
    assert world.us() == {}
    assert set(world.states().values()) == {"fetched"}


@pytest.mark.long
def test_a_database_that_is_away_is_a_failure_without_its_password(world: World) -> None:
    with pytest.raises(TransientError) as failed:
        through("postgresql://me:hidden@127.0.0.1:1/none", world).load_all()
    assert "hidden" not in str(failed.value)
    world.load_all()
    assert_whole(world, *EVERY)


@pytest.mark.long
def test_a_database_that_may_only_be_read_is_refused_at_once(world: World) -> None:
    world.load(0)
    before = world.tables()
    [(name,)] = world.query("SELECT current_database()")
    world.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    # The setting is that of new connections.
    with pytest.raises(PermanentError, match="read-only transaction"):
        through(world.database.url, world).load_all()
    assert world.tables() == before


@pytest.mark.long
def test_text_of_events_is_data_whatever_is_in_it(world: World) -> None:
    texts = ["'; DROP TABLE events.us_event_data; --", '"', "\\N", "%s {} $1", "Ω ☃ 🗽", "\\", " NULL "]
    world.load_own(0, *({"global_event_id": str(number), "source_url": text} for number, text in enumerate(texts, 1)))
    assert [values[-1] for _, values in sorted(world.us().items())] == texts


# At once


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What calls give that begin together."""
    start = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result() for done in [pool.submit(begin, call) for call in calls]]


@pytest.mark.long
def test_two_backfills_of_one_day_at_once_leave_each_event_once(world: World) -> None:
    at_once(*[world.load_all] * 3)
    assert world.us() == world.in_the_us(*EVERY)
    assert set(world.states().values()) == {"loaded"}
    changes = f"SELECT sum(inserted), sum(updated), sum(deleted) FROM etl.ledger WHERE asset = '{US}'"
    assert world.query(changes) == [(52, 0, 0)]
    for number in EVERY:
        assert world.raw(number).num_rows == ROWS
    assert world.left_behind() == []


@pytest.mark.long
def test_backfills_that_overlap_and_the_newest_file_at_once_leave_each_event_once(world: World) -> None:
    at_once(lambda: world.load(0, 3), lambda: world.load(1, 4), world.load, lambda: world.load(2))
    assert world.us() == world.in_the_us(*EVERY)
    assert set(world.states().values()) == {"loaded"}


@pytest.mark.long
def test_two_runs_over_republished_files_at_once_leave_the_new_version(world: World) -> None:
    world.load_all()
    for number in EVERY:
        world.simulator.republish(quarter(number))
    at_once(*[world.load_all] * 3)
    assert world.us() == world.in_the_us(*EVERY)
    assert {n: e.md5 for n, e in world.manifest().items()} == {n: world.simulator.listed(quarter(n)).md5 for n in EVERY}


# The feed


FAILING = ("500", "503", "408", "429-retry-after", "reset", "html", "empty", "reset-mid-body", "short-body")


@pytest.mark.long
@pytest.mark.parametrize("call", ["files", "masterfilelist.txt"])
@pytest.mark.parametrize("fault", FAILING)
def test_a_feed_that_fails_leaves_whole_intervals_and_the_next_load_does_the_rest(
    world: World, one_by_one: None, call: str, fault: str
) -> None:
    # Two files in a row, three attempts each.
    world.simulator.faults.script(call, ["none"] + [fault] * 6 if call == "files" else [fault] * 3)
    with pytest.raises(TransientError, match="events API, GET /"):
        world.load_all()
    assert world.states() == ({0: "fetched", 1: "missing", 2: "missing"} if call == "files" else {})
    assert (world.us(), world.left_behind()) == ({}, [])
    world.load_all()
    assert_whole(world, *EVERY)


@pytest.mark.long
@pytest.mark.parametrize("fault", ["500", "html"])
def test_a_stretch_is_loaded_by_the_list_of_all_files_where_that_of_the_newest_fails(world: World, fault: str) -> None:
    world.simulator.faults.script("lastupdate.txt", [fault] * 6)
    world.load_all()
    assert_whole(world, *EVERY)
    with pytest.raises(TransientError, match="GET /lastupdate.txt"):
        world.load()


@pytest.mark.long
def test_a_file_that_is_too_large_is_refused_and_the_others_are_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LARGEST_FILE_BYTES", 10)
    world.load_all()
    assert set(world.states().values()) == {"refused"}
    assert "has more than 10 bytes" in str(world.manifest()[0].reason)


@pytest.mark.long
@pytest.mark.parametrize("status", [403, 410, 500])
def test_a_feed_that_fails_over_one_file_gives_the_others(world: World, status: int) -> None:
    if status == 500:
        world.simulator.faults.script("files", ["none", *["500"] * 3])
    else:
        world.simulator.change(quarter(1), withdrawn=True, withdrawn_as=status)
    world.load_all()
    assert_whole(world, 0, 2, 3)
    entry = world.manifest()[1]
    assert (entry.state, entry.attempts) == ("missing", 1)
    assert str(status) in str(entry.reason)
    world.simulator.restore(quarter(1))
    world.load_all()
    assert_whole(world, *EVERY)


@pytest.mark.long
@pytest.mark.parametrize("status", [403, 500])
def test_a_feed_that_gives_none_of_the_files_has_failed(world: World, status: int) -> None:
    world.load(0, 2)
    if status == 500:
        world.simulator.faults.script("files", ["500"] * 6)
    for number in (2, 3) if status == 403 else ():
        world.simulator.change(quarter(number), withdrawn=True, withdrawn_as=status)
    with pytest.raises(PermanentError if status == 403 else TransientError, match=f"events API, GET /.*{status}"):
        world.load_all()
    assert world.states()[0] == world.states()[1] == "loaded"
    for number in (2, 3):
        world.simulator.restore(quarter(number))
    world.load_all()
    assert world.us() == world.in_the_us(*EVERY)


@pytest.mark.long
@pytest.mark.parametrize("call", ["files", "masterfilelist.txt"])
@pytest.mark.parametrize(
    "fault", ["timeout", "timeout-mid-body", "response-lost", "reset-mid-body", "500", "429-retry-after"]
)
def test_a_feed_that_fails_twice_is_asked_a_third_time_and_nobody_notices(world: World, call: str, fault: str) -> None:
    world.simulator.faults.script(call, [fault] * 2)
    world.load_all()
    assert_whole(world, *EVERY)


# Process: what ends a run in the middle leaves whole intervals, and the next run does the rest.


@pytest.mark.long
@pytest.mark.parametrize("end", [KeyboardInterrupt, MemoryError])
def test_a_load_that_is_ended_amid_a_transaction_leaves_whole_intervals(
    world: World, one_by_one: None, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    world.load_all()
    world.execute(f"DELETE FROM {US}; DELETE FROM {BOOK}; DELETE FROM etl.ledger")
    with monkeypatch.context() as patched:
        # At the second interval.
        patched.setattr(us_store, "write_together", ended(write_together, since=2, end=end))
        with pytest.raises(end):
            world.load_all()
    assert_whole(world, 0)
    world.load_all()
    assert_whole(world, *EVERY)


@pytest.mark.long
@pytest.mark.parametrize("end", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(
    ("place", "name"),
    [(EventsFeed, "downloaded"), (intake, "read_file"), (intake, "store_files"), (Transaction, "append")],
)
def test_a_load_that_is_ended_anywhere_leaves_whole_intervals_and_the_next_one_does_the_rest(
    world: World, one_by_one: None, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, end: type[BaseException]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(place, name, ended(getattr(place, name), since=3, end=end))
        with pytest.raises(end):
            world.load_all()
    assert world.us() == {}
    assert world.left_behind() == []
    assert set(world.states().values()) == {"fetched"}
    for number in world.manifest():
        assert world.raw(number).num_rows == ROWS
    world.load_all()
    assert_whole(world, *EVERY)


@pytest.mark.long
def test_a_run_that_is_cancelled_leaves_whole_intervals_and_another_run_does_the_rest(
    world: World,
    one_by_one: None,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Dagster tries an interrupted step again by its retry policy; here somebody goes on cancelling.
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.001)
    job = definitions.resolve_job_def("events_job")
    run: dict[str, Any] = {
        "instance": instance,
        "partition_key": "2019-01-21",
        "run_config": QUIET,
        "raise_on_error": False,
    }
    us_event_data = dg.AssetKey(["events", "us_event_data"])
    with monkeypatch.context() as patched:
        stop = ended(write_together, since=3, end=dg.DagsterExecutionInterruptedError)
        patched.setattr(us_store, "write_together", stop)
        assert failed_steps(job.execute_in_process(**run)) == ["us_event_data"]
    assert_whole(world, 0, 1)
    assert instance.get_materialized_partitions(us_event_data) == set()
    asked = world.asked()
    assert job.execute_in_process(**run).success
    assert_whole(world, *EVERY)
    assert world.asked() == asked
    assert instance.get_materialized_partitions(us_event_data) == {"2019-01-21"}


@pytest.mark.long
def test_what_was_stored_and_not_noted_is_stored_again_as_it_is(world: World) -> None:
    world.load_all()
    files = world.raw_versions()
    world.execute(f"DELETE FROM {BOOK} WHERE interval > '2019-01-21T00:15Z'")
    before = world.tables()["us_event_data"]
    world.load_all()
    assert (world.raw_versions(), world.tables()["us_event_data"]) == (files, before)
    assert world.states() == dict.fromkeys(EVERY, "loaded")


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


@pytest.mark.long
def test_two_files_with_an_event_in_common_are_loaded_at_once(world: World) -> None:
    start = threading.Barrier(2)
    paths = [world.own(number, *range(number, 200)) for number in (0, 1)]

    def begin(number: int) -> None:
        start.wait()
        load_file(paths[number], database=world.database, now=world.now())

    for _ in range(6):
        world.execute("TRUNCATE events.us_event_data, events.intervals")
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(begin, number) for number in (0, 1)]:
                done.result()
        assert len(world.us()) == 200


@pytest.mark.long
def test_a_file_that_the_feed_fails_over_is_missing_also_long_after_its_time(world: World) -> None:
    world.ahead = datetime.timedelta(days=30)
    world.simulator.faults.script("files", ["none", *["500"] * 3])
    world.simulator.change(quarter(2), held=True)
    world.load_all()
    assert world.states() == {0: "loaded", 1: "missing", 2: "absent", 3: "loaded"}
    world.load_all()
    assert world.states() == {0: "loaded", 1: "loaded", 2: "absent", 3: "loaded"}
