"""ADBC connections that are kept: used again as if they were new, and only where that is so."""

import gc
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.database.pool import KEPT_AT_MOST, REPLACED_AFTER_S
from etl_assets.errors import PlatformError


def ask(connection: Any, query: str) -> Any:
    """The first value of a query."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def server_process(database: Database) -> int:
    """The server process that the next user of a connection has."""
    with database.adbc() as connection:
        return int(ask(connection, "SELECT pg_backend_pid()"))


def others(database: Database) -> set[int]:
    """The server processes of the database's connections, beside the one that asks."""
    with psycopg.connect(database.url) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    return {pid for (pid,) in found}


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true: a server process ends a moment after its connection."""
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def test_a_connection_is_used_again(database: Database) -> None:
    assert len({server_process(database) for _ in range(3)}) == 1


def test_what_one_user_left_uncommitted_is_gone_for_the_next(database: Database) -> None:
    with database.adbc() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE left_open (id int)")
        cursor.execute("SET LOCAL lock_timeout = '7s'")
    with database.adbc() as connection:
        assert ask(connection, "SELECT to_regclass('left_open')::text") is None
        assert ask(connection, "SELECT current_setting('lock_timeout')") == "0"
        assert ask(connection, "SELECT pg_current_xact_id_if_assigned() IS NULL")


def test_temporary_tables_do_not_stay(database: Database) -> None:
    stage = pa.table({"id": [1]})
    for _ in range(2):
        with database.adbc() as connection:
            with connection.cursor() as cursor:
                # Fails if there is one already.
                cursor.adbc_ingest("stage", stage, mode="create", temporary=True)
            connection.commit()
    with database.adbc() as connection:
        assert ask(connection, "SELECT count(*) FROM pg_class WHERE relname = 'stage'") == 0


def test_a_connection_that_met_an_error_is_closed(database: Database) -> None:
    first = server_process(database)
    with pytest.raises(PlatformError, match="division by zero"), database.adbc() as connection:
        ask(connection, "SELECT 1 / 0")
    assert server_process(database) != first
    second = server_process(database)
    with pytest.raises(RuntimeError, match="something else"), database.adbc():
        raise RuntimeError("something else")
    assert server_process(database) != second


def test_a_connection_that_the_server_has_ended_is_replaced(database: Database) -> None:
    first = server_process(database)
    with psycopg.connect(database.url) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (first,))
    assert server_process(database) != first


@pytest.mark.long
def test_a_connection_that_is_old_is_replaced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    first = server_process(database)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + REPLACED_AFTER_S + 1)
    assert server_process(database) != first


@pytest.mark.long
def test_no_more_are_kept_than_some(database: Database) -> None:
    count = KEPT_AT_MOST + 2
    opened = [database.adbc() for _ in range(count)]
    pids = {int(ask(one.__enter__(), "SELECT pg_backend_pid()")) for one in opened}
    assert len(pids) == count
    for one in opened:
        one.__exit__(None, None, None)
    assert eventually(lambda: len(others(database) & pids) == KEPT_AT_MOST)
    # The last one that was given back is the first to be used.
    assert server_process(database) in pids


@pytest.mark.long
def test_users_side_by_side_have_a_connection_each(database: Database) -> None:
    def use(number: int) -> bool:
        with database.adbc() as connection:
            ask(connection, f"SELECT set_config('etl.number', '{number}', true)")
            return bool(ask(connection, "SELECT current_setting('etl.number')") == str(number))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(64)))
    assert eventually(lambda: len(others(database)) <= KEPT_AT_MOST)


def test_a_database_whose_pool_is_closed_has_no_connections_and_is_used_again(database: Database) -> None:
    pid = server_process(database)
    database.close()
    assert eventually(lambda: pid not in others(database))
    assert server_process(database) != pid


@pytest.mark.long
def test_the_connections_end_with_their_database(database: Database) -> None:
    owner = Database(database.url)
    pid = server_process(owner)
    assert pid in others(database)
    del owner
    gc.collect()
    assert eventually(lambda: pid not in others(database))


def _in_child(database: Database, sent: Any) -> None:
    sent.send([server_process(database) for _ in range(KEPT_AT_MOST + 1)])
    sent.close()
    # Without the end of a Python process: what a child leaves behind must not depend on it.
    os._exit(0)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_and_leaves_those_of_its_parent_alone(database: Database) -> None:
    opened = [database.adbc() for _ in range(KEPT_AT_MOST)]
    kept = {int(ask(one.__enter__(), "SELECT pg_backend_pid()")) for one in opened}
    for one in opened:
        one.__exit__(None, None, None)
    context = multiprocessing.get_context("fork")
    received, sent = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(database, sent))
    child.start()
    sent.close()
    of_child = set(received.recv())
    child.join(20)
    assert child.exitcode == 0
    assert of_child.isdisjoint(kept)
    assert server_process(database) in kept
    assert others(database) >= kept
