"""Alerts: each failed run and failed asset check to one log line and, by setting, to a webhook.

The same thing with the same cause is one alert an hour, with a count of what was left out. Which alerts were given, how far the event log
has been read and what the webhook has not taken yet are in the sensor's cursor, which outlives a restart. The cursor moves when
a tick has ended: an alert may come twice after a crash in between, and never not at all.

No text carries a secret. The URL of a webhook is one itself, so nothing here quotes it, not even an error.
"""

import hashlib
import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from etl_assets.core import registry
from etl_assets.core.sources.http.outcomes import Redactor
from etl_assets.redaction import public_urls
from etl_assets.settings import Settings, load_settings

QUIET_S = 3600.0
# The first tick of all looks back this far: failures before it are history, those since are news.
FIRST_LOOK_BACK_S = 3600.0
# An alert that the webhook does not take is offered again with each tick, for so long.
UNSENT_S = 6 * 3600.0
MAX_UNSENT = 100
EVENTS_PER_TICK = 500
POST_TIMEOUT_S = 10.0
INTERVAL_S = 30
MAX_CAUSE_CHARS = 500

_log = logging.getLogger(__name__)
_NUMBERS = re.compile(r"\b[0-9a-f]{8}(-?[0-9a-f]{4,})*\b|\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Incident:
    """Something that somebody should know.

    Attributes:
        about: what failed: a job, or a check of an asset.
        cause: why.
        text: what to tell.
    """

    about: str
    cause: str
    text: str

    @property
    def key(self) -> str:
        """The same for the same cause: numbers and ids in it differ from run to run."""
        return hashlib.sha256(f"{self.about}\n{_NUMBERS.sub('#', self.cause)}".encode()).hexdigest()[:16]


class State(BaseModel):
    """What a sensor remembers in its cursor.

    Attributes:
        after: storage id of the last event that was read; None before the first tick.
        alerted: by incident key, when the last alert was and how many were left out since.
        unsent: texts that the webhook has not taken, with their time.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    after: int | None = None
    alerted: dict[str, tuple[float, int]] = Field(default_factory=dict, alias="said")
    unsent: list[tuple[float, str]] = Field(default_factory=list)

    @classmethod
    def of(cls, cursor: str | None) -> "State":
        """The state in a cursor."""
        return cls.model_validate_json(cursor or "{}")

    def cursor(self) -> str:
        """The cursor that holds this state."""
        return self.model_dump_json()


def alert_sensors() -> list[dg.SensorDefinition]:
    """The two sensors: failed runs of all jobs, and failed asset checks."""
    kinds = {
        "run_failure_alerts": (dg.DagsterEventType.RUN_FAILURE, failed_run, "Says which run failed, where and why."),
        "asset_check_alerts": (
            dg.DagsterEventType.ASSET_CHECK_EVALUATION,
            failed_check,
            "Says which asset check did not pass.",
        ),
    }
    return [_sensor(name, *kind) for name, kind in kinds.items()]


Describe = Callable[[dg.DagsterInstance, dg.EventLogEntry], Incident | None]


def _sensor(name: str, kind: dg.DagsterEventType, describe: Describe, description: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        description=f"{description} To the log, and to ETL_ALERT_WEBHOOK_URL if it is set.",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        settings, state, now = load_settings(), State.of(context.cursor), time.time()
        incidents = []
        for record in news(context.instance, kind, state.after, now=now):
            state.after = record.storage_id
            incident = describe(context.instance, record.event_log_entry)
            incidents += [incident] if incident else []
        redact = redactor(settings)
        texts = [redact(text) for text in due_texts(incidents, state, now=now)]
        for text in texts:
            _log.error("alert: %s", text)
        deliver(texts, state, settings.etl_alert_webhook_url, now=now)
        return dg.SensorResult(
            skip_reason=dg.SkipReason("; ".join(texts) if texts else "nothing new has failed"), cursor=state.cursor()
        )

    return alerts


def news(
    instance: dg.DagsterInstance, kind: dg.DagsterEventType, after: int | None, *, now: float
) -> Sequence[dg.EventLogRecord]:
    """The events of a kind since the last tick, the oldest first."""
    wanted = dg.EventRecordsFilter(
        event_type=kind, after_cursor=after, after_timestamp=now - FIRST_LOOK_BACK_S if after is None else None
    )
    # The method of the base class: that of the SQLite storage asks run by run, which has no order across runs.
    # Brings Alembic along, which loading the definitions does without.
    from dagster._core.storage.event_log import SqlEventLogStorage

    return SqlEventLogStorage.get_event_records(
        instance.event_log_storage,  # type: ignore[arg-type]
        wanted,
        limit=EVENTS_PER_TICK,
        ascending=True,
    )


def failed_run(instance: dg.DagsterInstance, event: dg.EventLogEntry) -> Incident:
    """The incident of a run: its job, the steps that failed, and the cause of the first."""
    failures = instance.get_records_for_run(event.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    steps = [record.event_log_entry.step_key or "?" for record in failures]
    cause = _root_cause(failures[0].event_log_entry) if failures else _one_line(event.get_dagster_event().message)
    job = event.job_name or "a job"
    where = f" in {', '.join(dict.fromkeys(steps))}" if steps else ""
    return Incident(f"job {job}{where}", cause, f"run {event.run_id[:8]} of {job} failed{where}: {cause}")


def _root_cause(entry: dg.EventLogEntry) -> str:
    data = entry.get_dagster_event().step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return _one_line(data.user_failure_data.description)
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return _one_line(error.message if error else "unknown")


def failed_check(_: dg.DagsterInstance, event: dg.EventLogEntry) -> Incident | None:
    """The incident of an asset check; None if it passed. Of its metadata the numbers are quoted."""
    evaluation = event.get_dagster_event().asset_check_evaluation_data
    if evaluation.passed:
        return None
    about = f"check {evaluation.check_name} of {evaluation.asset_key.to_user_string()}"
    partition = f", partition {evaluation.partition}" if evaluation.partition else ""
    verb = "failed" if evaluation.severity is dg.AssetCheckSeverity.ERROR else "warns"
    numbers = {name: value.value for name, value in evaluation.metadata.items()}
    details = [f"{name} {value}" for name, value in numbers.items() if isinstance(value, (int, float))]
    cause = "; ".join([*([_one_line(evaluation.description)] if evaluation.description else []), *details])
    text = f"{about} {verb} (run {event.run_id[:8]}{partition})" + (f": {cause}" if cause else "")
    return Incident(about, f"{verb} {evaluation.description or ''}", text)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def due_texts(incidents: Iterable[Incident], state: State, *, now: float) -> list[str]:
    """The alerts that are due: one an hour for each cause, in the words of its first incident. Records them in the state."""
    texts = []
    for incident in incidents:
        at, more = state.alerted.get(incident.key, (None, 0))
        if at is not None and now - at < QUIET_S:
            state.alerted[incident.key] = (at, more + 1)
            continue
        texts.append(incident.text + (f" ({more} more like it since the last alert)" if more else ""))
        state.alerted[incident.key] = (now, 0)
    # A count of what was left out is kept for a day, for the next alert of the same cause.
    state.alerted = {
        key: (at, more) for key, (at, more) in state.alerted.items() if now - at < (24 * QUIET_S if more else QUIET_S)
    }
    return texts


def redactor(settings: Settings) -> Callable[[str], str]:
    """Takes every secret of the settings of all systems, and credentials of any URL, out of a text; then cuts it."""
    hide = Redactor(registry.secrets(settings))

    def redact(text: str) -> str:
        clean = public_urls(hide(text))
        return clean if len(clean) <= MAX_CAUSE_CHARS else clean[: MAX_CAUSE_CHARS - 1] + "…"

    return redact


def deliver(texts: Sequence[str], state: State, webhook: SecretStr | None, *, now: float) -> None:
    """Post alerts, and those that could not be posted before, in one message. What fails stays in the state."""
    waiting = [*state.unsent, *((now, text) for text in texts)]
    state.unsent = []
    if webhook is None or not waiting:
        return
    reason = post(webhook, "\n".join(text for _, text in waiting))
    if reason is None:
        return
    _log.error("the alert webhook did not take %d alerts (%s); they are in the log above", len(waiting), reason)
    state.unsent = [(at, text) for at, text in waiting if now - at < UNSENT_S][-MAX_UNSENT:]
    if len(state.unsent) < len(waiting):
        _log.error("%d alerts are no longer offered to the webhook", len(waiting) - len(state.unsent))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def post(webhook: SecretStr, text: str) -> str | None:
    """Post a text as JSON; returns None, or why it failed, without the URL.

    urllib, and not the client for APIs: that one quotes base URLs and its library logs paths, which are the secret here.
    """
    url = webhook.get_secret_value()
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            return "ETL_ALERT_WEBHOOK_URL is no http or https URL"
        body = json.dumps({"text": text}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=POST_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code}"
    except urllib.error.URLError as error:
        return type(error.reason).__name__
    except (OSError, HTTPException, ValueError) as error:
        return type(error).__name__
