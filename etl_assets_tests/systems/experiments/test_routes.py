"""The calls of the experiments over real HTTP: the fixed messages of the exercise, and the features, page by page."""

import asyncio
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
import requests
from psycopg import sql

from etl_assets.core.database.connections import Database
from etl_assets.gateway.app import create_app
from etl_assets.gateway.orchestrator import LaunchRefused, OrchestratorDown
from etl_assets.gateway.store import Store
from etl_assets.systems.experiments.contracts import UserFeatures
from etl_assets.systems.experiments.routes import page_query
from etl_assets.systems.experiments.settings import ExperimentsSettings
from etl_assets_tests.gateway.serving import FakeDagster, serving

DAY = date(2023, 12, 31)
SMALLEST, LARGEST = -(2**63), 2**63 - 1
PATH = "/v1/features/users"


@pytest.fixture
def dagster() -> FakeDagster:
    return FakeDagster()


@pytest.fixture
def url(database: Database, dagster: FakeDagster) -> Iterator[str]:
    with serving(database, dagster) as url:
        yield url


def answer(url: str, path: str, method: str = "GET") -> tuple[int, Any]:
    answer = requests.request(method, url + path, timeout=30)
    return answer.status_code, answer.json()


def features(user_id: int, day: date = DAY, *, count: int = 0, compounds: str | None = None) -> tuple[Any, ...]:
    """A row of user_features, in the order of its contract."""
    total, mean = (12.5 * count, 12.5) if count else (0.0, None)
    return (user_id, day, count, total, mean, 30, False, compounds, count)


