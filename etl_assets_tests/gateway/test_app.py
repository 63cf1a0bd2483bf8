"""What is around all calls of the gateway: ids, problems, and the OpenAPI document."""

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.problems import MEDIA_TYPE, ProblemDocument
from etl_assets_tests.gateway.conftest import Client

OPERATIONS = ("get", "post", "put", "patch", "delete")


@pytest.fixture
def document(gateway_client: Client) -> dict[str, Any]:
    """The OpenAPI document as it is served."""
    served: dict[str, Any] = gateway_client.get("/openapi.json").json()
    return served


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in OPERATIONS
            yield method, path, operation


def test_every_answer_has_an_id_of_its_own(gateway_client: Client) -> None:
    ids = [gateway_client.get(path).headers["X-Request-Id"] for path in ("/healthz", "/healthz", "/nothing", "/docs")]
    assert len(set(ids)) == 4


def test_the_id_of_a_request_that_could_not_be_answered_is_in_the_log(
    gateway_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    gateway_client.dagster.raw = (502, b"")
    for path in ("/v1/jobs", "/check/table", "/trigger-etl", "/readyz"):
        answer = gateway_client.get(path)
        assert answer.status_code == 503
        [line] = [each for each in caplog.messages if answer.headers["X-Request-Id"] in each]
        detail = answer.json()["detail"] if path != "/readyz" else "not ready: database: "
        assert detail in line


def test_the_page_of_the_calls_needs_no_other_host(gateway_client: Client) -> None:
    page = gateway_client.get("/docs").text
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(named) == 3
    assert "//" not in "".join(named)
    for path in named:
        answer = gateway_client.get(path)
        assert answer.status_code == 200
        assert len(answer.content) > 1_000
    assert "SwaggerUIBundle" in gateway_client.get(named[-1]).text
    assert gateway_client.get("/docs/redoc.standalone.js").status_code == 422
    assert not [path for path in gateway_client.get("/openapi.json").json()["paths"] if path.startswith("/docs")]


def test_a_path_that_is_not_there_is_a_problem_with_the_id_of_its_request(gateway_client: Client) -> None:
    answer = gateway_client.get("/nothing")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    assert ProblemDocument(**answer.json()).request_id == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "path", ["/trigger-etl/", "/v1/runs/", "/V1/runs", "/v1/runs/a/b", "/v1/runs/../../etc", "/%00"]
)
def test_a_path_that_is_nearly_right_leads_nowhere_else(gateway_client: Client, path: str) -> None:
    assert gateway_client.get(path, allow_redirects=False).status_code == 404


