"""Jobs and runs: what the calls around them take and give, with an example each, and what Dagster tells of them."""

import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

RESERVED_TAGS = ("dagster/", ".dagster/", "etl/")
VISIBLE = r"^[^\x00-\x1f\x7f]+$"


def _not_reserved(tags: dict[str, str]) -> dict[str, str]:
    for name in tags:
        if name.startswith(RESERVED_TAGS):
            raise ValueError(f"tags that begin with {' or '.join(RESERVED_TAGS)} are not free: name another")
    return tags


def _storable(config: dict[str, Any] | None) -> dict[str, Any] | None:
    try:
        text = json.dumps(config, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (ValueError, RecursionError):
        raise ValueError("NaN, Infinity, half characters and endless nesting cannot be configured") from None
    if "\\u0000" in text:
        raise ValueError("the character NUL cannot be configured")
    return config


Name = Annotated[str, Field(min_length=1, max_length=255, pattern=VISIBLE)]
TagName = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)?$")]
TagValue = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Unfinished = Literal["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]
Ended = Literal["SUCCESS", "FAILURE", "CANCELED"]
Status = Literal[Unfinished, "MANAGED", "SUSPENDED", Ended]
UNFINISHED, ENDED = get_args(Unfinished), get_args(Ended)


class RunRequest(BaseModel):
    """A run to start."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"job": "experiments_job", "partition": "2023-12-31", "tags": {"team": "lab"}}]
        },
    )

    job: Name = Field(description="Job to run; GET /v1/jobs lists them")
    partition: Name | None = Field(None, description="Partition; needed where the job is partitioned")
    tags: Annotated[dict[TagName, TagValue], AfterValidator(_not_reserved)] = Field(
        default_factory=dict, max_length=20, description="Tags of the run"
    )
    run_config: Annotated[dict[str, Any] | None, AfterValidator(_storable)] = Field(
        None, description="Dagster's run configuration; without it the job's own"
    )

    def fingerprint(self) -> str:
        """The same for the same request, however its body was written."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


class RunDocument(BaseModel):
    """A run."""

    run_id: str = Field(description="Dagster's id of the run")
    job: str = Field(description="Its job; `__ASSET_JOB` if assets were picked in Dagster's UI")
    partition: str | None = Field(description="Its partition, `first...last` if it is for a range, null without one")
    status: Status = Field(description="As Dagster has it; SUCCESS, FAILURE and CANCELED are final")
    created_at: datetime = Field(description="When it was asked for, UTC")
    started_at: datetime | None = Field(description="When it began, UTC")
    ended_at: datetime | None = Field(description="When it ended, UTC")
    url: str = Field(description="Its page in Dagster's UI")


class Run(RunDocument):
    """A run with what the gateway needs of it beyond what it answers."""

    tags: dict[str, str] = Field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether its status is final."""
        return self.status in ENDED


class StepDocument(BaseModel):
    """A step of a run."""

    key: str = Field(description="Name of the step")
    status: Literal["SKIPPED", "SUCCESS", "FAILURE", "IN_PROGRESS"] | None = Field(description="Null before it begins")
    started_at: datetime | None = Field(description="UTC")
    ended_at: datetime | None = Field(description="UTC")


class FailureDocument(BaseModel):
    """Why a run failed."""

    step: str | None = Field(description="Step that failed; null if it was none")
    message: str = Field(description="First line of the error; the whole of it is in Dagster's UI")


class RunDetails(RunDocument):
    """A run with its steps, and why it failed if it did."""

    steps: list[StepDocument] = Field(description="Those that have begun, in this order")
    failures: list[FailureDocument] = Field(description="Empty unless the run failed")


class RunsPage(BaseModel):
    """Some runs, newest first."""

    runs: list[RunDocument] = Field(description="Newest first")
    next: str | None = Field(description="Where the next page is; null at the end")


class JobDocument(BaseModel):
    """A job that can be started."""

    name: str = Field(description="As POST /v1/runs takes it")
    description: str | None = Field(description="What it does")
    partitioned: bool = Field(description="Whether a run needs a partition")


class Job(JobDocument):
    """A job and where Dagster has it."""

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


class JobsDocument(BaseModel):
    """The jobs that can be started."""

    jobs: list[JobDocument] = Field(description="By name")


RUN_ID = "4f3c2a9d-5e6b-4c1f-8a7d-9e0b1c2d3e4f"
RUN_EXAMPLE = {
    "run_id": RUN_ID,
    "job": "experiments_job",
    "partition": "2023-12-31",
    "status": "STARTED",
    "created_at": "2024-01-01T02:00:00.250000Z",
    "started_at": "2024-01-01T02:00:02.125000Z",
    "ended_at": None,
    "url": f"http://127.0.0.1:3000/runs/{RUN_ID}",
}
DETAILS_EXAMPLE = {
    **RUN_EXAMPLE,
    "status": "FAILURE",
    "ended_at": "2024-01-01T02:00:03.500000Z",
    "steps": [
        {
            "key": "experiments__users",
            "status": "FAILURE",
            "started_at": "2024-01-01T02:00:02.500000Z",
            "ended_at": "2024-01-01T02:00:03.250000Z",
        }
    ],
    "failures": [{"step": "experiments__users", "message": "users.csv has no column signup_date"}],
}
PAGE_EXAMPLE = {"runs": [RUN_EXAMPLE], "next": f"/v1/runs?limit=1&after={RUN_ID}"}
JOBS_EXAMPLE = {"jobs": [{"name": "experiments_job", "description": "Loads the three files.", "partitioned": True}]}
