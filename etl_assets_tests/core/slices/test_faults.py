"""What happens to a write when the server, the connection, the source or the process fails."""

import datetime
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pytest

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import commit as one_commit
from etl_assets.core.slices import lock, session, writing
from etl_assets.core.slices.entries import accept, list_entries
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction
from etl_assets.core.slices.writing import Write, write
from etl_assets.errors import PermanentError, TransientError
from etl_assets_tests.core.slices.proxy import Proxy, proxied
from etl_assets_tests.core.slices.tables import (
    NOON,
    Daily,
    Events,
    Readings,
    as_reader,
    as_table,
    counts,
    create,
    daily,
    day_slice,
    execute,
    ledger,
    many,
    quarantined,
    readings,
    site_slice,
    store,
    stored,
    values,
)

# Servers and connections that fail are slow to bring about; they are proven in `make prove`.
pytestmark = pytest.mark.long

HELD = "SELECT pg_advisory_xact_lock(hashtextextended('plant.readings', 0))"
TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def once_before(monkeypatch: pytest.MonkeyPatch, place: Any, step: str, fault: Callable[[], object]) -> list[int]:
    """Let a fault happen before the first call of a step; gives the calls."""
    original, calls = getattr(place, step), []

    def faulty(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            fault()
        return original(*args, **options)

    monkeypatch.setattr(place, step, faulty)
    return calls


@pytest.mark.parametrize(
    ("place", "step"), [(one_commit, "_entered"), (Transaction, "changed"), (Transaction, "append")]
)
@pytest.mark.parametrize("mode", ["upsert", "partition"])
def test_a_terminated_backend_is_replaced_and_the_write_repeated(
    database: Database, monkeypatch: pytest.MonkeyPatch, place: Any, step: str, mode: str
) -> None:
    create(database, Readings)
    store(database, readings(("a", 1), ("c", 3)), "append")
    calls = once_before(monkeypatch, place, step, lambda: execute(database, TERMINATE))
    outcome = store(database, readings(("a", 2), ("b", 2)), mode, site_slice("a"))
    assert len(calls) >= 2
    assert values(database) == {"a": 2, "b": 2, **({"c": 3} if mode == "upsert" else {})}
    assert counts(outcome)["updated"] == counts(outcome)["inserted"] == 1
    assert len(ledger(database)) == 2


def test_an_entry_is_counted_once_though_its_commit_was_repeated(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Readings)
    store(database, readings(("a", 5000.0)), "upsert")
    entries, _ = list_entries(database)
    calls = once_before(monkeypatch, session, "commit", lambda: execute(database, TERMINATE))
    assert accept(database, entries, lambda _: Readings, who="who", reason="why") == 1
    assert len(calls) == 2
    assert [(row["mode"], row["remark"]) for row in ledger(database)] == [("upsert", None), ("accept", "why (who)")]


def test_a_backend_terminated_in_the_middle_of_a_load_is_replaced(database: Database) -> None:
    create(database, Readings)
    frame = many(150_000)
    done = threading.Event()

    def terminate() -> None:
        while not done.is_set():
            killed = execute(
                database,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_progress_copy"
                " WHERE datname = current_database() AND type = 'PIPE' AND tuples_processed > 0",
            )
            if killed != [(0,)]:
                done.set()

    killer = threading.Thread(target=terminate)
    killer.start()
    try:
        outcome = store(database, frame, "append")
        assert done.is_set()
    finally:
        done.set()
        killer.join()
    assert counts(outcome) == {"received": 150_000, "inserted": 150_000}
    assert execute(database, "SELECT count(*), count(DISTINCT id) FROM plant.readings") == [(150_000, 150_000)]
    assert len(ledger(database)) == 1


def test_a_backend_terminated_before_the_commit_is_replaced(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Events)
    once_before(monkeypatch, session, "commit", lambda: execute(database, TERMINATE))
    outcome = store(database, pd.DataFrame({"at": [NOON], "text": ["x"]}), "append", Slice(Events))
    assert counts(outcome) == {"received": 1, "inserted": 1}
    assert len(stored(database, Events)) == len(ledger(database)) == 1


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    create(database, Readings, Events)
    with proxied(database.url) as opened:
        yield opened


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("form", ["frame", "reader"])
def test_a_connection_cut_at_the_commit_leaves_each_row_once_or_a_failure(
    database: Database, proxy: Proxy, cut: Any, form: str
) -> None:
    through = Database(proxy.url)
    through.prepare()
    frame = pd.DataFrame({"at": [NOON, NOON], "text": ["x", "y"]})
    data = frame if form == "frame" else as_reader(Events, frame)
    proxy.cut = cut
    if form == "reader" and cut == "before":
        # Batches can be read once only, so that nobody but the caller can begin again.
        with pytest.raises(TransientError):
            store(through, data, "append", Slice(Events))
        expected = 0
    else:
        assert counts(store(through, data, "append", Slice(Events))) == {"received": 2, "inserted": 2}
        expected = 1
    assert proxy.cuts == 1
    assert len(stored(database, Events)) == 2 * expected
    assert len(ledger(database)) == expected


def test_a_commit_that_nobody_could_look_up_is_found_by_the_next_attempt(
    database: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    through = Database(proxy.url)
    through.prepare()

    def nobody(*_: object) -> bool:
        raise TransientError("the ledger cannot be read")

    monkeypatch.setattr(session, "_committed", nobody)
    proxy.cut = "after"
    frame = pd.concat([readings((site, 1), site=site) for site in "ab"])
    outcomes = write(through, frame, [site_slice(site) for site in "ab"], Write("append"))
    assert [counts(outcome) for outcome in outcomes] == [{"received": 1, "inserted": 1}] * 2
    assert [entry["commit_id"] for entry in ledger(database)] == [outcome.commit_id for outcome in outcomes]
    assert values(database) == {"a": 1, "b": 1}


def test_the_slices_after_one_whose_commit_was_cut_are_written_too(database: Database, proxy: Proxy) -> None:
    through = Database(proxy.url)
    through.prepare()
    frame = pd.concat([readings((site, 1), site=site) for site in "abc"])
    for cut in ("after", "before"):
        proxy.cut = cut  # type: ignore[assignment]
        outcomes = write(through, frame, [site_slice(site) for site in "abc"], Write("partition"))
        assert [outcome.received for outcome in outcomes] == [1, 1, 1]
    assert proxy.cuts == 2
    assert values(database) == {"a": 1, "b": 1, "c": 1}
    assert len(ledger(database)) == 6


def test_the_look_up_waits_for_a_commit_that_is_still_under_way(database: Database) -> None:
    create(database, Events)
    with psycopg.connect(database.url) as writer:
        writer.execute("SELECT pg_advisory_xact_lock(hashtextextended('c1', 3))")
        writer.execute(
            "INSERT INTO etl.ledger SELECT (jsonb_populate_record(NULL::etl.ledger, %s)).*",
            (
                '{"commit_id":"c1","asset":"a","partition":"","run_id":"r","mode":"append","received":0,"inserted":0,'
                '"updated":0,"deleted":0,"unchanged":0,"deduplicated":0,"quarantined":0,"flagged":0,"size":0,'
                '"seconds":0,"generation":0,"committed_at":"2024-01-01T00:00:00Z"}',
            ),
        )
        found: list[bool] = []
        probe = threading.Thread(target=lambda: found.append(session._committed(database, "c1")))
        probe.start()
        time.sleep(0.2)
        assert found == []
        writer.commit()
        probe.join(10)
    assert found == [True]
    assert session._committed(database, "another") is False


def test_a_writer_holds_the_lock_of_its_commit_until_the_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Readings)
    found: list[bool] = []
    probes: list[threading.Thread] = []
    original = session.commit

    def commit(of: Database, connection: Any, commit_id: str) -> None:
        probes.append(threading.Thread(target=lambda: found.append(session._committed(of, commit_id))))
        probes[0].start()
        time.sleep(0.3)
        assert found == []
        original(of, connection, commit_id)

    monkeypatch.setattr(session, "commit", commit)
    store(database, readings(("a", 1)), "upsert")
    probes[0].join(10)
    assert found == [True]


def test_a_lock_that_is_not_given_in_time_is_a_failure_that_may_be_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Readings)
    monkeypatch.setattr(lock, "LOCK_TIMEOUT", datetime.timedelta(milliseconds=50))
    monkeypatch.setattr(lock, "LOOKED_AT_EVERY_S", 0.02)
    monkeypatch.setattr(session, "ATTEMPTS", 2)
    with psycopg.connect(database.url) as other:
        other.execute(HELD)
        with pytest.raises(TransientError, match="another writer has held the lock of plant.readings"):
            store(database, readings(("a", 1)), "upsert")
        other.rollback()
        assert counts(store(database, readings(("a", 1)), "upsert")) == {"received": 1, "inserted": 1}


