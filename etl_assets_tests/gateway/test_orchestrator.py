"""What the gateway makes of each answer that Dagster may give."""

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from etl_assets.errors import ConfigurationError
from etl_assets.gateway.graphql import Graphql, OrchestratorDown, StillLoading, first_line
from etl_assets.gateway.orchestrator import CancelRefused, LaunchRefused, Orchestrator, UnknownJob
from etl_assets_tests.gateway.dagster_api import DagsterApi, location, workspace

PYTHON_ERROR = {
    "__typename": "PythonError",
    "message": "psycopg.Error: at postgresql://etl:hidden@db/etl\n  File one\n  File two",
}


def ask(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def refused_by(make: Callable[[], Coroutine[Any, Any, Any]]) -> OrchestratorDown:
    with pytest.raises(OrchestratorDown) as met:
        ask(make())
    return met.value


def test_a_launch_has_the_tags_of_its_partition_and_those_given(orchestrator: Orchestrator) -> None:
    run = ask(orchestrator.launch("daily_job", partition="2024-01-02", tags={"team": "lab"}))
    assert (run.job, run.partition, run.status) == ("daily_job", "2024-01-02", "STARTED")
    assert run.tags["team"] == "lab"
    assert run.created_at.utcoffset().total_seconds() == 0


def test_an_unknown_job_is_refused_with_the_names_of_the_known_ones(orchestrator: Orchestrator) -> None:
    with pytest.raises(UnknownJob, match="there is no job 'nope': the jobs are daily_job, table_job"):
        ask(orchestrator.launch("nope"))


def test_dagsters_own_job_cannot_be_started(orchestrator: Orchestrator) -> None:
    with pytest.raises(UnknownJob):
        ask(orchestrator.launch("__ASSET_JOB"))


def test_a_job_that_two_locations_have_is_refused(orchestrator: Orchestrator, dagster_api: DagsterApi) -> None:
    dagster_api.answers["workspaceOrError"] = workspace(location("job", name="one"), location("job", name="two"))
    with pytest.raises(LaunchRefused, match=r"several code locations have a job 'job' \(one, two\)"):
        ask(orchestrator.launch("job"))


@pytest.mark.parametrize(
    ("job", "partition", "reason"),
    [
        (
            "daily_job",
            None,
            "daily_job is partitioned: name a `partition`; there are 2024-01-01, 2024-01-02, 2024-01-03",
        ),
        ("daily_job", "1999-01-01", "daily_job has no partition '1999-01-01'"),
        ("table_job", "2024-01-01", "table_job has no partitions: leave `partition` out"),
    ],
)
def test_a_partition_that_does_not_fit_the_job_is_refused(
    orchestrator: Orchestrator, dagster_api: DagsterApi, job: str, partition: str | None, reason: str
) -> None:
    with pytest.raises(LaunchRefused, match=reason):
        ask(orchestrator.launch(job, partition=partition))
    assert dagster_api.runs == []


def test_a_run_configuration_that_does_not_fit_is_refused_with_dagsters_reasons(
    orchestrator: Orchestrator, dagster_api: DagsterApi
) -> None:
    errors = [{"message": "Missing required config entry", "path": ["ops"]}]
    dagster_api.answers["launchRun"] = {"__typename": "RunConfigValidationInvalid", "errors": errors}
    with pytest.raises(LaunchRefused) as met:
        ask(orchestrator.launch("table_job", run_config={"ops": 1}))
    assert met.value.errors == (("body.run_config.ops", "Missing required config entry"),)


def test_an_op_may_be_configured_by_the_name_of_its_asset_alone(
    orchestrator: Orchestrator, dagster_api: DagsterApi
) -> None:
    dagster_api.answers["assetNodes"] = [
        {"assetKey": {"path": list(path)}, "jobNames": ["table_job"], "opNames": ["__".join(path)]}
        for path in (("lab", "users"), ("lab", "table"), ("one", "twice"), ("two", "twice"))
    ]
    sent = []

    def launch(asked: Any) -> Any:
        sent.append(asked["params"]["runConfigData"])
        return dagster_api._launchRun(asked)

    dagster_api.answers["launchRun"] = launch
    cases = {
        "users": "lab__users",
        "lab__users": "lab__users",
        "twice": "twice",
        "one__twice": "one__twice",
        "no_such": "no_such",
    }
    for given, meant in cases.items():
        resources = {"resources": {"x": 1}}
        ask(orchestrator.launch("table_job", run_config={"ops": {given: {"config": 1}}, **resources}))
        assert sent.pop() == {"ops": {meant: {"config": 1}}, **resources}, given
    for config in ({"ops": {"users": 1, "lab__users": 2}}, {"ops": "none"}, {"execution": {}}, {}):
        ask(orchestrator.launch("table_job", run_config=config))
        assert sent.pop() == config


def test_a_job_that_has_just_gone_is_unknown(orchestrator: Orchestrator, dagster_api: DagsterApi) -> None:
    dagster_api.answers["launchRun"] = {"__typename": "PipelineNotFoundError", "message": "Could not find"}
    with pytest.raises(UnknownJob, match="any more"):
        ask(orchestrator.launch("table_job"))


@pytest.mark.parametrize(
    "kind",
    [
        "InvalidSubsetError",
        "InvalidStepError",
        "InvalidOutputError",
        "RunConflict",
        "PresetNotFoundError",
        "ConflictingExecutionParamsError",
        "NoModeProvidedError",
        "PythonError",
    ],
)
def test_what_a_caller_cannot_put_right_is_dagster_failing(
    orchestrator: Orchestrator, dagster_api: DagsterApi, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    dagster_api.answers["launchRun"] = {**PYTHON_ERROR, "__typename": kind}
    failed = refused_by(lambda: orchestrator.launch("table_job"))
    assert failed.detail == f"Dagster failed ({kind}): try again later; the log of the gateway says more"
    assert failed.headers == {"Retry-After": "5"}
    assert "psycopg.Error: at postgresql://***@db/etl" in caplog.text
    assert "hidden" not in caplog.text and "File one" not in caplog.text


def test_a_read_only_dagster_is_named_as_such(orchestrator: Orchestrator, dagster_api: DagsterApi) -> None:
    dagster_api.answers["launchRun"] = {"__typename": "UnauthorizedError", "message": "no"}
    failed = refused_by(lambda: orchestrator.launch("table_job"))
    assert "without --read-only" in failed.detail
    assert failed.headers == {}


def test_a_run_whose_launch_was_not_acknowledged_is_found_again(
    orchestrator: Orchestrator, dagster_api: DagsterApi
) -> None:
    dagster_api.lost = {"launchRun"}
    run = ask(orchestrator.launch("table_job"))
    assert [run.run_id] == [each["runId"] for each in dagster_api.runs]


def test_a_launch_that_is_neither_acknowledged_nor_found_is_not_known(
    orchestrator: Orchestrator, dagster_api: DagsterApi
) -> None:
    dagster_api.lost = {"launchRun"}
    dagster_api.answers["launchRun"] = {}
    assert "did not say whether it has started the run" in refused_by(lambda: orchestrator.launch("table_job")).detail


def test_a_location_that_loads_is_loading_and_its_jobs_will_come(
    orchestrator: Orchestrator, dagster_api: DagsterApi
) -> None:
    assert ask(orchestrator.loading()) is False
    dagster_api.answers["workspaceOrError"] = workspace({**location(status="LOADING"), "locationOrLoadError": None})
    assert ask(orchestrator.loading()) is True
    with pytest.raises(StillLoading):
        ask(orchestrator.launch("table_job"))


def test_a_location_that_cannot_be_loaded_is_named_without_its_trace(
    orchestrator: Orchestrator, dagster_api: DagsterApi
) -> None:
    dagster_api.answers["workspaceOrError"] = workspace({**location(name="here"), "locationOrLoadError": PYTHON_ERROR})
    failed = refused_by(lambda: orchestrator.launch("table_job"))
    assert failed.detail.startswith("the code location here cannot be loaded: ")
    assert "File" not in failed.detail
    assert ask(orchestrator.jobs()) == []


def test_jobs_are_listed_without_dagsters_own(orchestrator: Orchestrator) -> None:
    jobs = ask(orchestrator.jobs())
    assert [(job.name, job.partitioned, job.description) for job in jobs] == [
        ("daily_job", True, "Runs daily_job."),
        ("table_job", False, "Runs table_job."),
    ]


def test_unfinished_are_the_runs_of_a_job_and_ad_hoc_ones_of_its_assets(
    orchestrator: Orchestrator, dagster_api: DagsterApi
) -> None:
    wanted = [dagster_api.add("daily_job", status) for status in ("QUEUED", "NOT_STARTED", "STARTING", "CANCELING")]
    wanted.append(dagster_api.add("__ASSET_JOB", assets=["daily", "other"]))
    wanted.append(dagster_api.add("__ASSET_JOB", assets=None))
    dagster_api.add("__ASSET_JOB", assets=["other"])
    dagster_api.add("__ASSET_JOB", "SUCCESS", assets=["daily"])
    dagster_api.add("daily_job", "FAILURE")
    dagster_api.add("table_job")
    assert {run.run_id for run in ask(orchestrator.unfinished("daily_job"))} == set(wanted)


def test_no_unfinished_run_is_missed_behind_many_of_other_assets(
    orchestrator: Orchestrator, dagster_api: DagsterApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.gateway.orchestrator.PAGE", 2)
    wanted = dagster_api.add("__ASSET_JOB", assets=["daily"])
    for _ in range(4):
        dagster_api.add("__ASSET_JOB", assets=["other"])
    assert [run.run_id for run in ask(orchestrator.unfinished("daily_job"))] == [wanted]


def test_cancelling_a_run_that_has_ended_is_refused_in_dagsters_words(
    orchestrator: Orchestrator, dagster_api: DagsterApi
) -> None:
    with pytest.raises(CancelRefused, match="could not be terminated due to having status SUCCESS"):
        ask(orchestrator.cancel(dagster_api.add("table_job", "SUCCESS")))
    assert ask(orchestrator.cancel("nope")) is False


def test_failures_are_those_of_steps_in_the_words_of_what_was_raised(
    orchestrator: Orchestrator, dagster_api: DagsterApi
) -> None:
    chain = [{"error": {"message": "ValueError: no such thing\nand more"}}]
    step = {
        "__typename": "ExecutionStepFailureEvent",
        "stepKey": "users",
        "message": "Execution of step failed",
        "error": {"message": "DagsterExecutionStepExecutionError: …", "errorChain": chain},
    }
    whole = {"__typename": "RunFailureEvent", "message": "Steps failed: ['users'].", "error": None}
    other = {"__typename": "EngineEvent"}
    pages = {
        None: {"__typename": "EventConnection", "cursor": "1", "hasMore": True, "events": [other, step]},
        "1": {"__typename": "EventConnection", "cursor": "2", "hasMore": False, "events": [whole]},
    }
    dagster_api.answers["logsForRun"] = lambda asked: pages[asked["after"]]
    failures = ask(orchestrator.failures("run"))
    assert [(failure.step, failure.message) for failure in failures] == [("users", "ValueError: no such thing")]
    pages[None]["events"] = []  # type: ignore[index]
    assert [failure.message for failure in ask(orchestrator.failures("run"))] == ["Steps failed: ['users']."]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"not json"),
        (200, b"<html>a proxy's page</html>"),
        (200, b"[]"),
        (200, b'{"data": null}'),
        (200, json.dumps({"data": {}, "errors": [{"message": "no field"}]}).encode()),
        (200, b""),
        (500, b"{}"),
        (502, b"bad gateway"),
        (401, b"{}"),
    ],
)
def test_an_answer_that_is_none_of_dagsters_is_dagster_failing(
    orchestrator: Orchestrator, dagster_api: DagsterApi, status: int, body: bytes
) -> None:
    dagster_api.raw = (status, body)
    assert refused_by(orchestrator.jobs).detail.startswith("Dagster does not answer")
    assert refused_by(lambda: orchestrator.launch("table_job")).status == 503


