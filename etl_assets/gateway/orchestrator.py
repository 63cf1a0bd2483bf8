"""Dagster as the gateway sees it: jobs, runs, and whether it is up, within a time limit.

Every member of an answer's union has a stated outcome here: what the caller can put right is a `LaunchRefused` (422) or
`CancelRefused` (409), all else is `OrchestratorDown` (503), whose cause is in the log. No stack trace goes out.
"""

import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

from etl_assets.gateway import graphql
from etl_assets.gateway.graphql import Graphql, OrchestratorDown, StillLoading, expected, first_line
from etl_assets.gateway.problems import Problem

TIMEOUT_S = 1.5
# A launch is sent only after Dagster has just answered; it writes a run and starts a process.
LAUNCH_TIMEOUT_S = 8.0
PAGE = 500
EVENT_PAGE = 1000
# A run whose process was killed without a word stays STARTED where nothing watches it. None lasts this long: it is the
# max_runtime_seconds of docker/dagster.yaml, after which Dagster itself gives a run up.
LONGEST_RUN_S = 21600
LAUNCH_TAG, PARTITION_TAG = "etl/launch", "dagster/partition"
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
MAX_EXAMPLES = 20
FORCE = "if its process is gone, cancel it with ?force=true"

Unfinished = Literal["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]
Ended = Literal["SUCCESS", "FAILURE", "CANCELED"]
Status = Literal[Unfinished, "MANAGED", "SUSPENDED", Ended]
UNFINISHED, ENDED = get_args(Unfinished), get_args(Ended)

log = logging.getLogger(__name__)


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


class LaunchRefused(Problem):
    """A run cannot be started as requested; the detail says what to change."""

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


class Orchestrator:
    """One Dagster.

    Args:
        url: of its GraphQL API.
        timeout_s: within which each method answers or raises OrchestratorDown; a launch may take longer after Dagster
            has answered.
        starting: whether a Dagster that does not answer is still starting.

    Raises:
        ConfigurationError: if the URL cannot be right.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        launch_timeout_s: float = LAUNCH_TIMEOUT_S,
        starting: Callable[[], bool] = lambda: False,
    ) -> None:
        self._query = Graphql(url, timeout_s=timeout_s, starting=starting)
        self._launch_timeout_s = launch_timeout_s

    async def loading(self) -> bool:
        """Whether Dagster is starting or loads a code location, so that jobs may be missing.

        Raises:
            OrchestratorDown: if it does not answer and is not starting.
        """
        try:
            async with self._query.in_time():
                return any(entry["loadStatus"] == "LOADING" for entry in await self._locations())
        except StillLoading:
            return True

    async def jobs(self) -> list[Job]:
        """The jobs that can be started, by name; those of a location that cannot be loaded are missing."""
        async with self._query.in_time():
            return _jobs_of(await self._locations())

    async def unfinished(self, job: str) -> list[Run]:
        """The runs that have not ended and are of this job, or materialise an asset of it, like an ad-hoc one.

        Those that were created more than `LONGEST_RUN_S` ago are taken for lost.

        Raises:
            UnknownJob, OrchestratorDown
        """
        async with self._query.in_time():
            nodes = await self._assets(await self._find(job))
            keys = {tuple(node["assetKey"]["path"]) for node in nodes}
            related = {job}.union(*(node["jobNames"] for node in nodes))
            return [run for name in sorted(related) async for run in self._touching(name, keys, whole=name == job)]

    async def launch(
        self,
        job: str,
        *,
        partition: str | None = None,
        tags: Mapping[str, str] | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> Run:
        """Start a run; exactly one is started, or none, unless OrchestratorDown says that this is not known.

        Args:
            partition: needed where the job is partitioned.
            run_config: None means that of the partition, or none; an op of an asset may be named by its asset's name alone.

        Raises:
            LaunchRefused: unknown job, missing or unknown partition, run configuration that does not fit.
            OrchestratorDown
        """
        async with self._query.in_time():
            found = await self._find(job)
            config, partition_tags = await self._partition(found, partition)
            if run_config is not None:
                # Only what names ops can name them by their old names.
                config = _with_op_names(run_config, await self._assets(found) if "ops" in run_config else ())
        # By this tag the run is found again when the answer to its launch is lost.
        sent = {**(tags or {}), **partition_tags, LAUNCH_TAG: uuid.uuid4().hex}
        selector = {"jobName": job, **{k: v for k, v in found.selector.items() if k != "pipelineName"}}
        metadata = {"tags": _as_tags(sent)}
        params = {"selector": selector, "runConfigData": config, "executionMetadata": metadata}
        try:
            answer = await self._mutated(f"{graphql.LAUNCH} {graphql.RUN}", params=params)
        except OrchestratorDown as error:
            if not error.outcome_unknown:
                raise
            return await self._launched_after_all(sent[LAUNCH_TAG])
        if answer.get("__typename") == "RunConfigValidationInvalid":
            errors = [(".".join(("body.run_config", *fault["path"])), fault["message"]) for fault in answer["errors"]]
            raise LaunchRefused(f"{job} does not take this run configuration: see errors", errors=errors)
        if answer.get("__typename") == "PipelineNotFoundError":
            raise UnknownJob(f"there is no job {job!r} any more: GET /v1/jobs lists those that there are")
        return self._run_of(expected(answer, "LaunchRunSuccess")["run"])

    async def run(self, run_id: str) -> Run | None:
        """A run, or None if there is none of this id."""
        found = await self._of_run(f"{graphql.ONE_RUN} {graphql.RUN}", run_id)
        return self._run_of(found) if found else None

    async def steps(self, run_id: str) -> list[StepDocument]:
        """The steps of a run that have begun, in the order in which they did; none if there is no such run."""
        found = await self._of_run(graphql.STEPS, run_id)
        steps = [
            StepDocument(key=of["stepKey"], status=of["status"], started_at=of["startTime"], ended_at=of["endTime"])
            for of in (found["stepStats"] if found else ())
        ]
        return sorted(steps, key=lambda step: (step.started_at is None, step.started_at, step.key))

    async def failures(self, run_id: str) -> list[FailureDocument]:
        """Why a run failed, by step; what failed only because of a step is left out."""
        async with self._query.in_time():
            failures = [failure async for event in self._events(run_id) if (failure := _failure_of(event))]
            return [failure for failure in failures if failure.step] or failures

    async def runs(
        self,
        job: str | None = None,
        *,
        statuses: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[Run]:
        """Runs, newest first; `after` is the id of the last run of the page before."""
        wanted = {"pipelineName": job, "statuses": list(statuses) or None, "tags": _as_tags(tags or {}) or None}
        async with self._query.in_time():
            return [self._run_of(found) for found in await self._page(wanted, limit=limit, after=after)]

    async def cancel(self, run_id: str, *, policy: CancelPolicy = CancelPolicy.ASK) -> bool:
        """Have a run end; False if there is no such run.

        Raises:
            CancelRefused: if it has ended, or, with ASK, is being cancelled or cannot be reached.
            OrchestratorDown
        """
        try:
            answer = await self._mutated(graphql.CANCEL, run=run_id, policy=policy)
        except OrchestratorDown:
            # Dagster fails as a whole where the server that held the process of the run is gone.
            run = await self.run(run_id)
            if run is None or run.ended or policy is not CancelPolicy.ASK:
                raise
            raise CancelRefused(f"Dagster could not reach the process of run {run_id}: {FORCE}") from None
        if answer["__typename"] == "RunNotFoundError":
            return False
        if answer["__typename"] == "TerminateRunFailure":
            reason = first_line(answer["message"])
            if policy is CancelPolicy.ASK and answer["run"]["status"] not in ENDED:
                reason = f"{reason.removesuffix('.')}: {FORCE}"
            raise CancelRefused(reason)
        expected(answer, "TerminateRunSuccess")
        return True

    # Calls

    async def _mutated(self, mutation: str, **variables: Any) -> Any:
        async with self._query.in_time(self._launch_timeout_s):
            return await self._query(mutation, timeout_s=self._launch_timeout_s, **variables)

    async def _of_run(self, query: str, run_id: str) -> Mapping[str, Any] | None:
        async with self._query.in_time():
            found = await self._query(query, run=run_id)
        return None if found["__typename"] == "RunNotFoundError" else expected(found, "Run")

    async def _assets(self, job: Job) -> Sequence[Mapping[str, Any]]:
        return await self._query(graphql.ASSETS, job=job.selector)

    async def _locations(self) -> Sequence[Mapping[str, Any]]:
        return expected(await self._query(graphql.LOCATIONS), "Workspace")["locationEntries"]

    async def _find(self, name: str) -> Job:
        locations = await self._locations()
        jobs = _jobs_of(locations)
        found = [job for job in jobs if job.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(job.location for job in found)
            raise LaunchRefused(f"several code locations have a job {name!r} ({places}): rename it in all but one")
        if any(entry["loadStatus"] == "LOADING" for entry in locations):
            raise StillLoading
        for entry in locations:
            broken = entry["locationOrLoadError"] or {}
            if broken.get("__typename") == "PythonError":
                log.error("code location %s cannot be loaded: %s", entry["name"], first_line(broken["message"]))
                raise OrchestratorDown(f"the code location {entry['name']} cannot be loaded")
        known = ", ".join(job.name for job in jobs) or "none"
        raise UnknownJob(f"there is no job {name!r}: the jobs are {known}", errors=[("body.job", "unknown job")])

    async def _partition(self, job: Job, partition: str | None) -> tuple[Any, dict[str, str]]:
        """Run configuration and tags for a partition; Dagster itself gives and launches also what does not exist."""
        if not job.partitioned:
            if partition is not None:
                raise LaunchRefused(f"{job.name} has no partitions: leave `partition` out")
            return {}, {}
        answer = await self._query(graphql.PARTITION, job=job.selector, partition=partition or "")
        found = expected(answer, "Pipeline")
        keys = found["partitionKeysOrError"]["partitionKeys"]
        if partition is None:
            raise LaunchRefused(f"{job.name} is partitioned: name a `partition`; {_examples_of(keys)}")
        if partition not in keys:
            unknown = f"{job.name} has no partition {partition!r}; {_examples_of(keys)}"
            raise LaunchRefused(unknown, errors=[("body.partition", "unknown")])
        config = expected(found["partition"]["runConfigOrError"], "PartitionRunConfig")["yaml"]
        tags = expected(found["partition"]["tagsOrError"], "PartitionTags")["results"]
        return config, _as_mapping(tags)

    async def _launched_after_all(self, launch: str) -> Run:
        """The run of a launch whose answer was lost."""
        with contextlib.suppress(OrchestratorDown):
            for run in await self.runs(tags={LAUNCH_TAG: launch}, limit=1):
                return run
        raise OrchestratorDown("Dagster did not say whether it has started the run", advice="look in GET /v1/runs")

    async def _touching(self, job: str, keys: set[tuple[str, ...]], *, whole: bool) -> AsyncIterator[Run]:
        """Unfinished runs of a job that touch these assets; all of its runs if it is the job itself (`whole`)."""
        wanted = {"pipelineName": job, "statuses": list(UNFINISHED), "createdAfter": time.time() - LONGEST_RUN_S}
        after = None
        while page := await self._page(wanted, limit=PAGE, after=after):
            for found in page:
                selected = found["assetSelection"]
                if whole or selected is None or keys & {tuple(key["path"]) for key in selected}:
                    yield self._run_of(found)
            if len(page) < PAGE:
                return
            after = page[-1]["runId"]

    async def _page(self, wanted: Mapping[str, Any], *, limit: int, after: str | None) -> Sequence[Mapping[str, Any]]:
        given = {name: value for name, value in wanted.items() if value is not None}
        return expected(
            await self._query(f"{graphql.RUNS} {graphql.RUN}", filter=given, limit=limit, after=after), "Runs"
        )["results"]

    async def _events(self, run_id: str) -> AsyncIterator[dict[str, Any]]:
        after, more = None, True
        while more:
            answer = await self._query(graphql.EVENTS, run=run_id, after=after, limit=EVENT_PAGE)
            page = expected(answer, "EventConnection")
            for event in page["events"]:
                yield event
            after, more = page["cursor"], page["hasMore"]

    def _run_of(self, found: Mapping[str, Any]) -> Run:
        """A run, from the fields of the fragment `run`."""
        tags = _as_mapping(found["tags"])
        partition = tags.get(PARTITION_TAG)
        if partition is None and RANGE_TAGS[0] in tags:
            partition = "...".join(tags.get(name, "") for name in RANGE_TAGS)
        return Run(
            run_id=found["runId"],
            job=found["jobName"],
            partition=partition,
            status=found["status"],
            created_at=found["creationTime"],
            started_at=found["startTime"],
            ended_at=found["endTime"],
            url=f"{self._query.base_url}/runs/{found['runId']}",
            tags=tags,
        )


def _jobs_of(locations: Iterable[Mapping[str, Any]]) -> list[Job]:
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


def _failure_of(event: Mapping[str, Any]) -> FailureDocument | None:
    """What an event says of a failure; None if it is about something else.

    The last error of the chain is the one that was raised in the step: those before it are Dagster's wrapping.
    """
    if event["__typename"] not in ("ExecutionStepFailureEvent", "RunFailureEvent"):
        return None
    error = event["error"] or {"message": event["message"], "errorChain": []}
    message = error["errorChain"][-1]["error"]["message"] if error["errorChain"] else error["message"]
    return FailureDocument(step=event.get("stepKey"), message=first_line(message))


def _with_op_names(run_config: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A run configuration whose ops are named as those of the job are.

    Asset keys have the name of their system (`experiments/users`, whose op is `experiments__users`); where a configuration
    names an op by its asset's name alone (`users`), and one asset of the job has that name, it means that asset's op.

    Args:
        run_config: as a caller gives it.
        nodes: the assets of the job, with `assetKey` and `opNames`.
    """
    ops = run_config.get("ops")
    if not isinstance(ops, Mapping):
        return dict(run_config)
    by_asset: dict[str, set[str]] = {}
    for node in nodes:
        by_asset.setdefault(node["assetKey"]["path"][-1], set()).update(node["opNames"])
    of_job = set().union(*by_asset.values())
    named = {}
    for name, config in ops.items():
        meant = by_asset.get(name, set())
        known = name in of_job or len(meant) != 1 or meant & ops.keys()
        named[name if known else next(iter(meant))] = config
    return {**run_config, "ops": named}


def _as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as GraphQL takes them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def _as_mapping(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Tags as GraphQL gives them."""
    return {tag["key"]: tag["value"] for tag in tags}


def _examples_of(keys: Sequence[str]) -> str:
    """What partitions there are: all of a few, the ends of many."""
    if not keys:
        return "there are none yet"
    if len(keys) <= MAX_EXAMPLES:
        return f"there are {', '.join(keys)}"
    return f"there are {len(keys)}, from {keys[0]} to {keys[-1]}"