@pytest.mark.parametrize("alive", [True, False])
def test_a_lock_is_taken_from_who_shows_no_life_and_from_nobody_else(
    database: Database, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    create(database, Readings)
    monkeypatch.setattr(lock, "NO_LIFE_S", 1.0)
    monkeypatch.setattr(lock, "LOOKED_AT_EVERY_S", 0.1)
    done: list[object] = []
    writer = threading.Thread(target=lambda: done.append(store(database, readings(("a", 1)), "upsert")))
    with psycopg.connect(database.url) as other:
        other.execute(HELD)
        writer.start()
        if alive:
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert done == []
                other.execute("SELECT 1")
                time.sleep(0.1)
            other.rollback()
        writer.join(20)
        if not alive:
            with pytest.raises(psycopg.OperationalError):
                other.execute("SELECT 1")
    assert len(done) == 1
    assert values(database) == {"a": 1}


def test_who_has_nothing_to_store_keeps_a_writer_that_shows_no_life_from_storing_what_it_read_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Readings)
    store(database, readings(("a", 1)), "partition", site_slice("a"))
    monkeypatch.setattr(lock, "NO_LIFE_S", 1.0)
    monkeypatch.setattr(lock, "LOOKED_AT_EVERY_S", 0.1)
    with psycopg.connect(database.url, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(hashtextextended('plant.readings[a]', 1))")
        named = f"etl_assets writes for {holder.info.backend_pid}"
        with psycopg.connect(database.url, application_name=named) as writer:
            writer.execute("SELECT FROM etl.heads WHERE partition = 'a' FOR UPDATE")
            lock.draw(database, [site_slice("a")])
            for ended in (holder, writer):
                with pytest.raises(psycopg.OperationalError):
                    ended.execute("SELECT 1")


def test_a_cancelled_statement_is_a_failure_that_may_be_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Readings)
    store(database, readings(("a", 1)), "append")
    monkeypatch.setattr(session, "ATTEMPTS", 2)
    execute(
        database,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(5); RETURN NEW; END';"
        " CREATE TRIGGER slow BEFORE INSERT ON plant.readings FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    impatient = Database(f"{database.url}?options=-c%20statement_timeout%3D1s")
    with pytest.raises(TransientError, match="cancelled the statement"):
        store(impatient, readings(("b", 1)), "replace")
    assert values(database) == {"a": 1}


def test_what_the_database_refuses_is_permanent_and_tried_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Readings)
    calls = once_before(monkeypatch, Transaction, "append", lambda: None)
    execute(database, "ALTER TABLE plant.readings ADD CONSTRAINT small CHECK (value < 10)")
    with pytest.raises(PermanentError, match="23514"):
        store(database, readings(("a", 11)), "append")
    assert len(calls) == 1
    assert ledger(database) == []