def store(connection: psycopg.Connection[Any], *rows: tuple[Any, ...]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO experiments.user_features VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", rows)


def stored(database: Database, *rows: tuple[Any, ...]) -> None:
    with database.connect() as connection:
        store(connection, *rows)


def users(url: str, query: str = "") -> list[int]:
    status, page = answer(url, PATH + query)
    assert status == 200
    return [user["user_id"] for user in page["users"]]


# The trigger


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_trigger_starts_the_process_and_the_next_comes_too_soon(url: str, dagster: FakeDagster, method: str) -> None:
    assert answer(url, "/trigger-etl", method) == (200, {"message": "ETL process started"})
    assert answer(url, "/trigger-etl", method) == (
        400,
        {"message": "Trigger the API frequently, please try again later."},
    )
    assert [job for job, _ in dagster.launched] == ["experiments_job"]


def test_a_trigger_is_refused_while_the_code_is_loading(url: str, dagster: FakeDagster) -> None:
    dagster.still_loading = True
    assert answer(url, "/trigger-etl") == (400, {"message": "Dag is loading, please try again later."})
    dagster.still_loading = False
    assert answer(url, "/trigger-etl") == (200, {"message": "ETL process started"})


def test_a_trigger_of_a_dagster_that_is_down_is_a_problem_and_uses_up_nothing(url: str, dagster: FakeDagster) -> None:
    dagster.failure = OrchestratorDown()
    problem = requests.get(f"{url}/trigger-etl", timeout=30)
    assert (problem.status_code, problem.headers["Content-Type"]) == (503, "application/problem+json")
    assert int(problem.headers["Retry-After"]) > 0
    assert answer(url, "/trigger-etl") == (200, {"message": "ETL process started"})


def test_a_run_that_dagster_refuses_is_a_problem_that_says_why(url: str, dagster: FakeDagster) -> None:
    dagster.failure = LaunchRefused("experiments_job has no partition '2023-12-31'")
    status, problem = answer(url, "/trigger-etl", "POST")
    assert (status, problem["detail"]) == (422, "experiments_job has no partition '2023-12-31'")


def test_nothing_between_may_keep_the_answers(url: str) -> None:
    for path in ("/trigger-etl", "/check/table", "/check/feature_derivation"):
        assert requests.get(url + path, timeout=30).headers["Cache-Control"] == "no-store"


# The checks


def test_the_tables_are_there_until_one_is_not(url: str, database: Database) -> None:
    assert answer(url, "/check/table") == (200, {"message": "Table created"})
    with database.connect() as connection:
        connection.execute("DROP TABLE experiments.compounds")
    assert answer(url, "/check/table") == (500, {"message": "Table creation failed"})


def test_features_are_not_derived_until_there_is_a_row(url: str, database: Database) -> None:
    failed = (500, {"message": "Feature Derivation insert failed"})
    assert answer(url, "/check/feature_derivation") == failed
    stored(database, features(1))
    assert answer(url, "/check/feature_derivation") == (200, {"message": "Feature Derivation inserted"})
    with database.connect() as connection:
        connection.execute("DROP TABLE experiments.user_features")
    assert answer(url, "/check/feature_derivation") == failed


# The features


def test_a_page_has_every_column_and_the_compounds_as_a_list(url: str, database: Database) -> None:
    stored(database, features(1, count=2, compounds="2;3"), features(2))
    assert answer(url, PATH) == (
        200,
        {
            "as_of": "2023-12-31",
            "users": [
                {
                    "user_id": 1,
                    "experiments_count": 2,
                    "total_run_time": 25.0,
                    "mean_run_time": 12.5,
                    "days_since_signup": 30,
                    "signup_in_future": False,
                    "most_common_compounds": [2, 3],
                    "most_common_compounds_count": 2,
                },
                {
                    "user_id": 2,
                    "experiments_count": 0,
                    "total_run_time": 0.0,
                    "mean_run_time": None,
                    "days_since_signup": 30,
                    "signup_in_future": False,
                    "most_common_compounds": [],
                    "most_common_compounds_count": 0,
                },
            ],
            "next": None,
        },
    )


def test_following_next_gives_every_user_once_in_the_order_of_their_ids(url: str, database: Database) -> None:
    ids = [SMALLEST, -5, 0, 7, 8, 9, LARGEST]
    stored(database, *map(features, reversed(ids)), features(6, DAY - timedelta(days=1)))
    found, path, pages = [], f"{PATH}?limit=2", 0
    while path:
        status, page = answer(url, path)
        assert (status, page["as_of"]) == (200, "2023-12-31")
        found += [user["user_id"] for user in page["users"]]
        path, pages = page["next"], pages + 1
    assert (found, pages) == (ids, 4)


def test_a_last_page_that_is_full_leads_nowhere(url: str, database: Database) -> None:
    stored(database, features(1), features(2))
    assert answer(url, f"{PATH}?limit=2")[1]["next"] is None
    assert answer(url, f"{PATH}?limit=1")[1]["next"] == f"{PATH}?as_of=2023-12-31&limit=1&after=1"


def test_behind_the_last_user_there_is_an_empty_page(url: str, database: Database) -> None:
    stored(database, features(LARGEST))
    assert answer(url, f"{PATH}?after={LARGEST}") == (200, {"as_of": "2023-12-31", "users": [], "next": None})
    assert users(url, f"?after={LARGEST - 1}") == [LARGEST]
    assert users(url, f"?after={SMALLEST}") == [LARGEST]


def test_a_day_may_be_named_and_the_newest_is_the_default(url: str, database: Database) -> None:
    stored(database, features(1, DAY - timedelta(days=1)), features(2, DAY), features(3, DAY - timedelta(days=400)))
    assert users(url) == [2]
    assert users(url, "?as_of=2023-12-30") == [1]
    assert users(url, "?as_of=2022-11-26") == [3]


def test_later_pages_stay_with_the_day_of_the_first(url: str, database: Database) -> None:
    stored(database, features(1), features(2))
    path = answer(url, f"{PATH}?limit=1")[1]["next"]
    stored(database, features(3, DAY + timedelta(days=1)))
    assert answer(url, path)[1]["as_of"] == "2023-12-31"


def test_a_day_that_was_never_computed_is_a_404_that_says_how_to(url: str, database: Database) -> None:
    status, problem = answer(url, PATH)
    assert (status, problem["title"]) == (404, "No features")
    assert problem["detail"].startswith("no features were computed so far: run `etl-assets experiments load DIR")
    stored(database, features(1))
    status, problem = answer(url, f"{PATH}?as_of=2023-12-30")
    assert (status, problem["detail"]) == (
        404,
        "no features were computed as of 2023-12-30: run `etl-assets experiments load DIR --as-of 2023-12-30`,"
        ' or POST /v1/runs with {"job": "experiments_job", "partition": "2023-12-30"}',
    )


def test_a_value_that_cannot_be_is_a_422_that_names_it(url: str) -> None:
    wrong = {
        "as_of": (
            *("", "0", "1703980800", "yesterday", "31.12.2023", "2023-02-29", "0000-01-01", "2023-12-31T00:00:00"),
            *("2023-12-31 ", "%00", "٢٠٢٣-12-31"),
        ),
        "limit": ("", "0", "-1", "1001", "ten", "1e2"),
        "after": (str(LARGEST + 1), str(SMALLEST - 1), "9" * 5000, "1%00", "nan", "1.5"),
    }
    for name, values in wrong.items():
        for value in values:
            answer = requests.get(f"{url}{PATH}?{name}={value}", timeout=30)
            assert (value, answer.status_code) == (value, 422)
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert [fault["where"] for fault in answer.json()["errors"]] == [f"query.{name}"]


def test_a_page_that_is_read_while_its_day_is_replaced_has_the_old_rows_or_the_new_ones(
    url: str, database: Database
) -> None:
    stored(database, features(1), features(2))
    with database.connect() as writer:
        writer.execute("DELETE FROM experiments.user_features")
        store(writer, features(1, count=1, compounds="1"), features(3))
        assert users(url) == [1, 2]
        writer.commit()
        assert users(url) == [1, 3]
        writer.execute("DELETE FROM experiments.user_features")
        assert users(url) == [1, 3]


def test_a_page_costs_the_same_however_large_the_table_is(features_of_many: Database) -> None:
    for analysed in (False, True):
        if analysed:
            with features_of_many.connect() as connection:
                connection.execute("ANALYZE experiments.user_features")
        for as_of in (None, DAY, DAY - timedelta(days=1), DAY + timedelta(days=1)):
            for after in (None, 15_000):
                plan = asyncio.run(plan_of(features_of_many, *page_query(as_of, after=after, limit=100)))
                scans = [node for node in nodes(plan) if "Scan" in node["Node Type"]]
                assert {node["Node Type"] for node in scans} <= {"Index Scan", "Index Only Scan"}
                rows = [node["Actual Rows"] * node["Actual Loops"] for node in scans]
                assert sorted(rows) == ([0, 0] if as_of and as_of > DAY else [1, 101])
                assert sum(node.get("Rows Removed by Filter", 0) for node in scans) == 0


@pytest.fixture
def features_of_many(database: Database) -> Database:
    """Twenty thousand users on each of two days, and nothing known of it to the planner."""
    columns = ", ".join(UserFeatures.columns)
    with database.connect() as connection:
        connection.execute("ALTER TABLE experiments.user_features SET (autovacuum_enabled = false)")
        connection.execute(
            f"INSERT INTO experiments.user_features ({columns})"
            " SELECT u, d, 0, 0, NULL, 0, false, NULL, 0"
            f" FROM generate_series(1, 20000) AS u, unnest(ARRAY['{DAY - timedelta(days=1)}', '{DAY}']::date[]) AS d"
        )
    return database


async def plan_of(database: Database, query: sql.Composed, values: dict[str, Any]) -> Any:
    async with Store(database).connection() as connection:
        cursor = await connection.execute(sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) ") + query, values)
        ((explained,),) = await cursor.fetchall()
    return explained[0]["Plan"]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


# The document


@pytest.fixture
def document() -> dict[str, Any]:
    app = create_app(
        ExperimentsSettings.load(), orchestrator=FakeDagster(), store=Store(Database("postgresql://never-asked"))
    )  # type: ignore[arg-type]
    return app.openapi()


def test_the_document_describes_the_features_as_their_contract_does(document: dict[str, Any]) -> None:
    described = document["components"]["schemas"]["Features"]["properties"]
    assert set(described) == set(UserFeatures.columns) - {"as_of"}
    for name, column in UserFeatures.columns.items():
        if name != "as_of":
            assert described[name]["description"].startswith(column.description)
    assert described["user_id"]["type"] == "integer"
    assert described["most_common_compounds"]["items"] == {"type": "integer"}
    assert {option["type"] for option in described["mean_run_time"]["anyOf"]} == {"number", "null"}


def test_the_document_has_every_answer_with_an_example(document: dict[str, Any]) -> None:
    expected = {
        ("/trigger-etl", "get"): {"200", "400", "422", "503"},
        ("/trigger-etl", "post"): {"200", "400", "422", "503"},
        ("/check/table", "get"): {"200", "500", "503"},
        ("/check/feature_derivation", "get"): {"200", "500", "503"},
        (PATH, "get"): {"200", "404", "422", "503"},
    }
    for (path, method), statuses in expected.items():
        operation = document["paths"][path][method]
        assert statuses <= set(operation["responses"])
        for status in statuses:
            for content in operation["responses"][status]["content"].values():
                assert "example" in content or "examples" in content
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_the_messages_of_the_document_are_those_of_the_exercise(document: dict[str, Any]) -> None:
    answers = document["paths"]["/trigger-etl"]["post"]["responses"]
    assert answers["400"]["content"]["application/json"]["schema"]["properties"]["message"]["enum"] == [
        "Trigger the API frequently, please try again later.",
        "Dag is loading, please try again later.",
    ]
