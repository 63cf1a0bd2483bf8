"""Liveness, readiness and metrics."""

from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from etl_assets.core.database.connections import Database
from etl_assets.gateway import monitoring
from etl_assets_tests.gateway.conftest import Client
from etl_assets_tests.gateway.dagster_api import location, workspace


def samples(client: Client) -> dict[tuple[str, ...], float]:
    """The metrics, by name and values of the labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "le")): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_gateway_lives_whatever_else_does_not(gateway_client: Client) -> None:
    gateway_client.dagster.raw = (500, b"")
    answer = gateway_client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_the_gateway_is_ready_when_its_parts_are(gateway_with: Callable[..., Client], database: Database) -> None:
    client = gateway_with(database=database.url)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    part = {"ready": True, "detail": "ready"}
    assert answer.json() == {"ready": True, "database": part, "dagster": part}

    client.dagster.raw = (502, b"")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert (answer.json()["database"]["ready"], answer.json()["dagster"]["ready"]) == (True, False)


def test_each_part_that_is_not_ready_is_named_with_the_reason_and_no_secret(gateway_client: Client) -> None:
    gateway_client.dagster.answers["workspaceOrError"] = workspace(location(status="LOADING"))
    answer = gateway_client.get("/readyz")
    assert answer.status_code == 503
    state = answer.json()
    assert state["ready"] is False
    assert state["dagster"] == {"ready": False, "detail": "Dagster is still loading the code location"}
    assert state["database"]["ready"] is False
    assert "hidden" not in answer.text


def test_requests_are_counted_by_route_method_and_status(gateway_client: Client) -> None:
    key = ("gateway_requests_total", "GET", "/v1/runs/{run_id}", "404")
    before = samples(gateway_client).get(key, 0)
    for run in ("one", "two"):
        gateway_client.get(f"/v1/runs/{run}")
    after = samples(gateway_client)
    assert after[key] == before + 2
    assert after[("gateway_request_seconds_count", "GET", "/v1/runs/{run_id}")] >= 2
    assert not [name for name in after if "/v1/runs/one" in name]


def test_paths_and_methods_that_are_not_there_make_one_series(gateway_client: Client) -> None:
    for number in range(5):
        gateway_client.get(f"/scan/{number}")
        gateway_client.call(f"SCAN{number}", f"/scan/{number}")
    counted = [key for key in samples(gateway_client) if key[0] == "gateway_requests_total" and "(none)" in key]
    assert {key[1] for key in counted} <= {"GET", "(other)"}


def test_triggers_are_counted_by_their_name_and_outcome(gateway_client: Client) -> None:
    key = ("gateway_triggers_total", "failed", "of a test")
    monitoring.count_trigger("of a test", "failed")
    assert samples(gateway_client)[key] == 1


def test_the_version_is_among_the_metrics_and_the_metrics_of_others_are_not(gateway_client: Client) -> None:
    names = {key[0] for key in samples(gateway_client)}
    assert "gateway_build_info" in names
    assert all(name.startswith("gateway_") for name in names)


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text", "*/*"])
def test_the_metrics_are_in_the_text_format(gateway_client: Client, accept: str) -> None:
    answer = gateway_client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
