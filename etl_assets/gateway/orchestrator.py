"""Dagster as the gateway sees it: jobs, runs, and whether it is up, over GraphQL and within a time limit.

Every member of an answer's union has a stated outcome here: what the caller can put right is a `LaunchRefused` (422) or
`CancelRefused` (409), all else is `OrchestratorDown` (503), whose cause is in the log. No stack trace goes out.
"""

import asyncio
import contextlib
import functools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etl_assets.gateway import graphql
from etl_assets.gateway.documents import UNFINISHED, FailureDocument, Job, Run, StepDocument
from etl_assets.gateway.graphql import (
    FORCE,
    CancelPolicy,
    CancelRefused,
    Graphql,
    GraphqlFailed,
    LaunchRefused,
    OrchestratorDown,
    StillLoading,
    UnknownJob,
    expected,
)

TIMEOUT_S = 1.5
# A launch is sent only after Dagster has just answered; it writes a run and starts a process.
LAUNCH_TIMEOUT_S = 8.0
CALLS_AT_ONCE = 16
PAGE = 500
EVENT_PAGE = 1000
# A run whose process was killed without a word stays STARTED where nothing watches it. None lasts this long: it is the
# max_runtime_seconds of docker/dagster.yaml, after which Dagster itself gives a run up.
LONGEST_RUN_S = 21600
LAUNCH_TAG = "etl/launch"

