"""The calls around runs, before a Dagster in memory; with a real one in test_server."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from etl_assets.core.database.connections import Database
from etl_assets.gateway.store import Store
from etl_assets.settings import Settings
from etl_assets_tests.gateway.conftest import Client

API_KEY = "open-sesame"


@pytest.fixture
def client(gateway_client: Client, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The gateway with a database."""
    state = gateway_client.app.state
    before = state.store, state.settings
    monkeypatch.setenv("OUTAGES_API_KEY", API_KEY)
    state.store, state.settings = Store(database), Settings()
    yield gateway_client
    state.store, state.settings = before


def test_a_started_run_says_where_to_follow_it(gateway_client: Client) -> None:
    answer = gateway_client.post("/v1/runs", json={"job": "daily_job", "partition": "2024-01-02", "tags": {"a": "b"}})
    assert answer.status_code == 201
    run = answer.json()
    assert answer.headers["Location"] == f"/v1/runs/{run['run_id']}"
    assert (run["job"], run["partition"], run["status"]) == ("daily_job", "2024-01-02", "STARTED")
    assert run["created_at"].endswith("Z")
    assert (run["started_at"], run["ended_at"]) == (None, None)
    assert run["url"].endswith(f"/runs/{run['run_id']}")
    [launched] = gateway_client.dagster.runs
    tags = {tag["key"]: tag["value"] for tag in launched["tags"]}
    assert tags.pop("etl/launch")
    assert tags == {"dagster/partition": "2024-01-02", "a": "b"}