def test_a_wrong_method_is_told_the_right_ones(gateway_client: Client) -> None:
    allowed = {
        "/trigger-etl": "GET, POST",
        "/check/table": "GET",
        "/start-etl-job": "GET, POST",
        "/latest-event-data": "GET",
        "/v1/runs": "GET, POST",
        "/v1/runs/one": "GET",
        "/v1/runs/one/cancel": "POST",
        "/v1/jobs": "GET",
        "/healthz": "GET",
        "/metrics": "GET",
        "/openapi.json": "GET, HEAD",
    }
    wrong = [(path, "DELETE") for path in allowed] + [("/v1/runs", method) for method in ("PUT", "OPTIONS", "BREW")]
    for path, method in wrong:
        answer = gateway_client.call(method, path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, allowed[path]), f"{method} {path}"
        assert answer.headers["Content-Type"] == MEDIA_TYPE


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"job": 1}', b'{"job": "a", "x": 1}', b"\xff", b"[" * 60_000]
)
def test_a_body_that_does_not_fit_is_a_problem_that_says_where(gateway_client: Client, body: bytes) -> None:
    answer = gateway_client.post("/v1/runs", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    if answer.status_code == 422:
        assert ProblemDocument(**answer.json()).errors


@pytest.mark.parametrize(
    "body",
    [
        {"job": "\ud800"},
        {"job": "a", "\ud800": 1},
        {"job": "a", "tags": {"\ud800": "a"}},
        {"job": "a", "partition": "\ud800"},
        {"job": "a", "run_config": {"\ud800": 1}},
    ],
)
def test_half_characters_in_a_request_are_refused(gateway_client: Client, body: dict[str, Any]) -> None:
    answer = gateway_client.post("/v1/runs", data=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert gateway_client.dagster.asked == []


def test_code_that_fails_answers_with_an_id_and_nothing_else(
    gateway_client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(self: Orchestrator) -> None:
        raise RuntimeError("connected as etl:hidden")

    monkeypatch.setattr(Orchestrator, "jobs", failing)
    with caplog.at_level(logging.WARNING):
        answer = gateway_client.get("/v1/jobs")
    assert answer.status_code == 500
    problem = ProblemDocument(**answer.json())
    assert problem.request_id == answer.headers["X-Request-Id"]
    assert problem.detail == "the gateway has failed: its log names the cause beside this request_id"
    assert "hidden" not in answer.text and "File" not in answer.text
    assert f"request {problem.request_id}: unexpected RuntimeError at {__file__}:" in caplog.text
    assert "Traceback" not in caplog.text and "hidden" not in caplog.text


def test_the_document_is_openapi_3_1_with_stable_ids(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "etl-assets gateway"
    assert sorted(operation["operationId"] for _, _, operation in operations(document)) == [
        "cancel_run",
        "check_feature_derivation",
        "check_table",
        "exposition",
        "features_of_users",
        "get_run",
        "healthz",
        "latest_event_data",
        "list_jobs",
        "list_runs",
        "public_status",
        "readyz",
        "start_etl_job",
        "start_etl_job_get",
        "start_run",
        "trigger_etl",
        "trigger_etl_get",
    ]


def test_every_operation_has_a_tag_that_is_described(document: dict[str, Any]) -> None:
    described = {tag["name"] for tag in document["tags"]}
    for _, path, operation in operations(document):
        assert len(operation["tags"]) == 1, path
        assert set(operation["tags"]) <= described, path


def test_every_answer_is_described_with_an_example_and_the_id_of_the_request(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            where = f"{method} {path} {status}"
            assert "X-Request-Id" in response["headers"], where
            for media in response["content"].values():
                assert "example" in media or "examples" in media, where
                assert media["schema"], where


def test_every_problem_is_described_as_one(document: dict[str, Any]) -> None:
    problems = 0
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            content = response["content"]
            if MEDIA_TYPE in content:
                assert content[MEDIA_TYPE]["schema"] == {"$ref": "#/components/schemas/ProblemDocument"}
                for example in content[MEDIA_TYPE]["examples"].values():
                    problems += 1
                    assert ProblemDocument(**example["value"]).status == int(status), f"{method} {path}"
    assert problems > 60


def test_calls_that_only_need_the_database_speak_of_no_other_part(document: dict[str, Any]) -> None:
    for path in ("/check/table", "/check/feature_derivation", "/v1/features/users", "/latest-event-data"):
        unavailable = document["paths"][path]["get"]["responses"]["503"]
        assert list(unavailable["content"][MEDIA_TYPE]["examples"]) == ["Database unavailable"]
        assert unavailable["headers"]["Retry-After"]["description"] == "Seconds to wait"
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "HTTPValidationError" not in json.dumps(document)


def test_the_document_says_where_the_token_is_needed(guarded_client: Client) -> None:
    document = guarded_client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for _, path, operation in operations(document):
        needed = path not in ("/healthz", "/readyz", "/status")
        assert ("security" in operation) == needed, path
        refused = operation["responses"].get("401", {"headers": {}})
        assert ("WWW-Authenticate" in refused["headers"]) == needed, path


def test_without_a_token_the_document_asks_for_none(document: dict[str, Any]) -> None:
    assert "securitySchemes" not in document["components"]
    assert all("403" in operation["responses"] for _, _, operation in operations(document))
