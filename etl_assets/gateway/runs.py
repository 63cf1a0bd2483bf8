"""The calls around runs: start any job, one run per idempotency key; list, follow and cancel runs."""

import asyncio
import hashlib
import json
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from etl_assets.core.registry import secrets
from etl_assets.core.sources.http.outcomes import Redactor
from etl_assets.gateway.graphql import OrchestratorDown
from etl_assets.gateway.orchestrator import (
    CancelPolicy,
    CancelRefused,
    FailureDocument,
    JobDocument,
    Orchestrator,
    Run,
    RunDocument,
    Status,
    StepDocument,
)
from etl_assets.gateway.problems import Problem, documented, unfit
from etl_assets.gateway.routing import Configured, Dagster, Data, only_known_parameters
from etl_assets.gateway.store import Busy, Store, StoreDown

KEY_TAG = "etl/idempotency_key"
BODY_TAG = "etl/idempotency_body"
LARGEST_PAGE = 200
LONGEST_WAIT_S = 30
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
# How long a request waits for another one with the same key, which is just starting the run.
KEY_TIMEOUT_S = 5.0
KEY_PAUSE_S = 0.05

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


class RunDetails(RunDocument):
    """A run with its steps, and why it failed if it did."""

    steps: list[StepDocument] = Field(description="Those that have begun, in this order")
    failures: list[FailureDocument] = Field(description="Empty unless the run failed")


class RunsPage(BaseModel):
    """Some runs, newest first."""

    runs: list[RunDocument] = Field(description="Newest first")
    next: str | None = Field(description="Where the next page is; null at the end")


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
LOCATION = {"Location": {"description": "Where to follow it", "schema": {"type": "string"}}}
CANCELED = {**RUN_EXAMPLE, "status": "CANCELED"}

router = APIRouter(prefix="/v1", tags=["runs"], dependencies=[Depends(only_known_parameters)])

RUN_ID_PATTERN = "^[A-Za-z0-9_-]{1,64}$"
RunId = Annotated[str, Path(pattern=RUN_ID_PATTERN, description="Id of a run", examples=[RUN_ID])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="A name for this request: sent again with it, the request starts nothing new and gives the same run",
        examples=["nightly-2023-12-31"],
    ),
]


def _no_run(run_id: str) -> Problem:
    return Problem(404, "Not Found", f"there is no run {run_id}: GET /v1/runs lists those that there are")


def _used(run_id: str) -> Problem:
    detail = f"this Idempotency-Key has started run {run_id} by another request: send a new key"
    return Problem(409, "Idempotency-Key used", detail)


def _in_use() -> Problem:
    detail = "another request with this Idempotency-Key is under way: send it again in a moment"
    return Problem(409, "Idempotency-Key in use", detail, {"Retry-After": "1"})


def _example(description: str, example: Any, **more: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}, **more}


def _answers(good: dict[int | str, dict[str, Any]], *problems: Problem) -> dict[int | str, dict[str, Any]]:
    return good | documented(*problems)


@router.get(
    "/jobs",
    summary="Jobs that can be started",
    responses=_answers(
        {200: _example("The jobs", JOBS_EXAMPLE)},
        unfit(("query.limit", "there is no such parameter: none can be given")),
        OrchestratorDown(),
    ),
)
async def list_jobs(dagster: Dagster) -> JobsDocument:
    """List the jobs of all code locations that are loaded."""
    return JobsDocument(jobs=list(await dagster.jobs()))


@router.post(
    "/runs",
    status_code=201,
    summary="Start a run",
    responses=_answers(
        {
            200: _example("The run that this Idempotency-Key has started before", RUN_EXAMPLE, model=RunDocument),
            201: _example("The run was started", RUN_EXAMPLE, headers=LOCATION),
        },
        _used(RUN_ID),
        _in_use(),
        unfit(("body.job", "Field required")),
        OrchestratorDown(),
        StoreDown("is not ready"),
    ),
)
async def start_run(
    requested: RunRequest, response: Response, dagster: Dagster, store: Data, key: IdempotencyKey = None
) -> RunDocument:
    """Start a run of any job.

    With an `Idempotency-Key` one run is started, however often the request is sent: safe to repeat when an answer was lost.
    """
    if key is None:
        run, started = await _launch(dagster, requested, {}), True
    else:
        try:
            run, started = await _found_or_launched(dagster, store, requested, key)
        except Busy:
            raise _in_use() from None
    response.status_code = 201 if started else 200
    response.headers["Location"] = f"/v1/runs/{run.run_id}"
    return run