def test_an_unknown_job_is_a_problem_that_names_the_known_ones(gateway_client: Client) -> None:
    answer = gateway_client.post("/v1/runs", json={"job": "nope"})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "there is no job 'nope': the jobs are daily_job, table_job"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "body.job"),
        ({"job": ""}, "body.job"),
        ({"job": "a\x00"}, "body.job"),
        ({"job": "a" * 256}, "body.job"),
        ({"job": "a", "partition": ""}, "body.partition"),
        ({"job": "a", "tags": {"dagster/partition": "x"}}, "body.tags"),
        ({"job": "a", "tags": {"etl/idempotency_key": "x"}}, "body.tags"),
        ({"job": "a", "tags": {"a b": "x"}}, "body.tags.a b.[key]"),
        ({"job": "a", "tags": {"a": "x\n"}}, "body.tags.a"),
        ({"job": "a", "tags": {str(number): "" for number in range(21)}}, "body.tags"),
        ({"job": "a", "run_config": [1]}, "body.run_config"),
        ({"job": "a", "run_config": {"a": float("nan")}}, "body.run_config"),
        ({"job": "a", "run_config": {"a": "\x00"}}, "body.run_config"),
        ({"job": "a", "jobs": 1}, "body.jobs"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_where_it_does_not(
    gateway_client: Client, body: dict[str, Any], where: str
) -> None:
    answer = gateway_client.post("/v1/runs", data=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert [fault["where"] for fault in answer.json()["errors"]] == [where]
    assert gateway_client.dagster.asked == []


def test_dagster_that_is_down_is_503_and_says_when_to_try_again(gateway_client: Client) -> None:
    gateway_client.dagster.raw = (502, b"")
    calls = [("GET", "/v1/runs"), ("GET", "/v1/runs/one"), ("GET", "/v1/jobs"), ("POST", "/v1/runs/one/cancel")]
    for method, path in calls:
        answer = gateway_client.call(method, path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5"), path
    assert gateway_client.post("/v1/runs", json={"job": "table_job"}).status_code == 503


def test_a_key_starts_one_run_however_often_it_is_sent(client: Client) -> None:
    headers = {"Idempotency-Key": "nightly"}
    first = client.post("/v1/runs", json={"job": "table_job"}, headers=headers)
    again = client.post(
        "/v1/runs", data='{"job":"table_job","tags":{}}', headers={**headers, "Content-Type": "application/json"}
    )
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["run_id"] == again.json()["run_id"]
    assert again.headers["Location"] == first.headers["Location"]
    assert len(client.dagster.runs) == 1


def test_another_key_starts_another_run(client: Client) -> None:
    for key in ("one", "two"):
        assert client.post("/v1/runs", json={"job": "table_job"}, headers={"Idempotency-Key": key}).status_code == 201
    assert len(client.dagster.runs) == 2


def test_another_request_under_the_same_key_is_a_conflict(client: Client) -> None:
    headers = {"Idempotency-Key": "nightly"}
    client.post("/v1/runs", json={"job": "table_job"}, headers=headers)
    others: list[dict[str, Any]] = [
        {"job": "daily_job", "partition": "2024-01-01"},
        {"job": "table_job", "tags": {"a": "b"}},
        {"job": "table_job", "run_config": {}},
    ]
    for other in others:
        answer = client.post("/v1/runs", json=other, headers=headers)
        assert answer.status_code == 409, other
        assert "send a new key" in answer.json()["detail"]
    assert len(client.dagster.runs) == 1


def test_a_refused_request_does_not_use_up_its_key(client: Client) -> None:
    headers = {"Idempotency-Key": "nightly"}
    assert client.post("/v1/runs", json={"job": "nope"}, headers=headers).status_code == 422
    assert client.post("/v1/runs", json={"job": "table_job"}, headers=headers).status_code == 201


def test_many_at_once_with_one_key_start_one_run(gateway_with: Callable[..., Client], database: Database) -> None:
    gateways = [gateway_with(database=database.url) for _ in range(2)]
    gate = threading.Barrier(8)

    def post(number: int) -> tuple[int, str | None]:
        headers = {"Idempotency-Key": "burst"}
        answer = gateways[number % 2].post("/v1/runs", json={"job": "table_job"}, headers=headers)
        return answer.status_code, answer.json().get("run_id")

    def post_at_once(number: int) -> tuple[int, str | None]:
        gate.wait(timeout=10)
        return post(number)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(post_at_once, range(8)))
    (run,) = gateways[0].dagster.runs
    # On a machine that is slow enough some have not got the lock in time; they say so, and may ask again.
    assert {status for status, _ in answers} <= {200, 201, 409, 503}
    assert {run_id for status, run_id in answers if status in (200, 201)} <= {run["runId"]}
    assert [post(number) for number in range(2)] == [(200, run["runId"])] * 2


@pytest.mark.parametrize("key", ["", "a" * 256, "a b", "ä"])
def test_a_key_that_is_none_is_refused(gateway_client: Client, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    answer = gateway_client.post("/v1/runs", json={"job": "table_job"}, headers=headers)
    assert answer.status_code == 422
    assert gateway_client.dagster.runs == []


def test_a_key_needs_the_database_and_nothing_is_started_without(gateway_client: Client) -> None:
    answer = gateway_client.post("/v1/runs", json={"job": "table_job"}, headers={"Idempotency-Key": "a"})
    assert answer.status_code == 503
    assert "hidden" not in answer.text
    assert gateway_client.dagster.runs == []


def test_runs_come_newest_first_and_in_pages(gateway_client: Client) -> None:
    ids = [gateway_client.dagster.add("table_job") for _ in range(5)]
    path, pages = "/v1/runs?limit=2", []
    while path:
        page = gateway_client.get(path).json()
        pages.append([run["run_id"] for run in page["runs"]])
        path = page["next"]
    assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


def test_runs_are_of_a_job_and_of_some_statuses_on_every_page(gateway_client: Client) -> None:
    wanted = [gateway_client.dagster.add("daily_job", status) for status in ("FAILURE", "CANCELED", "FAILURE")]
    gateway_client.dagster.add("daily_job", "SUCCESS")
    gateway_client.dagster.add("table_job", "FAILURE")
    first = gateway_client.get("/v1/runs?job=daily_job&status=FAILURE&status=CANCELED&limit=2").json()
    second = gateway_client.get(first["next"]).json()
    assert [run["run_id"] for run in first["runs"] + second["runs"]] == wanted[::-1]
    assert second["next"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "status=DONE", "after=../x", "job="])
def test_a_page_that_cannot_be_is_refused(gateway_client: Client, query: str) -> None:
    assert gateway_client.get(f"/v1/runs?{query}").status_code == 422


def test_a_run_has_its_steps(gateway_client: Client) -> None:
    run_id = gateway_client.dagster.add("table_job", "SUCCESS")
    gateway_client.dagster.runs[-1]["stepStats"] = [
        {"stepKey": "second", "status": "SUCCESS", "startTime": 20.0, "endTime": 21.5},
        {"stepKey": "skipped", "status": "SKIPPED", "startTime": None, "endTime": None},
        {"stepKey": "first", "status": "SUCCESS", "startTime": 10.0, "endTime": 11.0},
    ]
    run = gateway_client.get(f"/v1/runs/{run_id}").json()
    assert [step["key"] for step in run["steps"]] == ["first", "second", "skipped"]
    assert run["steps"][1]["ended_at"] == "1970-01-01T00:00:21.500000Z"
    assert run["failures"] == []


def test_a_failed_run_says_why_without_a_trace_or_a_secret(client: Client) -> None:
    run_id = client.dagster.add("table_job", "FAILURE")
    message = f"ConnectionError: https://me:hidden@host/x refused the key {API_KEY}\nTraceback"
    error = {"message": "wrapped", "errorChain": [{"error": {"message": message}}]}
    event = {"__typename": "ExecutionStepFailureEvent", "stepKey": "load", "message": "failed", "error": error}
    client.dagster.answers["logsForRun"] = {
        "__typename": "EventConnection",
        "cursor": "1",
        "hasMore": False,
        "events": [event],
    }
    answer = client.get(f"/v1/runs/{run_id}")
    [failure] = answer.json()["failures"]
    assert failure == {"step": "load", "message": "ConnectionError: https://***@host/x refused the key ***"}
    assert "Traceback" not in answer.text


def test_a_run_for_a_range_of_partitions_shows_its_ends(gateway_client: Client) -> None:
    tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
    run_id = gateway_client.dagster.add("daily_job", **tags)
    assert gateway_client.get(f"/v1/runs/{run_id}").json()["partition"] == "a...c"


def test_waiting_ends_when_the_run_does(gateway_client: Client) -> None:
    run_id = gateway_client.dagster.add("table_job")
    run = gateway_client.dagster.runs[-1]
    looks = iter(("QUEUED", "STARTED", "SUCCESS"))
    gateway_client.dagster.answers["runOrError"] = lambda asked: {**run, "status": next(looks, "SUCCESS")}
    assert gateway_client.get(f"/v1/runs/{run_id}?wait_s=30").json()["status"] == "SUCCESS"


def test_waiting_ends_when_the_time_is_over(gateway_client: Client) -> None:
    run_id = gateway_client.dagster.add("table_job")
    assert gateway_client.get(f"/v1/runs/{run_id}?wait_s=0.05").json()["status"] == "STARTED"


def test_nobody_waits_for_a_run_when_the_gateway_stops(gateway_with: Callable[..., Client]) -> None:
    client = gateway_with()
    run_id = client.dagster.add("table_job")
    client.app.state.stopping = True
    assert client.get(f"/v1/runs/{run_id}?wait_s=30").json()["status"] == "STARTED"
    assert client.dagster.asked.count("runOrError") == 2


@pytest.mark.parametrize("wait_s", ["-1", "31", "nan", "inf", "x"])
def test_a_wait_that_cannot_be_is_refused(gateway_client: Client, wait_s: str) -> None:
    assert gateway_client.get(f"/v1/runs/one?wait_s={wait_s}").status_code == 422


def test_a_run_that_is_not_there_is_404(gateway_client: Client) -> None:
    assert gateway_client.get("/v1/runs/one").status_code == 404
    assert gateway_client.post("/v1/runs/one/cancel").status_code == 404
    assert gateway_client.get("/v1/runs/a.b").status_code == 422


def test_a_run_is_cancelled_and_not_again(gateway_client: Client) -> None:
    run_id = gateway_client.dagster.add("table_job")
    first = gateway_client.post(f"/v1/runs/{run_id}/cancel")
    assert (first.status_code, first.json()["status"]) == (202, "CANCELING")
    again = gateway_client.post(f"/v1/runs/{run_id}/cancel")
    assert again.status_code == 409
    assert "could not be terminated due to having status CANCELING" in again.json()["detail"]


def test_the_jobs_are_listed(gateway_client: Client) -> None:
    assert gateway_client.get("/v1/jobs").json() == {
        "jobs": [
            {"name": "daily_job", "description": "Runs daily_job.", "partitioned": True},
            {"name": "table_job", "description": "Runs table_job.", "partitioned": False},
        ]
    }
