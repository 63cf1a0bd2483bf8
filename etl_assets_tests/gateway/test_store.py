"""A database that is down, silent, full or locked: each call answers 503 in time, says nothing secret, and works again afterwards.

Requests wait two seconds for their answer and no longer: that is the promise. The everyday tests give the database less time
than the gateway does; the long one takes the gateway as it is.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import requests
from psycopg import sql

from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.gateway.store import CONNECTIONS, DEADLINE_S, Busy, Store, StoreDown
from etl_assets_tests.gateway.down import WAYS, guest, limit_connections, refusing
from etl_assets_tests.gateway.serving import FakeDagster, serving

# Within this the gateway has promised an answer, by a deadline of its own.
PROMISE_S = 2.0
# Far longer than that deadline, also on a busy machine, and shorter than drivers wait by themselves.
TIMEOUT_S = 8.0
CALLS = (
    "POST /trigger-etl",
    "GET /check/table",
    "GET /check/feature_derivation",
    "GET /v1/features/users",
    "GET /start-etl-job",
    "GET /latest-event-data",
)
READING = "GET /v1/features/users"


def ask(url: str, call: str = READING, *, timeout_s: float = TIMEOUT_S) -> requests.Response:
    method, path = call.split(" ")
    return requests.request(method, url + path, timeout=timeout_s)


def assert_down(answer: requests.Response, *, because: str = "") -> None:
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["title"] == "Database unavailable"
    assert because in answer.json()["detail"]


def until(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    """What a condition gives, as soon as it gives something."""
    limit = time.monotonic() + timeout_s
    while time.monotonic() < limit:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError("did not come true")


def waiting_backend(database: Database) -> int:
    """Process id of the session that waits for a lock, as soon as there is one."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(database.url, autocommit=True) as connection:
        return int(until(lambda: connection.execute(query).fetchone())[0])


