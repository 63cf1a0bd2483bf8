"""Several writers and readers at once on one table."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.slices import commit as one_commit
from etl_assets.core.slices import merging
from etl_assets.core.slices.slice import Slice
from etl_assets.errors import TransientError
from etl_assets_tests.core.slices.tables import (
    Daily,
    Readings,
    as_reader,
    counts,
    create,
    daily,
    day_slice,
    execute,
    ledger,
    many,
    readings,
    site_slice,
    store,
    values,
)

# Writers beside each other are slow to bring about; they are proven in `make prove`.
pytestmark = pytest.mark.long


class Pause:
    """Holds writers at a step of the write path until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: Any, step: str) -> None:
        self.reached, self.let_go = threading.Event(), threading.Event()
        original: Callable[..., Any] = getattr(place, step)

        def held(*args: Any, **options: Any) -> Any:
            self.reached.set()
            assert self.let_go.wait(20)
            return original(*args, **options)

        monkeypatch.setattr(place, step, held)


def waiting_for_locks(database: Database) -> int:
    ((count,),) = execute(
        database,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    return int(count)


# Not for the rows of the other, for its lock.
WAITS_OF_ADVISORY_LOCKS = """SELECT count(*) FROM pg_locks JOIN pg_database ON database = pg_database.oid
    WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.long
def test_eight_writers_of_overlapping_shuffled_keys_do_not_deadlock_and_lose_nothing(database: Database) -> None:
    create(database, Readings)

    def work(number: int) -> int:
        frame = many(400, value=float(number)).iloc[number * 25 : number * 25 + 200]
        sites = Slice(Readings, f"writer {number}")  # a lock of its own: the writers meet at the rows
        shuffled = frame.sample(frac=1, random_state=number)
        return store(database, shuffled, "upsert", sites).received

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [200] * 8
    found = values(database)
    assert sorted(found) == [f"k{i:07d}" for i in range(375)]
    entries = ledger(database)
    assert len(entries) == 8
    assert sum(entry["inserted"] for entry in entries) == 375
    assert sum(entry["inserted"] + entry["updated"] + entry["unchanged"] for entry in entries) == 1600
    assert execute(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


def test_an_upsert_keeps_all_other_writers_of_its_table_off(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows may lie in any slice; and two at once, which update in the order of the server's plan, could wait for each other in a circle."""
    create(database, Readings)
    store(database, readings(("a", 1), ("b", 1)), "upsert")
    pause = Pause(monkeypatch, one_commit, "record")
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(store, database, readings(("a", 2), ("b", 2)), "upsert", Slice(Readings, "first"))
        assert pause.reached.wait(10)
        monkeypatch.undo()
        second = pool.submit(store, database, readings(("a", 3), ("b", 3)), "upsert", Slice(Readings, "second"))
        wait_until(lambda: waiting_for_locks(database) == 1)
        assert execute(database, WAITS_OF_ADVISORY_LOCKS) == [(1,)]
        of_c = pool.submit(store, database, readings(("c", 1), site="c"), "partition", site_slice("c"))
        wait_until(lambda: execute(database, WAITS_OF_ADVISORY_LOCKS) == [(2,)])
        assert values(database) == {"a": 1, "b": 1}
        pause.let_go.set()
        for writer in (first, second):
            assert counts(writer.result(10)) == {"received": 2, "updated": 2}
        assert counts(of_c.result(10)) == {"received": 1, "inserted": 1}
    assert values(database) == {"a": 3, "b": 3, "c": 1}


@pytest.mark.parametrize("native", [False, True])
def test_two_writers_of_one_slice_leave_the_rows_of_one_of_them(database: Database, native: bool) -> None:
    create(database, Daily if native else Readings)
    slice_ = day_slice(20) if native else site_slice("a")

    def work(number: int) -> None:
        frame = daily(20, 500, value=number) if native else many(500, value=number)
        store(database, frame, "partition", slice_)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(1, 9)))
    ((rows, different),) = execute(
        database, f"SELECT count(*), count(DISTINCT value) FROM {slice_.contract.config.table}"
    )
    assert (rows, different) == (500, 1)
    assert len(ledger(database)) == 8