@pytest.mark.parametrize("mode", ["append", "upsert", "replace"])
def test_a_source_that_fails_in_the_middle_leaves_nothing_behind(database: Database, mode: str) -> None:
    create(database, Readings)
    store(database, readings(("old", 1)), "append")

    def batches() -> Iterator[pa.RecordBatch]:
        yield from as_table(Readings, many(260_000)).to_batches()
        yield from as_table(Readings, readings(("bad", 5000))).to_batches()
        raise OSError("the source broke off")

    reader = pa.RecordBatchReader.from_batches(arrow_schema(Readings), batches())
    with pytest.raises(OSError, match="the source broke off"):
        store(database, reader, mode)
    assert values(database) == {"old": 1}
    assert len(ledger(database)) == 1
    assert quarantined(database) == []


@pytest.mark.parametrize("form", ["frame", "reader"])
def test_counts_that_do_not_balance_leave_nothing_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    create(database, Readings)
    monkeypatch.setattr(
        writing.Outcome,
        "counts",
        lambda _: (
            dict.fromkeys(["received", "inserted"], 1)
            | dict.fromkeys(["updated", "unchanged", "deduplicated", "quarantined"], 1)
        ),
    )
    data = readings(("a", 1))
    with pytest.raises(AssertionError, match="do not balance"):
        store(database, data if form == "frame" else as_reader(Readings, data), "append")
    assert values(database) == {}


KILLED = """
import os, signal, sys
from etl_assets.core.slices import {module} as place
from etl_assets.core.database.connections import Database
from etl_assets_tests.core.slices.tables import Daily, Readings, daily, day_slice, many, site_slice, store
original = place.{step}
def killed(*args, **options):
    if "{when}" == "after":
        original(*args, **options)
    os.kill(os.getpid(), signal.SIGKILL)
place.{step} = killed
data, slice_ = (daily(20, 2000, value=2.0), day_slice(20)) if {native} else (many(2000, value=2.0), site_slice("a"))
store(Database(sys.argv[1]), data, "partition", slice_)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("native", "module", "step", "when"),
    [
        (False, "transaction", "Transaction.append", "before"),
        (False, "transaction", "Transaction.append", "after"),
        (True, "native_partitions", "_build", "after"),
        (True, "native_partitions", "_attach", "after"),
        (False, "commit", "record", "after"),
        (True, "session", "commit", "after"),
    ],
)
def test_a_killed_writer_leaves_the_old_slice_or_the_new_one_and_the_next_write_is_right(
    database: Database, native: bool, module: str, step: str, when: str
) -> None:
    contract = Daily if native else Readings
    create(database, contract)
    old = daily(20, 2000, value=1.0) if native else many(2000, value=1.0)
    slice_ = day_slice(20) if native else site_slice("a")
    store(database, old, "partition", slice_)
    script = KILLED.format(module=module, step=step, when=when, native=native)
    killed = subprocess.run([sys.executable, "-c", script, database.url], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    committed = module == "session"
    table = contract.config.table
    assert execute(database, f"SELECT count(*), sum(value) FROM {table}") == [(2000, 4000.0 if committed else 2000.0)]
    assert len(ledger(database)) == (2 if committed else 1)
    outcome = store(database, old.assign(value=3.0), "partition", slice_)
    assert outcome.loaded == 2000
    assert execute(database, f"SELECT count(*), sum(value) FROM {table}") == [(2000, 6000.0)]