@contextlib.contextmanager
def locked(database: Database, table: str = "experiments.user_features") -> Iterator[None]:
    with psycopg.connect(database.url) as connection:
        connection.execute(sql.SQL("LOCK {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(*table.split("."))))
        yield


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_database_that_is_down_is_a_503_that_says_nothing_secret(
    database: Database, way: Callable[[Database], AbstractContextManager[Database]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), way(database) as down, serving(down, deadline_s=0.3) as url:
        answer = ask(url)
    assert_down(answer)
    parts = urlsplit(database.url)
    written = answer.text + str(answer.headers) + caplog.text
    assert not [secret for secret in (parts.password, "Wr0ng-Passw0rd", database.url) if str(secret) in written]
    assert not [part for part in (parts.hostname, parts.path[1:]) if str(part) in answer.json()["detail"]]


def test_the_deadline_leaves_time_for_an_answer_within_what_is_promised() -> None:
    assert DEADLINE_S <= 0.75 * PROMISE_S


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_call_answers_by_the_deadline_whatever_the_way(
    database: Database, way: Callable[[Database], AbstractContextManager[Database]], call: str
) -> None:
    dagster = FakeDagster()
    with way(database) as down, serving(down, dagster) as url:
        assert_down(ask(url, call))
    assert dagster.launched == []


@pytest.mark.long
def test_each_reading_of_a_locked_table_answers_by_the_deadline(database: Database) -> None:
    with serving(database) as url, locked(database), ThreadPoolExecutor(8) as many:
        for answer in many.map(lambda call: ask(url, call), [READING, "GET /check/feature_derivation"] * 4):
            assert_down(answer, because=f"did not answer within {DEADLINE_S} s")


@pytest.mark.long
def test_a_query_that_hangs_on_a_lock_is_given_up_and_works_when_the_lock_is_gone(database: Database) -> None:
    with serving(database, deadline_s=1.0) as url:
        with locked(database):
            assert_down(ask(url), because="did not answer within 1 s")
        assert ask(url).status_code == 404


@pytest.mark.long
def test_a_trigger_that_hangs_on_a_lock_starts_nothing(database: Database) -> None:
    dagster = FakeDagster()
    with serving(database, dagster, deadline_s=1.0) as url:
        with locked(database, "gateway.triggers"):
            assert_down(ask(url, "POST /trigger-etl"), because="did not answer within 1 s")
        assert dagster.launched == []
        assert ask(url, "POST /trigger-etl").status_code == 200


@pytest.mark.long
def test_a_backend_that_freezes_in_mid_query_is_given_up(database: Database) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving(database, deadline_s=1.0))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.enter_context(locked(database))
        answer = pool.submit(ask, url)
        pid = waiting_backend(database)
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        assert_down(answer.result(), because="did not answer within 1 s")


def test_a_backend_that_is_terminated_in_mid_query_is_a_503(database: Database) -> None:
    with serving(database, deadline_s=30) as url, ThreadPoolExecutor(1) as pool, locked(database):
        answer = pool.submit(ask, url, timeout_s=30)
        pid = waiting_backend(database)
        with psycopg.connect(database.url, autocommit=True) as administrator:
            administrator.execute("SELECT pg_terminate_backend(%s)", (pid,))
        assert_down(answer.result(), because="the server cancelled the statement or is shutting down")


@pytest.mark.long
def test_the_server_ends_by_itself_what_the_gateway_has_given_up(database: Database) -> None:
    query = """SELECT count(*) = 0 FROM pg_stat_activity
        WHERE application_name = 'etl-assets gateway' AND datname = current_database()"""
    with serving(database, deadline_s=0.3) as url, locked(database):
        assert_down(ask(url))
        with psycopg.connect(database.url, autocommit=True) as connection:
            until(lambda: connection.execute(query).fetchone() == (True,))


def test_a_database_that_comes_back_is_used_again_also_at_another_address(database: Database) -> None:
    addresses: list[str] = []
    with refusing(database) as down, guest(database, limit=20) as first:
        with serving(Database(lambda: addresses[-1])) as url:
            addresses.append(down.url)
            assert_down(ask(url), because="is not ready")
            addresses.append(first.url)
            assert ask(url, "GET /check/table").json() == {"message": "Table created"}
            limit_connections(database, first, 0)
            answer = ask(url)
            assert_down(answer, because="accepts no connection")
            assert "127.0.0.1" not in answer.text
            addresses.append(database.url)
            assert ask(url, "GET /check/table").json() == {"message": "Table created"}


@pytest.mark.long
def test_a_server_that_is_restarted_is_used_again(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    try:
        with serving(Database(server.acquire())) as url:
            assert ask(url, "GET /check/table").status_code == 200
            server.stop()
            assert_down(ask(url, "GET /check/table"))
            server.acquire()
            assert ask(url, "GET /check/table").status_code == 200
    finally:
        server.release()
        server.purge()


# Starting


@pytest.mark.long
def test_a_server_that_takes_long_to_start_blocks_nobody_else(database: Database) -> None:
    may_start = threading.Event()

    def start() -> str:
        may_start.wait()
        return database.url

    with serving(Database(start), deadline_s=0.3) as url:
        assert_down(ask(url), because="did not answer within 0.3 s")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, url)
            assert requests.get(f"{url}/openapi.json", timeout=TIMEOUT_S).status_code == 200
            may_start.set()
            assert waiting.result().status_code in (404, 503)
        until(lambda: ask(url).status_code == 404)


@pytest.mark.long
def test_an_empty_database_is_brought_to_head_by_the_first_request(empty_database_url: str) -> None:
    with serving(Database(empty_database_url), deadline_s=30) as url:
        answer = requests.get(f"{url}/check/table", timeout=30)
    assert (answer.status_code, answer.json()) == (200, {"message": "Table created"})


def test_a_database_that_may_not_be_migrated_is_seen_as_it_is(empty_database_url: str) -> None:
    dagster = FakeDagster()
    with serving(Database(empty_database_url, migrate="off"), dagster) as url:
        assert ask(url, "GET /check/table").json() == {"message": "Table creation failed"}
        assert ask(url, "GET /check/feature_derivation").json() == {"message": "Feature Derivation insert failed"}
        assert_down(ask(url, "POST /trigger-etl"), because="is not ready")
    assert dagster.launched == []


# Connections and their deadlines


@pytest.mark.long
def test_no_more_connections_than_allowed_are_open_at_once(database: Database) -> None:
    entered: list[int] = []

    async def hold(store: Store, released: asyncio.Event) -> None:
        async with store.connection() as connection:
            entered.append(connection.info.backend_pid)
            with connection.deadline_paused():
                await released.wait()

    async def run() -> int:
        store, released = Store(database, deadline_s=30), asyncio.Event()
        holders = [asyncio.create_task(hold(store, released)) for _ in range(CONNECTIONS + 5)]
        while len(entered) < CONNECTIONS:
            await asyncio.sleep(0)
        at_once = len(entered)
        released.set()
        await asyncio.gather(*holders)
        return at_once

    assert asyncio.run(run()) == CONNECTIONS
    assert len(entered) == CONNECTIONS + 5


@pytest.mark.long
def test_time_that_is_spent_elsewhere_is_not_the_databases(database: Database) -> None:
    async def run() -> tuple[bool, tuple[int, ...] | None]:
        async with Store(database, deadline_s=1.0).connection() as connection:
            with connection.deadline_paused():
                await asyncio.sleep(1.0)
            answer = await (await connection.execute("SELECT 1")).fetchone()
            return connection.expired, answer

    assert asyncio.run(run()) == (False, (1,))


def test_a_section_is_one_requests_among_all_stores_and_free_when_it_ends(database: Database) -> None:
    one, same, other = Store(database), Store(database), Store(database)

    async def refused(store: Store) -> bool:
        try:
            async with store.exclusive("experiments"):
                return False
        except Busy:
            return True

    async def run() -> list[bool]:
        async with one.exclusive("experiments"), one.exclusive("something else"):
            found = [await refused(store) for store in (one, same, other)]
        return [*found, await refused(one), await refused(other)]

    assert asyncio.run(run()) == [True, True, True, False, False]


def test_a_section_that_is_known_to_be_taken_costs_no_connection(database: Database) -> None:
    async def run(visitor: Database) -> None:
        store = Store(visitor)
        async with store.exclusive("experiments"):
            limit_connections(database, visitor, 0)
            with pytest.raises(Busy):
                await store.exclusive("experiments").__aenter__()
            with pytest.raises(StoreDown):
                await store.connection().__aenter__()

    with guest(database, limit=20) as visitor:
        asyncio.run(run(visitor))


def test_a_section_that_fails_leaves_nothing_behind(database: Database) -> None:
    async def run() -> None:
        store = Store(database)
        with contextlib.suppress(ZeroDivisionError):
            async with store.exclusive("experiments") as connection:
                await connection.execute("INSERT INTO gateway.triggers VALUES ('experiments', now(), 'r')")
                raise ZeroDivisionError
        async with store.exclusive("experiments") as connection:
            assert await (await connection.execute("SELECT * FROM gateway.triggers")).fetchall() == []

    asyncio.run(run())


def test_a_statement_that_the_server_refuses_is_a_503_with_its_state(database: Database) -> None:
    async def run() -> None:
        async with Store(database).connection() as connection:
            await connection.execute("SELECT nothing FROM nowhere")

    with pytest.raises(StoreDown, match="SQLSTATE 42P01"):
        asyncio.run(run())
