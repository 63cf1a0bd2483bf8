"""A trigger starts one run, however many ask, on however many gateways, and whatever fails on the way."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
import requests

from etl_assets.core.database.connections import Database
from etl_assets.gateway.graphql import OrchestratorDown, StillLoading
from etl_assets.gateway.orchestrator import LaunchRefused
from etl_assets.gateway.store import Store, StoreDown
from etl_assets.gateway.triggers import TooFrequent, Trigger, take
from etl_assets_tests.gateway.serving import FakeDagster, serving

TRIGGER = Trigger(name="experiments", job="experiments_job")
FREQUENT = (400, "Trigger the API frequently, please try again later.")
STARTED = (200, "ETL process started")


def taken(database: Database, dagster: FakeDagster, *, interval_s: float = 10) -> str:
    """Take the trigger as a gateway that was just started, and give the run's id."""
    run = take(TRIGGER, interval_s=interval_s, store=Store(database), orchestrator=dagster)  # type: ignore[arg-type]
    return asyncio.run(run).run_id


def execute(database: Database, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database.url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def recorded(database: Database) -> list[tuple[object, ...]]:
    return execute(database, "SELECT name, run_id FROM gateway.triggers")


def move(database: Database, by: str) -> None:
    execute(database, f"UPDATE gateway.triggers SET triggered_at = triggered_at {by}")


def test_a_trigger_starts_the_run_of_the_present_day_and_is_recorded(database: Database) -> None:
    dagster = FakeDagster()
    before, today, after = None, None, None
    while before is None or before != after:  # but once, unless it is midnight
        before = execute(database, "SELECT (now() AT TIME ZONE 'UTC')::date::text")
        assert taken(database, dagster, interval_s=0).startswith("run-")
        today = dagster.launched[-1]
        after = execute(database, "SELECT (now() AT TIME ZONE 'UTC')::date::text")
    assert today == ("experiments_job", before[0][0])
    assert recorded(database) == [("experiments", f"run-{len(dagster.launched) - 1}")]
    assert execute(database, "SELECT now() - triggered_at BETWEEN '0' AND '1 min' FROM gateway.triggers") == [(True,)]


def test_the_limit_holds_in_a_gateway_that_was_just_started_and_ends_with_the_interval(database: Database) -> None:
    dagster = FakeDagster()
    taken(database, dagster, interval_s=3600)
    move(database, "- interval '59 min'")
    with pytest.raises(TooFrequent):
        taken(database, dagster, interval_s=3600)
    assert len(dagster.launched) == 1
    move(database, "- interval '1 min'")
    assert taken(database, dagster, interval_s=3600) == "run-1"
    assert recorded(database) == [("experiments", "run-1")]
    with pytest.raises(TooFrequent):
        taken(database, dagster, interval_s=3600)


def test_a_clock_that_was_set_back_does_not_stop_the_trigger_for_as_long(database: Database) -> None:
    dagster = FakeDagster()
    taken(database, dagster)
    move(database, "+ interval '1 year'")
    assert taken(database, dagster) == "run-1"


def test_without_an_interval_the_run_alone_holds_off_the_next(database: Database) -> None:
    dagster = FakeDagster(runs_last=True)
    assert taken(database, dagster, interval_s=0) == "run-0"
    with pytest.raises(TooFrequent):
        taken(database, dagster, interval_s=0)
    dagster.runs_last = False
    assert taken(database, dagster, interval_s=0) == "run-1"


def test_a_refusal_uses_up_nothing(database: Database) -> None:
    dagster = FakeDagster()
    dagster.still_loading = True
    with pytest.raises(StillLoading):
        taken(database, dagster)
    assert recorded(database) == []
    dagster.still_loading = False
    assert taken(database, dagster) == "run-0"


def test_a_launch_that_fails_uses_up_nothing(database: Database) -> None:
    dagster = FakeDagster()
    failures: list[tuple[Exception, type[Exception]]] = [
        (OrchestratorDown(), OrchestratorDown),
        (LaunchRefused("no such partition"), LaunchRefused),
        (StillLoading(), StillLoading),
    ]
    for dagster.failure, seen in failures:
        with pytest.raises(seen):
            taken(database, dagster)
        assert recorded(database) == [], seen
    assert taken(database, dagster) == "run-0"


# The database fails on the way


def terminate_section(database: Database) -> None:
    query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'etl-assets gateway'"
    assert execute(database, f"{query} AND datname = current_database()") == [(True,)]


def test_a_section_that_is_lost_before_the_launch_launches_nothing(database: Database) -> None:
    dagster = FakeDagster()

    async def lose() -> None:
        terminate_section(database)

    dagster.meanwhile["unfinished"] = lose
    with pytest.raises(StoreDown):
        taken(database, dagster)
    assert dagster.launched == []
    assert taken(database, dagster) == "run-0"


def test_a_run_that_was_started_is_reported_as_although_the_database_went_away(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    dagster = FakeDagster(runs_last=True)

    async def lose() -> None:
        terminate_section(database)

    dagster.meanwhile["launch"] = lose
    assert taken(database, dagster) == "run-0"
    assert "run run-0 of experiments_job was started, but the time could not be recorded" in caplog.text
    assert recorded(database) == []
    with pytest.raises(TooFrequent):  # by its run
        taken(database, dagster)


def test_a_database_that_takes_no_writes_launches_nothing(database: Database) -> None:
    dagster = FakeDagster()
    name = psycopg.conninfo.conninfo_to_dict(database.url)["dbname"]
    execute(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StoreDown, match="SQLSTATE 25006"):
        taken(database, dagster)
    assert dagster.launched == []


def test_what_the_last_one_recorded_is_seen_under_any_isolation(database: Database) -> None:
    dagster = FakeDagster()
    name = psycopg.conninfo.conninfo_to_dict(database.url)["dbname"]
    execute(database, f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    levels = []

    async def run() -> None:
        async with Store(database).exclusive("experiments") as connection:
            levels.append(await (await connection.execute("SHOW transaction_isolation")).fetchone())

    asyncio.run(run())
    assert levels == [("read committed",)]
    assert taken(database, dagster) == "run-0"


# Many at once, over HTTP


@contextmanager
def gateways(database: Database, dagster: FakeDagster, count: int, *, interval_s: float) -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [
            # Two hundred at once take their time; the deadline has tests of its own.
            stack.enter_context(serving(Database(database.url), dagster, interval_s=interval_s, deadline_s=30))
            for _ in range(count)
        ]


def answers_to_many(urls: list[str], count: int) -> Counter[tuple[int, str]]:
    """What is answered, and how often, to triggers that go off together."""
    together = threading.Barrier(count)

    def trigger(number: int) -> tuple[int, str]:
        together.wait()
        method = "POST" if number % 2 else "GET"
        answer = requests.request(method, f"{urls[number % len(urls)]}/trigger-etl", timeout=30)
        return answer.status_code, answer.json()["message"]

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(trigger, range(count)))


# Without an interval only the section itself keeps a second run from being started before the first one can be seen.
@pytest.mark.parametrize(
    ("count", "gateway_count", "interval_s", "runs_last"),
    [
        pytest.param(30, 2, 0, True, id="two gateways, no interval, a long run, thirty triggers"),
        pytest.param(200, 2, 0, True, id="two gateways, no interval, a long run", marks=pytest.mark.long),
        pytest.param(200, 1, 0, True, id="one gateway, no interval, a long run", marks=pytest.mark.long),
        pytest.param(200, 1, 3600, False, id="one gateway, runs that end at once", marks=pytest.mark.long),
        pytest.param(200, 2, 3600, False, id="two gateways, runs that end at once", marks=pytest.mark.long),
        pytest.param(200, 4, 3600, True, id="four gateways", marks=pytest.mark.long),
    ],
)
def test_many_triggers_at_once_start_one_run(
    database: Database, count: int, gateway_count: int, interval_s: float, runs_last: bool
) -> None:
    dagster = FakeDagster(runs_last=runs_last)
    with gateways(database, dagster, gateway_count, interval_s=interval_s) as urls:
        assert answers_to_many(urls, count) == {STARTED: 1, FREQUENT: count - 1}
    assert len(dagster.launched) == 1


def test_while_a_launch_is_under_way_every_other_trigger_is_too_frequent(database: Database) -> None:
    dagster = FakeDagster()
    launching, go_on = threading.Event(), threading.Event()

    async def wait() -> None:
        launching.set()
        await asyncio.to_thread(go_on.wait)

    dagster.meanwhile["launch"] = wait
    with gateways(database, dagster, 2, interval_s=0) as urls, ThreadPoolExecutor(1) as pool:
        first = pool.submit(answers_to_many, urls[:1], 1)
        launching.wait()
        try:
            assert answers_to_many(urls, 4) == {FREQUENT: 4}
        finally:
            go_on.set()
        assert first.result() == {STARTED: 1}
    assert len(dagster.launched) == 1