log = logging.getLogger(__name__)


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
        self._graphql = Graphql(url)
        self._timeout_s = timeout_s
        self._launch_timeout_s = launch_timeout_s
        self._starting = starting
        self._threads = ThreadPoolExecutor(max_workers=CALLS_AT_ONCE, thread_name_prefix="dagster")

    def close(self) -> None:
        """Take no further calls; those under way end by themselves, in time."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def loading(self) -> bool:
        """Whether Dagster is starting or loads a code location, so that jobs may be missing.

        Raises:
            OrchestratorDown: if it does not answer and is not starting.
        """
        async with self._in_time():
            try:
                return any(entry["loadStatus"] == "LOADING" for entry in await self._locations())
            except StillLoading:
                return True

    async def jobs(self) -> list[Job]:
        """The jobs that can be started, by name; those of a location that cannot be loaded are missing."""
        async with self._in_time():
            return graphql.jobs_of(await self._locations())

    async def unfinished(self, job: str) -> list[Run]:
        """The runs that have not ended and are of this job, or materialise an asset of it, like an ad-hoc one.

        Those that were created more than `LONGEST_RUN_S` ago are taken for lost.

        Raises:
            UnknownJob, OrchestratorDown
        """
        async with self._in_time():
            found = await self._find(job)
            nodes = await self._assets(found)
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
        async with self._in_time():
            found = await self._find(job)
            config, partition_tags = await self._partition(found, partition)
            if run_config is not None:
                # Only what names ops can name them by their old names.
                config = graphql.with_op_names(run_config, await self._assets(found) if "ops" in run_config else ())
        # By this tag the run is found again when the answer to its launch is lost.
        sent = {**(tags or {}), **partition_tags, LAUNCH_TAG: uuid.uuid4().hex}
        selector = {"jobName": job, **{k: v for k, v in found.selector.items() if k != "pipelineName"}}
        params = {
            "selector": selector,
            "runConfigData": config,
            "executionMetadata": {"tags": graphql.as_tags(sent)},
        }
        try:
            async with self._in_time(self._launch_timeout_s):
                answer = await self._query(graphql.LAUNCH, timeout_s=self._launch_timeout_s, params=params)
        except OrchestratorDown as error:
            if isinstance(error.__cause__, GraphqlFailed) and not error.__cause__.outcome_unknown:
                raise
            return await self._launched_after_all(sent[LAUNCH_TAG])
        return self._run_of(graphql.launched_run(job, answer["launchRun"]))

    async def run(self, run_id: str) -> Run | None:
        """A run, or None if there is none of this id."""
        async with self._in_time():
            found = (await self._query(graphql.ONE_RUN, run=run_id))["runOrError"]
            if found["__typename"] == "RunNotFoundError":
                return None
            return self._run_of(expected(found, "Run"))

    async def steps(self, run_id: str) -> list[StepDocument]:
        """The steps of a run that have begun, in the order in which they did; none if there is no such run."""
        async with self._in_time():
            found = (await self._query(graphql.STEPS, run=run_id))["runOrError"]
            if found["__typename"] == "RunNotFoundError":
                return []
            steps = [graphql.step_of(stats) for stats in expected(found, "Run")["stepStats"]]
            return sorted(steps, key=lambda step: (step.started_at is None, step.started_at, step.key))

    async def failures(self, run_id: str) -> list[FailureDocument]:
        """Why a run failed, by step; what failed only because of a step is left out."""
        async with self._in_time():
            failures = [failure async for event in self._events(run_id) if (failure := graphql.failure_of(event))]
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
        async with self._in_time():
            wanted = {
                "pipelineName": job,
                "statuses": list(statuses) or None,
                "tags": graphql.as_tags(tags or {}) or None,
            }
            return [self._run_of(found) for found in await self._page(wanted, limit=limit, after=after)]

    async def cancel(self, run_id: str, *, policy: CancelPolicy = CancelPolicy.ASK) -> bool:
        """Have a run end; False if there is no such run.

        Raises:
            CancelRefused: if it has ended, or, with ASK, is being cancelled or cannot be reached.
            OrchestratorDown
        """
        wanted = {"run": run_id, "policy": policy}
        try:
            async with self._in_time(self._launch_timeout_s):
                answer = (await self._query(graphql.CANCEL, timeout_s=self._launch_timeout_s, **wanted))["terminateRun"]
        except OrchestratorDown:
            # Dagster fails as a whole where the server that held the process of the run is gone.
            run = await self.run(run_id)
            if run is None or run.ended or policy is not CancelPolicy.ASK:
                raise
            raise CancelRefused(f"Dagster could not reach the process of run {run_id}: {FORCE}") from None
        kind = answer["__typename"]
        if kind == "RunNotFoundError":
            return False
        if kind == "TerminateRunFailure":
            raise graphql.cancel_refused(answer, policy)
        expected(answer, "TerminateRunSuccess")
        return True

    @contextlib.asynccontextmanager
    async def _in_time(self, timeout_s: float | None = None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                yield
        except TimeoutError:
            raise StillLoading if self._starting() else OrchestratorDown("Dagster did not answer in time") from None

    async def _query(self, query: str, *, timeout_s: float | None = None, **variables: Any) -> dict[str, Any]:
        call = functools.partial(self._graphql.call, query, variables, timeout_s=timeout_s or self._timeout_s)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except GraphqlFailed as error:
            if self._starting():
                raise StillLoading from None
            log.warning("%s", error)
            raise OrchestratorDown from error

    def _run_of(self, found: Mapping[str, Any]) -> Run:
        return graphql.run_of(found, ui_url=self._graphql.base_url)

    async def _assets(self, job: Job) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = (await self._query(graphql.ASSETS, job=job.selector))["assetNodes"]
        return nodes

    async def _locations(self) -> list[dict[str, Any]]:
        workspace = (await self._query(graphql.LOCATIONS))["workspaceOrError"]
        entries: list[dict[str, Any]] = expected(workspace, "Workspace")["locationEntries"]
        return entries

    async def _find(self, name: str) -> Job:
        locations = await self._locations()
        jobs = graphql.jobs_of(locations)
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
                log.error("code location %s cannot be loaded: %s", entry["name"], graphql.first_line(broken["message"]))
                raise OrchestratorDown(f"the code location {entry['name']} cannot be loaded")
        known = ", ".join(job.name for job in jobs) or "none"
        raise UnknownJob(f"there is no job {name!r}: the jobs are {known}", errors=[("body.job", "unknown job")])

    async def _partition(self, job: Job, partition: str | None) -> tuple[Any, dict[str, str]]:
        """Run configuration and tags for a partition: Dagster itself launches also what does not exist."""
        if not job.partitioned:
            if partition is not None:
                raise LaunchRefused(f"{job.name} has no partitions: leave `partition` out")
            return {}, {}
        answer = (await self._query(graphql.PARTITION_KEYS, job=job.selector))["pipelineOrError"]
        keys = expected(answer, "Pipeline")["partitionKeysOrError"]["partitionKeys"]
        examples = graphql.examples_of(keys)
        if partition is None:
            raise LaunchRefused(f"{job.name} is partitioned: name a `partition`; {examples}")
        if partition not in keys:
            raise LaunchRefused(
                f"{job.name} has no partition {partition!r}; {examples}", errors=[("body.partition", "unknown")]
            )
        answer = (await self._query(graphql.PARTITION, job=job.selector, partition=partition))["pipelineOrError"]
        found = expected(answer, "Pipeline")["partition"]
        tags = expected(found["tagsOrError"], "PartitionTags")["results"]
        return expected(found["runConfigOrError"], "PartitionRunConfig")["yaml"], graphql.as_mapping(tags)

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

    async def _page(self, wanted: Mapping[str, Any], *, limit: int, after: str | None) -> list[dict[str, Any]]:
        given = {name: value for name, value in wanted.items() if value is not None}
        answer = (await self._query(graphql.RUNS, filter=given, limit=limit, after=after))["runsOrError"]
        results: list[dict[str, Any]] = expected(answer, "Runs")["results"]
        return results

    async def _events(self, run_id: str) -> AsyncIterator[dict[str, Any]]:
        after, more = None, True
        while more:
            answer = (await self._query(graphql.EVENTS, run=run_id, after=after, limit=EVENT_PAGE))["logsForRun"]
            page = expected(answer, "EventConnection")
            for event in page["events"]:
                yield event
            after, more = page["cursor"], page["hasMore"]
