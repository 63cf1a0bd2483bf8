"""Alerts: what is reported, how often, to whom, and that nothing is lost or leaked on the way."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr

from etl_assets.core.dagster import alerts
from etl_assets.core.dagster.alerts import QUIET_S, Incident, State, alert_sensors, deliver, due_texts, post

pytestmark = pytest.mark.long

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Webhook:
    """A webhook that answers with `status` and keeps what it was sent."""

    def __init__(self) -> None:
        self.status, self.bodies, self.location = 200, [], None
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                webhook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(webhook.status)
                if webhook.location:
                    self.send_header("Location", webhook.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/T0SECRET"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    hook.thread.start()
    try:
        yield hook
    finally:
        hook.server.shutdown()
        hook.server.server_close()
        hook.thread.join()


@pytest.fixture(params=["in memory", "SQLite"])
def instance(request: pytest.FixtureRequest, tmp_path: Path, data_dir: Path) -> Iterator[dg.DagsterInstance]:
    """An instance of each kind that local work meets."""
    if request.param == "in memory":
        made = dg.DagsterInstance.ephemeral()
    else:
        made = dg.DagsterInstance.local_temp(str(tmp_path))
    with made as opened:
        yield opened


def run_that_fails(instance: dg.DagsterInstance, message: str = "the table is gone", job_name: str = "nightly") -> str:
    @dg.op
    def load() -> None:
        try:
            raise LookupError(message)
        except LookupError as error:
            raise RuntimeError("wrapped") from error

    @dg.job(name=job_name)
    def job() -> None:
        load()

    return job.execute_in_process(instance=instance, raise_on_error=False, run_config=QUIET).run_id


def check_that_gives(instance: dg.DagsterInstance, *, passed: bool, rows: int = 0) -> str:
    @dg.asset
    def readings() -> None: ...

    @dg.asset_check(asset=readings)
    def has_rows() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            passed=passed,
            description=None if passed else "there was nothing to look at",
            metadata={"rows_evaluated": rows, "sample": "a name"},
        )

    result = dg.materialize([readings, has_rows], instance=instance, run_config=QUIET)
    return result.run_id


def tick(instance: dg.DagsterInstance, name: str, cursor: str | None = None) -> tuple[str, str]:
    """Evaluate a sensor once; gives what it says of itself and its new cursor."""
    (sensor,) = [sensor for sensor in alert_sensors() if sensor.name == name]
    with dg.build_sensor_context(instance=instance, cursor=cursor, sensor_name=name) as context:
        data = sensor.evaluate_tick(context)
    assert not data.run_requests
    assert data.skip_message is not None
    assert data.cursor is not None
    return data.skip_message, data.cursor


def alerts_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == alerts.__name__]


def test_both_sensors_run_unless_somebody_stops_them() -> None:
    states = {sensor.name: sensor.default_status for sensor in alert_sensors()}
    assert states == {
        "run_failure_alerts": dg.DefaultSensorStatus.RUNNING,
        "asset_check_alerts": dg.DefaultSensorStatus.RUNNING,
    }


def test_a_failed_run_is_reported_with_its_job_its_step_and_the_root_cause(
    instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = run_that_fails(instance)
    tick(instance, "run_failure_alerts")
    expected = f"alert: run {run_id[:8]} of nightly failed in load: LookupError: the table is gone"
    assert alerts_in(caplog) == [expected]


def test_a_permanent_failure_is_reported_in_its_own_words(
    instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    @dg.op
    def send() -> None:
        raise dg.Failure(description="the key was refused: set OUTAGES_API_KEY", allow_retries=False)

    @dg.job
    def delivery() -> None:
        send()

    run_id = delivery.execute_in_process(instance=instance, raise_on_error=False, run_config=QUIET).run_id
    tick(instance, "run_failure_alerts")
    assert alerts_in(caplog) == [
        f"alert: run {run_id[:8]} of delivery failed in send: the key was refused: set OUTAGES_API_KEY"
    ]


def test_a_run_whose_worker_crashed_is_reported_too(
    instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    @dg.job
    def nightly() -> None: ...

    run = instance.create_run_for_job(nightly)
    instance.report_run_failed(run, message="Run worker process crashed.")
    tick(instance, "run_failure_alerts")
    assert alerts_in(caplog) == [f"alert: run {run.run_id[:8]} of nightly failed: Run worker process crashed."]


def test_a_failed_check_is_reported_with_its_numbers_and_without_its_texts(
    instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = check_that_gives(instance, passed=False)
    tick(instance, "asset_check_alerts")
    assert alerts_in(caplog) == [
        f"alert: check has_rows of readings failed (run {run_id[:8]}): there was nothing to look at; rows_evaluated 0"
    ]


def test_a_check_that_passes_and_a_run_that_succeeds_are_not_reported(
    instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    check_that_gives(instance, passed=True, rows=3)
    assert [tick(instance, sensor.name)[0] for sensor in alert_sensors()] == ["nothing new has failed"] * 2
    assert alerts_in(caplog) == []


def test_the_same_cause_is_reported_once_even_when_sensor_and_daemon_start_anew(
    instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    run_that_fails(instance, "row 17 of 400 is bad")
    _, cursor = tick(instance, "run_failure_alerts")
    run_that_fails(instance, "row 18 of 523 is bad")
    _, cursor = tick(instance, "run_failure_alerts", cursor)
    tick(instance, "run_failure_alerts", cursor)
    assert len(alerts_in(caplog)) == 1


def test_another_cause_and_another_job_are_reported_at_once(
    instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    run_that_fails(instance, "the table is gone")
    _, cursor = tick(instance, "run_failure_alerts")
    run_that_fails(instance, "the disk is full")
    run_that_fails(instance, "the table is gone", job_name="hourly")
    tick(instance, "run_failure_alerts", cursor)
    assert len(alerts_in(caplog)) == 3


def test_after_an_hour_the_cause_is_reported_again_with_the_number_left_out() -> None:
    state, incident = State(), Incident("job nightly", "gone", "nightly failed: gone")
    assert due_texts([incident], state, now=0.0) == ["nightly failed: gone"]
    assert due_texts([incident, incident], state, now=QUIET_S - 1) == []
    state = State.of(state.cursor())
    assert due_texts([incident], state, now=QUIET_S) == ["nightly failed: gone (2 more like it since the last alert)"]


def test_what_was_reported_is_forgotten_in_time_so_that_the_cursor_stays_small() -> None:
    state = State()
    due_texts([Incident("job", f"cause {letter}", "x") for letter in "abcdefgh"], state, now=0.0)
    due_texts([], state, now=QUIET_S)
    assert State.of(state.cursor()) == State()


def test_failures_of_long_ago_are_not_reported_when_alerts_are_first_turned_on(
    instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_that_fails(instance)
    monkeypatch.setattr(alerts, "FIRST_LOOK_BACK_S", -60.0)
    tick(instance, "run_failure_alerts")
    assert alerts_in(caplog) == []


def test_the_webhook_gets_the_alerts_of_a_tick_as_one_message(
    instance: dg.DagsterInstance, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_ALERT_WEBHOOK_URL", webhook.url)
    first, second = run_that_fails(instance, "gone"), run_that_fails(instance, "full")
    _, cursor = tick(instance, "run_failure_alerts")
    tick(instance, "run_failure_alerts", cursor)
    assert webhook.bodies == [
        {
            "text": f"run {first[:8]} of nightly failed in load: LookupError: gone\n"
            f"run {second[:8]} of nightly failed in load: LookupError: full"
        }
    ]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_webhook_that_fails_does_not_fail_the_sensor_and_gets_the_alert_later(
    status: int, data_dir: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ETL_ALERT_WEBHOOK_URL", webhook.url)
    webhook.status, webhook.location = status, webhook.url if status == 302 else None
    with dg.DagsterInstance.ephemeral() as instance:
        run_that_fails(instance)
        _, cursor = tick(instance, "run_failure_alerts")
        assert (
            alerts_in(caplog)[1]
            == f"the alert webhook did not take 1 alerts (HTTP {status}); they are in the log above"
        )
        webhook.status, webhook.location = 200, None
        _, cursor = tick(instance, "run_failure_alerts", cursor)
        tick(instance, "run_failure_alerts", cursor)
    assert len(webhook.bodies) == 2
    assert webhook.bodies[0] == webhook.bodies[1]


def test_an_alert_that_is_never_taken_is_given_up_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    state, nowhere = State(), SecretStr("http://127.0.0.1:9/services/T0SECRET")
    deliver(["nightly failed"], state, nowhere, now=0.0)
    assert state.unsent == [(0.0, "nightly failed")]
    deliver([], state, nowhere, now=alerts.UNSENT_S)
    assert state.unsent == []
    assert alerts_in(caplog)[-1] == "1 alerts are no longer offered to the webhook"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/T0SECRET", "ETL_ALERT_WEBHOOK_URL is no http or https URL"),
        ("http://127.0.0.1:9/T0SECRET", "ConnectionRefusedError"),
        ("http://127.0.0.1:port/T0SECRET", "InvalidURL"),
        ("http://[T0SECRET", "ValueError"),
    ],
)
def test_what_is_wrong_with_a_webhook_is_reported_without_its_url(url: str, reason: str) -> None:
    assert post(SecretStr(url), "text") == reason


def test_no_secret_reaches_the_log_the_webhook_or_the_cursor(
    data_dir: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ETL_ALERT_WEBHOOK_URL", webhook.url)
    monkeypatch.setenv("OUTAGES_API_KEY", "k3y-k3y-k3y")
    monkeypatch.setenv("ETL_POSTGRES_URL", "postgresql://etl:p%40ss@db/etl")
    secrets = ("T0SECRET", "k3y-k3y-k3y", "p%40ss", "p@ss", "hunter2")
    with dg.DagsterInstance.ephemeral() as instance:
        run_that_fails(instance, f"x-api-key k3y-k3y-k3y at {webhook.url}, password p@ss, s3://me:hunter2@store/a")
        message, cursor = tick(instance, "run_failure_alerts")
    everything = "\n".join([message, cursor, str(webhook.bodies), *alerts_in(caplog)])
    assert [secret for secret in secrets if secret in everything] == []
    assert "x-api-key *** at ***, password ***, s3://***@store/a" in webhook.bodies[0]["text"]


def test_an_endless_cause_is_cut(data_dir: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_ALERT_WEBHOOK_URL", webhook.url)
    with dg.DagsterInstance.ephemeral() as instance:
        run_that_fails(instance, "long " * 10_000)
        tick(instance, "run_failure_alerts")
    assert len(webhook.bodies[0]["text"]) == 500
