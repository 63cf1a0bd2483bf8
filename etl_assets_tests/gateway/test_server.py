"""The gateway as a process, before a Dagster that is real."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from etl_assets.cli.gateway import gateway, prepare_gateway_home
from etl_assets.core.embedded import EmbeddedPostgres, supervisor
from etl_assets.errors import ConfigurationError
from etl_assets.gateway.orchestrator import LaunchRefused, Orchestrator
from etl_assets.gateway.own_dagster import OwnDagster
from etl_assets.gateway.server import run
from etl_assets.settings import Settings, load_settings
from etl_assets_tests.gateway.conftest import Client
from etl_assets_tests.gateway.conftest import gateway as gateway_before

WORKSPACE = ("-f", str(Path(__file__).parent / "workspace.py"), "-a", "defs")
COMMAND = (sys.executable, "-m", "etl_assets.cli", "gateway")
SLEEPS = "import time; time.sleep(600)"
SLEEPER = (
    sys.executable,
    "-c",
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{SLEEPS}']); {SLEEPS}",
)


def until(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    end = time.monotonic() + timeout_s
    while not (met := condition()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
    return met


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def supervised(*command: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-I", "-S", supervisor.__file__, "--", *command], stdin=subprocess.PIPE)


def test_a_port_that_is_taken_is_refused_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(etl_gateway_port=taken.getsockname()[1], dagster_graphql_url="http://127.0.0.1:1")
        with pytest.raises(ConfigurationError, match="set ETL_GATEWAY_PORT to a port that is free"):
            run(settings, host="127.0.0.1")


def test_an_address_that_everybody_reaches_is_refused_without_a_token(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="set ETL_GATEWAY_TOKEN"):
        gateway(host="0.0.0.0", port=0)
    assert list(data_dir.iterdir()) == []


def test_a_port_that_is_none_is_refused(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="ETL_GATEWAY_PORT"):
        gateway(host="127.0.0.1", port=70000)


@pytest.mark.long
def test_a_supervised_command_ends_with_its_descendants_when_the_pipe_is_closed() -> None:
    process = supervised(*SLEEPER)
    descendants = until(
        lambda: (found := psutil.Process(process.pid).children(recursive=True)) and len(found) == 2 and found
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=10) == -signal.SIGTERM % 256
    until(lambda: not any(map(alive, descendants)))


def test_the_supervisor_ends_with_its_command() -> None:
    process = supervised(sys.executable, "-c", "raise SystemExit(3)")
    assert process.wait(timeout=10) == 3
    assert process.stdin is not None
    process.stdin.close()


def test_a_dagster_that_never_starts_is_at_last_not_reported_as_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("etl_assets.gateway.own_dagster.LONGEST_BACKOFF_S", 0.01)
    monkeypatch.setattr("sys.executable", "/bin/false")
    own = OwnDagster(tmp_path, {})
    assert own.starting()
    with own:
        until(lambda: not own.starting())
    assert f"has ended (exit code 1): see {tmp_path / 'webserver.log'}" in caplog.text


@pytest.fixture(scope="module")
def real_dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnDagster]:
    """A Dagster of its own with the workspace of the tests, once it answers."""
    home = prepare_gateway_home(Settings(etl_data_dir=tmp_path_factory.mktemp("real")))
    with OwnDagster(home, dict(os.environ), target=WORKSPACE) as own:
        until(lambda: not own.starting())
        yield own


@pytest.fixture(scope="module")
def client(real_dagster: OwnDagster, postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[Client]:
    """A gateway before it, with a database."""
    url = postgres_server.create_database("gateway_server")
    with gateway_before(None, real_dagster.url, database=url) as made:  # type: ignore[arg-type]
        until(lambda: made.get("/readyz").status_code == 200)
        yield made


def start(client: Client, job: str, **wanted: Any) -> str:
    answer = client.post("/v1/runs", json={"job": job, **wanted})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["run_id"])


def ended(client: Client, run_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(f"/v1/runs/{run_id}?wait_s=30").json()
        return found if found["ended_at"] else None

    run: dict[str, Any] = until(look, timeout_s=120)
    return run


@pytest.mark.long
def test_a_run_is_started_followed_and_found_again(client: Client) -> None:
    headers = {"Idempotency-Key": "one day"[:3]}
    body = {"job": "daily_job", "partition": "2024-01-02", "tags": {"team": "lab"}}
    first = client.post("/v1/runs", json=body, headers=headers)
    assert first.status_code == 201, first.text
    run = ended(client, first.json()["run_id"])
    assert (run["status"], run["partition"], run["failures"]) == ("SUCCESS", "2024-01-02", [])
    assert [(step["key"], step["status"]) for step in run["steps"]] == [("daily", "SUCCESS")]
    assert run["created_at"] <= run["started_at"] <= run["ended_at"]
    again = client.post("/v1/runs", json=body, headers=headers)
    assert (again.status_code, again.json()["run_id"]) == (200, run["run_id"])
    listed = client.get("/v1/runs?job=daily_job&status=SUCCESS").json()["runs"]
    assert [each["run_id"] for each in listed] == [run["run_id"]]
    assert requests.get(run["url"], timeout=10).ok


@pytest.mark.long
def test_a_run_that_fails_says_why(client: Client) -> None:
    run = ended(client, start(client, "failing_job"))
    assert run["status"] == "FAILURE"
    assert run["failures"] == [{"step": "breaks", "message": "ValueError: cannot read postgresql://***@db/etl"}]


@pytest.mark.long
def test_what_dagster_does_not_take_is_refused_with_its_reasons(client: Client) -> None:
    missing = client.post("/v1/runs", json={"job": "configured_job"})
    assert missing.status_code == 422
    assert missing.json()["errors"][0]["reason"].startswith('Missing required config entry "ops" at the root')
    wrong = {"ops": {"counts": {"config": {"number": "many"}}}}
    assert client.post("/v1/runs", json={"job": "configured_job", "run_config": wrong}).status_code == 422
    right = {"ops": {"counts": {"config": {"number": 1}}}}
    assert ended(client, start(client, "configured_job", run_config=right))["status"] == "SUCCESS"
    for op in ("configured", "lab__configured"):  # the asset's name alone, and its op's
        config = {"ops": {op: {"config": {"number": 1}}}}
        assert ended(client, start(client, "lab_job", run_config=config))["status"] == "SUCCESS"
    for partition in ("2024-01-04", "x", None):
        assert client.post("/v1/runs", json={"job": "daily_job", "partition": partition}).status_code == 422


@pytest.mark.long
def test_the_jobs_of_the_location_are_listed(client: Client) -> None:
    jobs = client.get("/v1/jobs").json()["jobs"]
    assert {job["name"]: job["partitioned"] for job in jobs} == {
        "configured_job": False,
        "daily_job": True,
        "failing_job": False,
        "lab_job": False,
        "lasting_job": False,
        "slow_job": False,
        "table_job": False,
    }


@pytest.mark.long
def test_a_run_that_lasts_is_cancelled(client: Client) -> None:
    run_id = start(client, "lasting_job")
    until(lambda: client.get(f"/v1/runs/{run_id}").json()["steps"])
    assert client.post(f"/v1/runs/{run_id}/cancel").status_code == 202
    assert ended(client, run_id)["status"] == "CANCELED"
    assert client.post(f"/v1/runs/{run_id}/cancel").status_code == 409


@pytest.mark.long
def test_an_ad_hoc_run_of_its_assets_is_seen_as_unfinished(client: Client, real_dagster: OwnDagster) -> None:
    def launch(asset: str) -> str:
        selector = {
            "jobName": "__ASSET_JOB",
            "repositoryName": "__repository__",
            "repositoryLocationName": "workspace.py:defs",
            "assetSelection": [{"path": [asset]}],
        }
        query = "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { ... on LaunchRunSuccess { run { runId } } } }"
        body = {"query": query, "variables": {"p": {"selector": selector, "runConfigData": {}}}}
        answer = requests.post(f"{real_dagster.url}/graphql", json=body, timeout=30).json()
        return str(answer["data"]["launchRun"]["run"]["runId"])

    orchestrator = Orchestrator(real_dagster.url)
    run_id = launch("slow_table")
    assert [run.run_id for run in asyncio.run(orchestrator.unfinished("slow_job"))] == [run_id]
    assert asyncio.run(orchestrator.unfinished("table_job")) == []
    until(lambda: client.get(f"/v1/runs/{run_id}").json()["steps"])
    client.post(f"/v1/runs/{run_id}/cancel")
    ended(client, run_id)
    assert asyncio.run(orchestrator.unfinished("slow_job")) == []
    with pytest.raises(LaunchRefused):
        asyncio.run(orchestrator.unfinished("nope"))


@contextlib.contextmanager
def gateway_process(**environment: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`etl-assets gateway` on a free port, and its URL."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0"], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    try:
        printed = ""
        while not (match := re.search(r"gateway: (http://127.0.0.1:\d+) \(docs at /docs\)", printed)):
            line = process.stdout.readline()
            assert line, "it has ended"
            printed += line
        assert ("no ETL_GATEWAY_TOKEN: listening on loopback only\n" in printed) == (
            "ETL_GATEWAY_TOKEN" not in environment
        )
        yield process, match[1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ready(url: str) -> dict[str, Any]:
    """Its readiness, once Dagster is up."""
    return until(lambda: (state := requests.get(f"{url}/readyz", timeout=10).json())["dagster"]["ready"] and state)  # type: ignore[no-any-return]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_gateway_takes_its_own_dagster_with_it(data_dir: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = f"postgresql://etl:hidden@127.0.0.1:{silent.getsockname()[1]}/etl"
        with gateway_process(ETL_POSTGRES_URL=database) as (process, url):
            assert requests.get(f"{url}/healthz", timeout=10).ok
            assert requests.get(f"{url}/v1/jobs", timeout=10).status_code == 503
            ready(url)
            assert len(requests.get(f"{url}/v1/jobs", timeout=10).json()["jobs"]) >= 3
            descendants = psutil.Process(process.pid).children(recursive=True)
            assert len(descendants) >= 3
            process.send_signal(number)
            assert process.wait(timeout=10) == (-9 if number is signal.SIGKILL else 0)
            until(lambda: not any(map(alive, descendants)), timeout_s=10)


@pytest.mark.long
def test_a_run_that_is_cut_off_with_the_gateway_has_an_end(tmp_path: Path) -> None:
    home = prepare_gateway_home(load_settings(etl_data_dir=tmp_path))
    with OwnDagster(home, dict(os.environ), target=WORKSPACE) as own:
        until(lambda: not own.starting())
        orchestrator = Orchestrator(own.url)
        run = asyncio.run(orchestrator.launch("lasting_job"))
        until(lambda: asyncio.run(orchestrator.steps(run.run_id)))
    with OwnDagster(home, dict(os.environ), target=WORKSPACE) as own:
        until(lambda: not own.starting())
        after = asyncio.run(Orchestrator(own.url).run(run.run_id))
    assert after is not None and after.ended, after