@router.get(
    "/runs",
    summary="Runs, newest first",
    responses=_answers(
        {200: _example("A page of runs", PAGE_EXAMPLE)},
        unfit(("query.limit", f"Input should be less than or equal to {LARGEST_PAGE}")),
        OrchestratorDown(),
    ),
)
async def list_runs(
    request: Request,
    dagster: Dagster,
    job: Annotated[Name | None, Query(description="Of this job only")] = None,
    status: Annotated[list[Status], Query(max_length=10, description="With one of these statuses only")] = [],  # noqa: B006 -- never changed
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Runs on a page, at most")] = 50,
    after: Annotated[
        str | None, Query(pattern=RUN_ID_PATTERN, description="Id of the last run of the page before")
    ] = None,
) -> RunsPage:
    """List runs of all jobs, whoever started them, a page at a time; `next` leads on."""
    # One more than wanted tells whether there is a next page.
    found = await dagster.runs(job, statuses=status, limit=limit + 1, after=after)
    page, following = found[:limit], None
    if len(found) > limit:
        wanted = {"job": job, "status": status, "limit": limit, "after": page[-1].run_id}
        query = urlencode({name: value for name, value in wanted.items() if value}, doseq=True)
        following = f"{request.scope['path']}?{query}"
    return RunsPage(runs=list(page), next=following)


@router.get(
    "/runs/{run_id}",
    summary="A run with its steps",
    responses=_answers(
        {200: _example("The run", DETAILS_EXAMPLE)},
        _no_run(RUN_ID),
        unfit(("query.wait_s", f"Input should be less than or equal to {LONGEST_WAIT_S}")),
        OrchestratorDown(),
    ),
)
async def get_run(
    run_id: RunId,
    request: Request,
    dagster: Dagster,
    settings: Configured,
    wait_s: Annotated[
        float,
        Query(ge=0, le=LONGEST_WAIT_S, description="Answer when the run has ended, at the latest after this time"),
    ] = 0,
) -> RunDetails:
    """Follow a run: its steps so far, and why it failed if it did."""
    clock = asyncio.get_running_loop().time
    until, pause_s = clock() + wait_s, FIRST_PAUSE_S
    while run := await dagster.run(run_id):
        left_s = until - clock()
        if run.ended or left_s <= 0 or request.app.state.stopping:
            break
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
    else:
        raise _no_run(run_id)
    failures = await dagster.failures(run_id) if run.status == "FAILURE" else []
    if failures:
        redact = Redactor(secrets(settings))
        for failure in failures:
            failure.message = redact(failure.message)
    return RunDetails(**run.model_dump(), steps=await dagster.steps(run_id), failures=failures)


@router.post(
    "/runs/{run_id}/cancel",
    status_code=202,
    summary="Cancel a run",
    responses=_answers(
        {
            200: _example("The run was marked as canceled (`force`)", CANCELED, model=RunDocument),
            202: _example("The run was asked to end", {**RUN_EXAMPLE, "status": "CANCELING"}),
        },
        _no_run(RUN_ID),
        CancelRefused(f"Run {RUN_ID} could not be terminated due to having status SUCCESS."),
        unfit(("path.run_id", f"String should match pattern '{RUN_ID_PATTERN}'")),
        OrchestratorDown(),
    ),
)
async def cancel_run(
    run_id: RunId,
    response: Response,
    dagster: Dagster,
    force: Annotated[
        bool,
        Query(
            description="Mark the run as canceled at once, whether or not its process can be reached:"
            " for a run that was lost, or does not heed that it was asked to end"
        ),
    ] = False,
) -> RunDocument:
    """Ask a run to end; GET it to see when it has.

    A run whose process is gone cannot be asked, and stays as it is until it is marked with `force`.
    """
    policy = CancelPolicy.MARK if force else CancelPolicy.ASK
    run = await dagster.run(run_id) if await dagster.cancel(run_id, policy=policy) else None
    if run is None:
        raise _no_run(run_id)
    response.status_code = 200 if force else 202
    return run


@retry(
    retry=retry_if_exception_type(Busy),
    stop=stop_after_delay(KEY_TIMEOUT_S),
    wait=wait_fixed(KEY_PAUSE_S),
    reraise=True,
)
async def _found_or_launched(dagster: Orchestrator, store: Store, requested: RunRequest, key: str) -> tuple[Run, bool]:
    """The run of this key, and whether it was started just now.

    Raises:
        Busy: if another request that has the key does not come to an end.
        Problem: if the key belongs to another request.
    """
    wanted = requested.fingerprint()
    async with store.exclusive(f"runs/{key}") as connection:
        with connection.deadline_paused():
            for run in await dagster.runs(tags={KEY_TAG: key}, limit=1):
                if run.tags.get(BODY_TAG, wanted) != wanted:
                    raise _used(run.run_id)
                return run, False
            return await _launch(dagster, requested, {KEY_TAG: key, BODY_TAG: wanted}), True


async def _launch(dagster: Orchestrator, requested: RunRequest, tags: dict[str, str]) -> Run:
    job, partition, run_config = requested.job, requested.partition, requested.run_config
    return await dagster.launch(job, partition=partition, tags={**requested.tags, **tags}, run_config=run_config)