def test_writers_of_different_native_partitions_do_not_wait_for_each_other_in_a_circle(database: Database) -> None:
    create(database, Daily)

    def work(day: int) -> None:
        for value in (1, 2, 3):
            store(database, daily(day, 500, value=value), "partition", day_slice(day))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(1, 9)))
    assert execute(database, "SELECT count(*), sum(value) FROM plant.daily") == [(4000, 12000.0)]
    assert execute(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


def test_a_writer_of_the_whole_table_waits_for_those_of_slices_and_they_not_for_each_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Readings)
    pause = Pause(monkeypatch, one_commit, "record")
    with ThreadPoolExecutor(3) as pool:
        of_a = pool.submit(store, database, readings(("a", 1)), "partition", site_slice("a"))
        assert pause.reached.wait(10)
        monkeypatch.undo()
        of_b = pool.submit(store, database, readings(("b", 1), site="b"), "partition", site_slice("b"))
        assert counts(of_b.result(10)) == {"received": 1, "inserted": 1}
        of_all = pool.submit(store, database, readings(("c", 1)), "replace")
        wait_until(lambda: waiting_for_locks(database) == 1)
        assert values(database) == {"b": 1}
        pause.let_go.set()
        assert counts(of_a.result(10)) == {"received": 1, "inserted": 1}
        assert counts(of_all.result(10)) == {"received": 1, "inserted": 1, "deleted": 2}
    assert values(database) == {"c": 1}


def competitor(database: Database, statement: str) -> None:
    with psycopg.connect(database.url) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("statement", "expected", "change"),
    [
        (
            "INSERT INTO plant.readings VALUES ('b', 'a', now(), 7)",
            {"a": 5, "b": 2},
            {"received": 2, "updated": 2},
        ),
        ("DELETE FROM plant.readings WHERE id = 'a'", {"a": 5, "b": 2}, {"received": 2, "inserted": 2}),
    ],
)
def test_a_competitor_without_the_lock_is_seen_by_the_next_attempt(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
    expected: dict[str, float],
    change: dict[str, int],
) -> None:
    create(database, Readings)
    store(database, readings(("a", 1)), "append")
    original, calls = merging._write_difference, []

    def write_difference(*args: Any, **options: Any) -> merging.Change:
        calls.append(args)
        if len(calls) == 1:
            competitor(database, statement)
        return original(*args, **options)

    monkeypatch.setattr(merging, "_write_difference", write_difference)
    outcome = store(database, readings(("a", 5), ("b", 2)), "upsert")
    assert values(database) == expected
    assert counts(outcome) == change
    assert len(calls) == 2
    assert len(ledger(database)) == 2


def test_equal_keys_that_a_stream_meets_are_a_failure_that_may_be_tried_again(database: Database) -> None:
    create(database, Readings)
    execute(database, "ALTER TABLE plant.readings ADD CONSTRAINT one UNIQUE (value)")
    with pytest.raises(TransientError, match="without the lock"):
        store(database, as_reader(Readings, readings(("a", 1), ("b", 1))), "upsert")
    assert values(database) == {}


@pytest.mark.parametrize("how", ["difference", "anew", "native"])
def test_a_reader_sees_the_old_slice_or_the_new_one(database: Database, how: str) -> None:
    contract = Daily if how == "native" else Readings
    create(database, contract)
    slice_ = day_slice(20) if how == "native" else site_slice("a")
    frames = [daily(20, 1000, value=v) if how == "native" else many(1000, value=v) for v in (1.0, 2.0)]
    if how == "difference":
        frames[1].loc[300:, "value"] = 1.0
    store(database, frames[0], "partition", slice_)
    seen: set[tuple[int, float]] = set()
    begun, stop = threading.Event(), threading.Event()

    def read() -> None:
        with psycopg.connect(database.url, autocommit=True) as connection:
            ended = False
            while not ended:
                ended = stop.is_set()
                seen.update(connection.execute(f"SELECT count(*), sum(value) FROM {contract.config.table}").fetchall())  # type: ignore[call-overload]
                begun.set()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        begun.wait(20)
        for number in range(1, 8):
            store(database, frames[number % 2], "partition", slice_)
        stop.set()
        reader.result()
    assert seen <= {(1000, float(np.sum(frame["value"]))) for frame in frames}
    assert len(seen) == 2