def test_a_dagster_that_refuses_the_connection_is_down_and_the_log_names_it_without_its_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    down = Orchestrator("http://user:hidden@127.0.0.1:1/graphql")
    assert refused_by(down.loading).detail.startswith("Dagster does not answer")
    assert "http://127.0.0.1:1" in caplog.text and "hidden" not in caplog.text


def test_a_dagster_that_is_still_starting_is_loading(caplog: pytest.LogCaptureFixture) -> None:
    starting = Orchestrator("http://127.0.0.1:1", starting=lambda: True)
    assert ask(starting.loading()) is True
    with pytest.raises(StillLoading):
        ask(starting.launch("table_job"))
    assert caplog.records == []


def test_a_silent_dagster_is_given_up_and_does_not_hold_up_the_loop() -> None:
    async def given_up(slow: Orchestrator) -> OrchestratorDown:
        waiting = asyncio.create_task(slow.loading())
        # Were the loop blocked, the task would have ended by the time that it is our turn again.
        await asyncio.sleep(0)
        assert not waiting.done()
        with pytest.raises(OrchestratorDown) as met:
            await waiting
        return met.value

    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow = Orchestrator(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)
        assert asyncio.run(given_up(slow)).status == 503


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "http://host/?a=b"])
def test_a_url_that_cannot_be_right_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Dagster"):
        Orchestrator(url)


@pytest.mark.parametrize("end", ["", "/", "/graphql", "/graphql/"])
def test_the_url_is_taken_with_and_without_its_end(end: str) -> None:
    made = Graphql(f"http://user:pass@host:3000/prefix{end}", timeout_s=1, starting=lambda: False)
    assert made.base_url == "http://host:3000/prefix"


def test_a_first_line_is_short_and_has_no_credentials() -> None:
    assert first_line("\n  at https://me:secret@host/x failed \nTraceback") == "at https://***@host/x failed"
    assert len(first_line("x" * 2000)) == 500
