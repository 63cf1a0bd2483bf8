"""The calls of the events over real HTTP: the status, the trigger with what it decides to read, and the events, page by page."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import requests
from psycopg import sql

from etl_assets.core.database.connections import Database
from etl_assets.gateway.app import create_app
from etl_assets.gateway.orchestrator import LaunchRefused, OrchestratorDown
from etl_assets.gateway.store import Store
from etl_assets.gateway.triggers import Plan
from etl_assets.simulators.server import serve
from etl_assets.systems.events import routes as events
from etl_assets.systems.events.contracts import Intervals, UsEventData
from etl_assets.systems.events.routes import EXAMPLES, EventsPage, newest_day, page_query
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.simulator import EventsSimulator
from etl_assets_tests.gateway.conftest import Client
from etl_assets_tests.gateway.dagster_api import location, workspace
from etl_assets_tests.gateway.down import refusing, silent
from etl_assets_tests.gateway.serving import FakeDagster, serving
from etl_assets_tests.gateway.test_health import samples
from etl_assets_tests.gateway.test_store import assert_down, locked
from etl_assets_tests.gateway.test_triggers import execute, recorded
from etl_assets_tests.systems.experiments.test_routes import answer as answered
from etl_assets_tests.systems.experiments.test_routes import nodes, plan_of

PATH = "/latest-event-data"
STARTED = (200, {"success": True, "message": "Job has started"})
FREQUENT = (400, {"success": False, "message": "Job is running or was started a moment ago, please try again later"})
LOADING = (400, {"success": False, "message": "Job is still being loaded, please try again later"})
ADDED = datetime(2019, 1, 21, 22, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
SMALLEST, LARGEST = -(2**63), 2**63 - 1


@pytest.fixture
def dagster() -> FakeDagster:
    return FakeDagster()


@pytest.fixture
def url(database: Database, dagster: FakeDagster) -> Iterator[str]:
    with serving(database, dagster) as url:
        yield url


def store(database: Database, table: str, *rows: dict[str, Any]) -> None:
    """Insert rows that have the same columns."""
    names = sql.SQL(", ").join(map(sql.Identifier, rows[0]))
    values = sql.SQL(", ").join(map(sql.Placeholder, rows[0]))
    insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(*table.split(".")), names, values)
    with psycopg.connect(database.url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany(insert, rows)


def event(event_id: int, added: datetime = ADDED, **columns: Any) -> dict[str, Any]:
    """A row of us_event_data."""
    always = {"file_interval": added, "sql_date": added.date(), "date_added": added, "upload_date": added, "flags": ""}
    return {"global_event_id": event_id, **always, **columns}


def stored(database: Database, *rows: dict[str, Any]) -> None:
    store(database, UsEventData.config.table, *rows)


def ids(url: str, query: str = "") -> list[int]:
    status, page = answered(url, PATH + query)
    assert (status, page["success"]) == (200, True)
    return [found["global_event_id"] for found in page["data"]]


# The status


def test_the_status_is_for_anybody_and_needs_neither_database_nor_dagster(guarded_client: Client) -> None:
    guarded_client.dagster.raw = (500, b"")
    answer = guarded_client.get("/status")
    operational = {"message": "Public status check endpoint is operational", "success": True}
    assert (answer.status_code, answer.json()) == (200, operational)
    assert guarded_client.dagster.asked == []


@pytest.mark.parametrize("path", ["/start-etl-job", PATH, "/status/"])
def test_the_other_calls_ask_for_the_token(guarded_client: Client, path: str) -> None:
    assert guarded_client.get(path).status_code == 401


# The trigger


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_trigger_starts_the_job_and_the_next_comes_too_soon(
    url: str, dagster: FakeDagster, database: Database, method: str
) -> None:
    assert answered(url, "/start-etl-job", method) == STARTED
    assert answered(url, "/start-etl-job", method) == FREQUENT
    assert [job for job, _ in dagster.launched] == ["events_job"]
    assert recorded(database) == [("events", "run-0")]


def test_a_job_that_runs_holds_off_the_next_and_none_of_another_system(database: Database) -> None:
    dagster = FakeDagster(runs_last=True)
    with serving(database, dagster, interval_s=0) as url:
        assert answered(url, "/start-etl-job") == STARTED
        assert answered(url, "/start-etl-job") == FREQUENT
        dagster.launched.clear()
        assert answered(url, "/trigger-etl")[0] == 200
        dagster.launched.clear()
        assert answered(url, "/start-etl-job") == STARTED


def test_a_trigger_is_refused_while_the_code_is_loading(url: str, dagster: FakeDagster) -> None:
    dagster.still_loading = True
    assert answered(url, "/start-etl-job") == LOADING
    dagster.still_loading = False
    assert answered(url, "/start-etl-job") == STARTED


@pytest.mark.parametrize(("failure", "status"), [(OrchestratorDown(), 503), (LaunchRefused("no such day"), 422)])
def test_a_trigger_that_fails_is_a_problem_and_uses_up_nothing(
    url: str, dagster: FakeDagster, failure: Exception, status: int
) -> None:
    dagster.failure = failure
    answer = requests.get(f"{url}/start-etl-job", timeout=30)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert answered(url, "/start-etl-job") == STARTED


def test_without_the_manifest_nothing_is_decided_and_nothing_launched(
    url: str, dagster: FakeDagster, database: Database
) -> None:
    execute(database, "ALTER TABLE events.intervals RENAME TO others")
    assert_down(requests.post(f"{url}/start-etl-job", timeout=30), because="SQLSTATE 42P01")
    assert (dagster.launched, recorded(database)) == ([], [])


def test_the_run_is_of_the_day_and_configured_as_the_plan_says(
    gateway_with: Callable[..., Client], database: Database
) -> None:
    client = gateway_with(database=database.url, etl_trigger_interval_s=0)
    dagster = client.dagster
    planned = [asyncio.run(plan_at(database))]
    dagster.days = tuple(f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}" for days in (-1, 0, 1))
    dagster.answers["workspaceOrError"] = workspace(location("events_job", partitioned=("events_job",)))
    launches: list[Any] = []

    def launch(asked: dict[str, Any]) -> Any:
        launches.append(asked["params"])
        return dagster._launchRun(asked)

    dagster.answers["launchRun"] = launch
    before = samples(client).get(("gateway_triggers_total", "taken", "events"), 0)
    assert client.post("/start-etl-job").json() == STARTED[1]
    planned.append(asyncio.run(plan_at(database)))  # the same, unless a quarter of an hour has just gone by
    tags = {tag["key"]: tag["value"] for tag in launches[0]["executionMetadata"]["tags"]}
    assert Plan(tags["dagster/partition"], launches[0]["runConfigData"]) in planned
    assert samples(client)[("gateway_triggers_total", "taken", "events")] == before + 1


# What a run is to read


async def plan_at(database: Database, now: datetime | None = None) -> Plan:
    async with Store(database).connection() as connection:
        return await newest_day(connection, now or datetime.now(UTC))


def plan(database: Database, now: datetime) -> tuple[str, bool]:
    """The day, and whether the list of all files is read."""
    planned = asyncio.run(plan_at(database, now))
    assert planned.run_config is not None
    return planned.partition, planned.run_config["ops"]["events__raw_events"]["config"]["master_list"]


def noted(database: Database, *intervals: datetime, state: str = "loaded", asked: datetime | None = None) -> None:
    rows = [{"interval": each, "state": state, "attempts": 1, "last_asked_at": asked or each} for each in intervals]
    store(database, Intervals.config.table, *rows)


def quarters(first: datetime, count: int) -> list[datetime]:
    return [first + number * QUARTER for number in range(count)]


def test_a_first_run_and_one_after_a_pause_read_the_list_of_all_files(database: Database) -> None:
    day = datetime(2019, 1, 21, tzinfo=UTC)
    noon = day + timedelta(hours=12, minutes=7)
    assert plan(database, noon) == ("2019-01-21", True)
    noted(database, *quarters(day, 46))
    assert plan(database, noon) == ("2019-01-21", True)
    noted(database, day + 46 * QUARTER)
    assert plan(database, noon) == ("2019-01-21", False)
    noted(database, day + 47 * QUARTER)
    assert plan(database, noon) == ("2019-01-21", False)
    assert plan(database, noon + QUARTER) == ("2019-01-21", False)
    assert plan(database, noon + 2 * QUARTER) == ("2019-01-21", True)


def test_a_missing_interval_is_looked_for_in_the_list_once_an_hour(database: Database) -> None:
    day = datetime(2019, 1, 21, tzinfo=UTC)
    now = day + timedelta(hours=2)
    noted(database, *quarters(day, 6))
    noted(database, day + 6 * QUARTER, state="missing", asked=now - timedelta(minutes=59))
    assert plan(database, now) == ("2019-01-21", False)
    assert plan(database, now + timedelta(minutes=1)) == ("2019-01-21", True)
    execute(database, "UPDATE events.intervals SET last_asked_at = NULL WHERE state = 'missing'")
    assert plan(database, now) == ("2019-01-21", True)


def test_an_interval_of_which_something_is_settled_is_not_lacking(database: Database) -> None:
    day = datetime(2019, 1, 21, tzinfo=UTC)
    settled = sorted({*(Intervals.columns["state"].isin or ())} - {"missing"})
    for number, state in enumerate(settled):
        noted(database, day + number * QUARTER, state=state)
    assert plan(database, day + (len(settled) + 1) * QUARTER) == ("2019-01-21", False)


def test_just_after_midnight_the_last_file_of_the_day_before_is_fetched_first(database: Database) -> None:
    midnight = datetime(2019, 1, 1, tzinfo=UTC)
    noted(database, *quarters(midnight - timedelta(days=1), 95))
    assert plan(database, midnight + timedelta(minutes=5)) == ("2018-12-31", True)
    noted(database, midnight - QUARTER, state="missing", asked=midnight + timedelta(minutes=5))
    assert plan(database, midnight + timedelta(minutes=7)) == ("2018-12-31", True)
    execute(database, "UPDATE events.intervals SET state = 'loaded'")
    assert plan(database, midnight + timedelta(minutes=5)) == ("2019-01-01", False)
    execute(database, "DELETE FROM events.intervals WHERE interval >= '2018-12-31T12:00Z'")
    assert plan(database, midnight + timedelta(minutes=5)) == ("2018-12-31", True)


def test_a_feed_whose_newest_file_is_of_an_earlier_day_is_asked_for_that_day(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = datetime(2019, 1, 21, tzinfo=UTC)
    newest, now = day + 94 * QUARTER, day + timedelta(days=30, hours=12)
    simulator = EventsSimulator(newest - 3 * QUARTER, newest + QUARTER)
    with serve(simulator.app) as url:
        monkeypatch.setenv("EVENTS_FEED_URL", url)
        monkeypatch.setenv("EVENTS_START_DATE", "2019-01-21")
        assert plan(database, now) == ("2019-01-21", True)
        noted(database, *quarters(day, 94))
        assert plan(database, now) == ("2019-01-21", False)
        monkeypatch.setenv("EVENTS_START_DATE", "2019-01-22")
        assert plan(database, now)[0] == f"{now:%Y-%m-%d}"
        monkeypatch.setenv("EVENTS_START_DATE", "2019-01-21")
        simulator.last_update_text = "nothing"
        assert plan(database, now)[0] == f"{now:%Y-%m-%d}"


def test_from_its_first_instant_on_a_day_is_meant(database: Database) -> None:
    midnight = datetime(2019, 1, 1, tzinfo=UTC)
    noted(database, *quarters(midnight - timedelta(days=1), 96))
    assert plan(database, midnight - timedelta(microseconds=1)) == ("2018-12-31", False)
    assert plan(database, midnight) == ("2019-01-01", False)
    assert plan(database, midnight + 2 * QUARTER - timedelta(microseconds=1)) == ("2019-01-01", False)
    assert plan(database, midnight + 2 * QUARTER) == ("2019-01-01", True)


def test_the_trigger_knows_the_job_as_the_system_has_it() -> None:
    from etl_assets.systems.events import automation

    assert events.TRIGGER.trigger.job == automation.events_job.name
    assert automation._config(master_list=True) == events.run_config(master_list=True)
    assert automation.LOOK_AGAIN == events.LOOK_AGAIN


# The events


def test_an_event_has_every_column_and_its_times_in_utc(url: str, database: Database) -> None:
    execute(database, f"ALTER DATABASE {database.url.rpartition('/')[2]} SET timezone = 'Pacific/Kiritimati'")
    full = event(
        817930293,
        sql_date=ADDED.date() - timedelta(days=365),
        event_code="0231",
        event_base_code="023",
        event_root_code="02",
        event_root_name="APPEAL",
        action_geo_full_name="Springfield, Illinois, United States",
        action_geo_country_code="US",
        action_geo_lat=39.8017,
        action_geo_long=-89.6437,
        source_url="https://news.example/a",
        upload_date=ADDED + timedelta(minutes=16, microseconds=125000),
    )
    stored(database, full)
    iso = {
        **full,
        "file_interval": "2019-01-21T22:00:00Z",
        "sql_date": "2018-01-21",
        "date_added": "2019-01-21T22:00:00Z",
        "upload_date": "2019-01-21T22:16:00.125000Z",
    }
    status, page = answered(url, PATH)
    assert (status, page) == (200, {"success": True, "data": [iso], "next": None})
    assert list(page["data"][0]) == list(UsEventData.columns)
    http = {
        **full,
        "file_interval": "Mon, 21 Jan 2019 22:00:00 GMT",
        "sql_date": "Sun, 21 Jan 2018 00:00:00 GMT",
        "date_added": "Mon, 21 Jan 2019 22:00:00 GMT",
        "upload_date": "Mon, 21 Jan 2019 22:16:00 GMT",
    }
    assert answered(url, f"{PATH}?dates=http") == (200, {"success": True, "data": [http], "next": None})
    assert answered(url, f"{PATH}?dates=iso") == (200, page)


def test_what_is_not_known_of_an_event_is_null(url: str, database: Database) -> None:
    stored(database, event(1, flags="unknown_root_code;no_coordinates"))
    for query in ("", "?dates=http"):
        (found,) = answered(url, PATH + query)[1]["data"]
        unknown = {name for name, value in found.items() if value is None}
        assert unknown == {name for name, column in UsEventData.columns.items() if column.nullable}
        assert found["flags"] == "unknown_root_code;no_coordinates"


@pytest.mark.long
@pytest.mark.parametrize("dates", ["iso", "http"])
def test_following_next_gives_every_event_once_the_newest_first(url: str, database: Database, dates: str) -> None:
    tick = timedelta(microseconds=1)
    places = [
        *((LARGEST, ADDED + tick), (SMALLEST, ADDED + tick), (9, ADDED), (8, ADDED), (-3, ADDED), (10, ADDED - tick)),
        *((7, datetime(1, 1, 1, tzinfo=UTC)),),
    ]
    stored(database, *(event(event_id, added) for event_id, added in places[::2] + places[1::2]))
    found, path, pages = [], f"{PATH}?limit=2&dates={dates}", 0
    while path:
        status, page = answered(url, path)
        assert status == 200
        assert all(each["date_added"].endswith("GMT" if dates == "http" else "Z") for each in page["data"])
        found += [each["global_event_id"] for each in page["data"]]
        path, pages = page["next"], pages + 1
    assert (found, pages) == ([event_id for event_id, _ in places], 4)


def test_a_page_is_bounded_and_a_last_one_that_is_full_leads_nowhere(url: str, database: Database) -> None:
    stored(database, *(event(event_id) for event_id in range(101)))
    status, page = answered(url, PATH)
    assert (status, len(page["data"])) == (200, 100)
    assert page["next"] == f"{PATH}?limit=100&after=2019-01-21T22:00:00Z,1"
    assert ids(url, "?limit=1000") == list(reversed(range(101)))
    assert answered(url, f"{PATH}?limit=101")[1]["next"] is None


def test_without_events_and_behind_the_oldest_there_is_an_empty_page(url: str, database: Database) -> None:
    nothing = (200, {"success": True, "data": [], "next": None})
    assert answered(url, PATH) == nothing
    stored(database, event(5))
    assert answered(url, f"{PATH}?after=2019-01-21T22:00:00Z,5") == nothing
    assert answered(url, f"{PATH}?after=2019-01-21T22:00:00.000000Z,{SMALLEST}") == nothing
    assert ids(url, "?after=2019-01-21T22:00:00Z,6") == [5]
    assert ids(url, f"?after=9999-12-31T23:59:59Z,{LARGEST}") == [5]


def test_events_that_are_added_while_pages_are_read_move_none(url: str, database: Database) -> None:
    stored(database, event(1), event(2), event(3))
    path = answered(url, f"{PATH}?limit=2")[1]["next"]
    stored(database, event(4), event(5, ADDED + QUARTER))
    assert ids(url, path.removeprefix(PATH)) == [1]
    assert ids(url, "?limit=2") == [5, 4]


def test_a_value_or_a_name_that_cannot_be_is_a_422_that_names_it(url: str) -> None:
    instant = "2019-01-21T22:00:00Z"
    wrong = {
        "limit": ("", "0", "-1", "1001", "ten", "1e2"),
        "dates": ("", "ISO", "unix"),
        "after": (
            *("", "817930293", instant, f"{instant},", f"{instant},1,2", f"{instant},%00", f"{instant},1%0a"),
            *("2019-02-29T00:00:00Z,1", "2019-01-21T24:00:00Z,1", "0000-01-01T00:00:00Z,1", "2019-01-21,1"),
            *(f"{instant},{LARGEST + 1}", f"{instant},{SMALLEST - 1}", f"{instant},١", "2019-01-21T22:00:00,1"),
        ),
        "offset": ("1",),
        "Limit": ("1",),
    }
    for name, values in wrong.items():
        for value in values:
            answer = requests.get(f"{url}{PATH}?{name}={value}", timeout=30)
            assert (name, value, answer.status_code) == (name, value, 422)
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert [fault["where"] for fault in answer.json()["errors"]] == [f"query.{name}"]


@pytest.mark.long
@pytest.mark.parametrize("way", [refusing, silent], ids=lambda way: way.__name__)
def test_a_database_that_is_away_is_a_503_of_events_and_trigger_and_the_status_stays(
    database: Database, way: Callable[[Database], Any]
) -> None:
    dagster = FakeDagster()
    with way(database) as down, serving(down, dagster, deadline_s=0.2) as url:
        for call in (PATH, "/start-etl-job"):
            assert_down(requests.get(url + call, timeout=8))
        assert requests.get(f"{url}/status", timeout=8).status_code == 200
    assert dagster.launched == []


@pytest.mark.long
def test_events_that_are_locked_are_given_up_in_time(database: Database) -> None:
    with serving(database, deadline_s=1.0) as url:
        with locked(database, UsEventData.config.table):
            assert_down(requests.get(url + PATH, timeout=8), because="did not answer within 1 s")
        assert ids(url) == []


@pytest.mark.long
def test_a_page_costs_the_same_however_many_events_there_are(events_of_many: Database) -> None:
    for analysed in (False, True):
        if analysed:
            execute(events_of_many, "ANALYZE events.us_event_data")
        for after in (None, events.Cursor(ADDED, 10_000), events.Cursor(ADDED - timedelta(days=1), 0)):
            plan = asyncio.run(plan_of(events_of_many, *page_query(after, limit=100)))
            kinds = [(node["Node Type"], node.get("Scan Direction"), node["Actual Rows"]) for node in nodes(plan)]
            rows = 0 if after and after.date_added < ADDED else 101
            assert kinds == [("Limit", None, rows), ("Index Scan", "Backward", rows)]
            assert sum(node.get("Rows Removed by Filter", 0) for node in nodes(plan)) == 0


@pytest.fixture
def events_of_many(database: Database) -> Database:
    """Twenty thousand events of one instant, and nothing known of it to the planner."""
    execute(database, "ALTER TABLE events.us_event_data SET (autovacuum_enabled = false)")
    names = ("global_event_id", "file_interval", "sql_date", "date_added", "upload_date", "flags")
    execute(
        database,
        f"INSERT INTO events.us_event_data ({', '.join(names)})"
        f" SELECT i, '{ADDED}', '2019-01-21', '{ADDED}', '{ADDED}', '' FROM generate_series(1, 20000) AS i",
    )
    return database


# The document


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app = create_app(
        EventsSettings.load(), orchestrator=FakeDagster(), store=Store(Database("postgresql://never-asked"))
    )  # type: ignore[arg-type]
    return app.openapi()


def test_the_document_describes_the_events_as_their_contract_does(document: dict[str, Any]) -> None:
    for name in ("UsEvent", "UsEventWithHttpDates"):
        described = document["components"]["schemas"][name]
        assert list(described["properties"]) == list(UsEventData.columns) == described["required"]
        for column in UsEventData.columns.values():
            assert described["properties"][column.name]["description"].startswith(column.description)
    iso = document["components"]["schemas"]["UsEvent"]["properties"]
    assert (iso["date_added"]["format"], iso["sql_date"]["format"]) == ("date-time", "date")
    latitude, _ = iso["action_geo_lat"]["anyOf"]
    assert latitude == {"type": "number", "minimum": -90, "maximum": 90}


def test_the_document_has_every_answer_of_each_call(document: dict[str, Any]) -> None:
    expected = {
        ("/status", "get"): {"200"},
        ("/start-etl-job", "get"): {"200", "400", "422", "503"},
        ("/start-etl-job", "post"): {"200", "400", "422", "503"},
        (PATH, "get"): {"200", "422", "503"},
    }
    for (path, method), statuses in expected.items():
        assert statuses <= set(document["paths"][path][method]["responses"])
    refused = document["paths"]["/start-etl-job"]["get"]["responses"]["400"]["content"]["application/json"]
    assert refused["schema"]["properties"]["success"] == {"type": "boolean", "enum": [False]}
    assert {example["value"]["message"] for example in refused["examples"].values()} == {
        FREQUENT[1]["message"],
        LOADING[1]["message"],
    }


def test_the_examples_of_the_document_are_pages_as_they_are_served() -> None:
    for example in EXAMPLES.values():
        assert EventsPage.model_validate(example["value"]).model_dump(mode="json") == example["value"]
