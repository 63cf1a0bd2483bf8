"""What Dagster's answers mean: its jobs and runs as the gateway knows them, and the failures that it may tell of.

Pure: nothing here asks Dagster.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from etl_assets.gateway.problems import Problem

RETRY_AFTER_S = 5
UNFINISHED = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
PARTITION_TAG = "dagster/partition"
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
MAX_MESSAGE_CHARS = 500
MAX_EXAMPLES = 20
FORCE = "if its process is gone, cancel it with ?force=true"
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")

log = logging.getLogger(__name__)


class OrchestratorDown(Problem):
    """Dagster does not do what was asked of it, for a reason that the caller cannot change.

    Args:
        what: what happened.
        advice: what to do.
        retry_after_s: when the same request may succeed; None if somebody must change something first.
    """

    def __init__(
        self,
        what: str = "Dagster does not answer",
        *,
        advice: str = "try again later; the log of the gateway says more",
        retry_after_s: int | None = RETRY_AFTER_S,
    ) -> None:
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        super().__init__(503, "Dagster unavailable", f"{what}: {advice}", headers)


class StillLoading(OrchestratorDown):
    """Dagster is starting, or a code location is being loaded."""

    def __init__(self) -> None:
        super().__init__("Dagster is still loading the code location", advice="try again in a moment", retry_after_s=2)


class LaunchRefused(Problem):
    """A run cannot be started as asked; the detail says what to change."""

    def __init__(self, detail: str, *, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(422, "Run refused", detail, errors=errors)


class UnknownJob(LaunchRefused):
    """There is no job of that name; the detail names those that there are."""


class CancelRefused(Problem):
    """A run cannot be cancelled, because it has ended or is being cancelled already."""

    def __init__(self, detail: str) -> None:
        super().__init__(409, "Run not cancelled", detail)


class CancelPolicy(StrEnum):
    """How a run is made to end, as GraphQL's TerminateRunPolicy."""

    ASK = "SAFE_TERMINATE"
    MARK = "MARK_AS_CANCELED_IMMEDIATELY"


@dataclass(frozen=True)
class Job:
    """A job that can be started, and where Dagster has it."""

    name: str
    description: str | None
    partitioned: bool
    location: str
    repository: str

    @property
    def selector(self) -> dict[str, str]:
        """As GraphQL's PipelineSelector."""
        return {
            "pipelineName": self.name,
            "repositoryName": self.repository,
            "repositoryLocationName": self.location,
        }


@dataclass(frozen=True)
class Run:
    """A run as Dagster tells of it; times are UTC, `status` is one of STATUSES."""

    run_id: str
    job: str
    partition: str | None
    status: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.status in ENDED


@dataclass(frozen=True)
class Step:
    """A step of a run; `status` is SUCCESS, FAILURE, SKIPPED, IN_PROGRESS, or None before it begins."""

    key: str
    status: str | None
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class Failure:
    """Why a run failed: the first line of what was raised in a step (None: outside of all steps)."""

    step: str | None
    message: str


def expected(answer: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The answer, if it is the member of its union that was hoped for.

    Raises:
        OrchestratorDown: if it is another one; what Dagster said of it is logged, on one line.
    """
    met = answer["__typename"]
    if met == kind:
        return answer
    log.warning("Dagster answered with %s: %s", met, first_line(answer.get("message") or ""))
    if met == "UnauthorizedError":
        raise OrchestratorDown(
            "Dagster lets the gateway change nothing",
            advice="start its webserver without --read-only",
            retry_after_s=None,
        )
    raise OrchestratorDown(f"Dagster failed ({met})")


def launched(job: str, answer: Mapping[str, Any]) -> "Run":
    """The run that was started.

    Raises:
        LaunchRefused: if the run configuration does not fit, or the job has just gone.
        OrchestratorDown: for all that is no fault of the caller's.
    """
    kind = answer["__typename"]
    if kind == "RunConfigValidationInvalid":
        errors = [(".".join(("body.run_config", *fault["path"])), fault["message"]) for fault in answer["errors"]]
        raise LaunchRefused(f"{job} does not take this run configuration: see errors", errors=errors)
    if kind == "PipelineNotFoundError":
        raise UnknownJob(f"there is no job {job!r} any more: GET /v1/jobs lists those that there are")
    return run_of(expected(answer, "LaunchRunSuccess")["run"])


def cancel_refused(failure: Mapping[str, Any], policy: CancelPolicy) -> CancelRefused:
    """Why a run was not made to end, with what there is left to do."""
    said = first_line(failure["message"])
    if policy is CancelPolicy.ASK and failure["run"]["status"] not in ENDED:
        return CancelRefused(f"{said.removesuffix('.')}: {FORCE}")
    return CancelRefused(said)


def jobs_of(locations: Iterable[Mapping[str, Any]]) -> list[Job]:
    """The jobs in the loaded ones of these locations, by name; without those that Dagster made itself."""
    jobs = [
        Job(
            name=job["name"],
            description=job["description"],
            partitioned=job["name"] in {each["pipelineName"] for each in repository["partitionSets"]},
            location=location["name"],
            repository=repository["name"],
        )
        for location in locations
        for repository in (location["locationOrLoadError"] or {}).get("repositories", ())
        for job in repository["jobs"]
        if not job["name"].startswith("__")
    ]
    return sorted(jobs, key=lambda job: (job.name, job.location))


def run_of(found: Mapping[str, Any]) -> Run:
    """A run, from the fields of the fragment `run`."""
    tags = as_mapping(found["tags"])
    partition = tags.get(PARTITION_TAG)
    if partition is None and RANGE_TAGS[0] in tags:
        partition = "...".join(tags.get(name, "") for name in RANGE_TAGS)
    created_at = _time(found["creationTime"])
    assert created_at is not None
    return Run(
        run_id=found["runId"],
        job=found["jobName"],
        partition=partition,
        status=found["status"],
        created_at=created_at,
        started_at=_time(found["startTime"]),
        ended_at=_time(found["endTime"]),
        tags=tags,
    )


def step_of(stats: Mapping[str, Any]) -> Step:
    """A step, from its statistics."""
    return Step(stats["stepKey"], stats["status"], _time(stats["startTime"]), _time(stats["endTime"]))


def failure_of(event: Mapping[str, Any]) -> Failure | None:
    """What an event says of a failure; None if it is about something else.

    The last error of the chain is the one that somebody raised: those before it are Dagster's wrapping.
    """
    if event["__typename"] not in ("ExecutionStepFailureEvent", "RunFailureEvent"):
        return None
    error = event["error"] or {"message": event["message"], "errorChain": []}
    message = error["errorChain"][-1]["error"]["message"] if error["errorChain"] else error["message"]
    return Failure(event.get("stepKey"), first_line(message))


def first_line(text: str) -> str:
    """The first line of a message, shortened, and without user and password of a URL in it."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = _CREDENTIALS.sub("***", line)
    return line if len(line) <= MAX_MESSAGE_CHARS else f"{line[: MAX_MESSAGE_CHARS - 1]}…"


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as GraphQL takes them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def as_mapping(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Tags as GraphQL gives them."""
    return {tag["key"]: tag["value"] for tag in tags}


def examples_of(keys: Sequence[str]) -> str:
    """What partitions there are: all of a few, the ends of many."""
    if not keys:
        return "there are none yet"
    if len(keys) <= MAX_EXAMPLES:
        return f"there are {', '.join(keys)}"
    return f"there are {len(keys)}, from {keys[0]} to {keys[-1]}"


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
